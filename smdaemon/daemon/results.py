"""Writes the result files of requests as their jobs end, and after a restart those that a crash kept from being written."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from smdaemon.errors import DropError, SmdaemonError, fault
from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.results import has_result, write_result
from smdaemon.jobs.states import TERMINAL
from smdaemon.log import get_logger
from smdaemon.paths import is_directory
from smdaemon.settings import Config

_log = get_logger(__name__)
FINISH_SECONDS = 5.0
_LOOK_BACK = 1000  # jobs; a crash leaves at most as many results unwritten as exports were running


class ResultWriter:
    """A service: `run` until `close`, then it ends once all is written.

    Results of one directory are written one after the other, those of several beside each other: one that hangs holds up its own.
    """

    def __init__(self, ledger: Ledger, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._config = config
        self._ended, self._to_write = trio.open_memory_channel[Job](math.inf)
        self.finished = trio.Event()
        # by directory, what is still to be written there
        self._queues: dict[Path, deque[tuple[Callable[[Job, Path | None], None], Job]]] = {}
        # one for each directory: none of those that others need
        self._threads = trio.CapacityLimiter(math.inf)
        ledger.observe(self._saw)

    def close(self) -> None:
        """Write what is still to be written, then end."""
        self._ended.close()

    async def finish(self) -> None:
        """Close, and wait until all is written; not for a file system that does not answer: the next start writes what is left."""
        self.close()
        with trio.move_on_after(FINISH_SECONDS):
            await self.finished.wait()

    async def run(self) -> None:
        """Write result files until closed."""
        async with trio.open_nursery() as nursery:
            for job in _last_to_end(await self._ledger.page(limit=_LOOK_BACK)):
                self._put(_write_missing, job, nursery)
            async for job in self._to_write:
                self._put(_write, job, nursery)
        self.finished.set()

    def _put(self, write: Callable[[Job, Path | None], None], job: Job, nursery: trio.Nursery) -> None:
        folder = Path(job.result_path).parent
        if folder not in self._queues:
            self._queues[folder] = deque()
            nursery.start_soon(self._work, folder)
        self._queues[folder].append((write, job))

    async def _work(self, folder: Path) -> None:
        queue = self._queues[folder]
        while queue:
            write, job = queue.popleft()
            root = self._root_of(job)
            # a stop waits for it only so long: what it leaves is written by the next start
            await trio.to_thread.run_sync(write, job, root, limiter=self._threads, abandon_on_cancel=True)
        del self._queues[folder]

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


def _last_to_end(jobs: Iterable[Job]) -> list[Job]:
    """Of the jobs of each result file the one that ended last: a request may be changed and asked again."""
    last: dict[str, Job] = {}
    for job in sorted(jobs, key=lambda job: (job.updated_at, job.id)):
        if job.result_path and job.state in TERMINAL:
            last[job.result_path] = job
    return list(last.values())


def _write_missing(job: Job, root: Path | None) -> None:
    with _telling(job):
        if is_directory(Path(job.result_path).parent) and not has_result(job, root):
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
