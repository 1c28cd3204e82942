"""Writes the result files of requests as their jobs end, and after a restart those that a crash kept from being written."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from smdaemon.errors import DropError, SmdaemonError, fault
from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.results import write_result
from smdaemon.jobs.states import TERMINAL
from smdaemon.log import get_logger
from smdaemon.paths import is_directory, is_file
from smdaemon.settings import Config

_log = get_logger(__name__)
_LOOK_BACK = 1000  # jobs; a crash leaves at most as many results unwritten as exports were running


class ResultWriter:
    """A service: `run` until `close`, then it ends once all is written."""

    def __init__(self, ledger: Ledger, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._config = config
        self._ended, self._to_write = trio.open_memory_channel[Job](math.inf)
        self.finished = trio.Event()
        ledger.observe(self._saw)

    def close(self) -> None:
        """Write what is still to be written, then end."""
        self._ended.close()

    async def run(self) -> None:
        """Write result files until closed."""
        for job in await self._ledger.page(limit=_LOOK_BACK):
            if job.result_path and job.state in TERMINAL:
                await trio.to_thread.run_sync(_write_missing, job, self._root_of(job))
        async for job in self._to_write:
            await trio.to_thread.run_sync(_write, job, self._root_of(job))
        self.finished.set()

    def _root_of(self, job: Job) -> Path | None:
        """What the result is confined to: the watched directory that its request lies in; None where links in that are followed."""
        path = Path(job.result_path)
        for model in self._config().model:
            if path.is_relative_to(model.watch):
                return None if model.follow_links else Path(model.watch)
        return path.parent

    def _saw(self, move: Moved) -> None:
        if move.job.result_path and move.job.state in TERMINAL:
            with suppress(trio.ClosedResourceError):  # it ends with the daemon: the next start writes its result
                self._ended.send_nowait(move.job)


def _write_missing(job: Job, root: Path | None) -> None:
    result = Path(job.result_path)
    with _telling(job):
        if not is_file(result) and is_directory(result.parent):
            write_result(job, root)


def _write(job: Job, root: Path | None) -> None:
    with _telling(job):
        write_result(job, root)


@contextmanager
def _telling(job: Job) -> Iterator[None]:
    """What keeps one result from being written is told, and the next one is written."""
    try:
        yield
    except OSError as error:
        _say(job, fault(error, "writing the result file"))
    except DropError as error:
        _say(job, error)
    except Exception:  # noqa: BLE001 - a bug here would be met again at the next start: it costs one result
        _log.exception("internal error", job=job.id, path=job.result_path)


def _say(job: Job, refused: SmdaemonError) -> None:
    _log.warning("result not written", job=job.id, path=job.result_path, code=refused.code, reason=str(refused))
