"""Keeps TensorFlow Serving's model config file up to date: which versions it is to load, and which labels they bear.

It is looked at after each publication, removal, pin and rollback, at the start and at a reload, and written only where it would say
something else. What keeps it from being written is shown in the status and tried again; exports do not wait for it.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trio

from smdaemon.daemon.versions import Versions, previous
from smdaemon.durable import write_atomically
from smdaemon.errors import EnvironmentFault, SmdaemonError, fault
from smdaemon.jobs.job import Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.messages import error_message, set_time
from smdaemon.jobs.states import State
from smdaemon.log import get_logger
from smdaemon.proto import v1
from smdaemon.publish.presence import Looked
from smdaemon.publish.serving_config import Entry, updated
from smdaemon.settings import Config, LabelRule, ModelSettings, ServingSettings

_log = get_logger(__name__)
_AGAIN_SECONDS = 30.0
# of a look or a write, which take milliseconds
_HANG_SECONDS = 60.0


class Serving:
    """A service; `run` until cancelled."""

    def __init__(self, ledger: Ledger, config: Callable[[], Config], versions: Versions) -> None:
        self.problem: SmdaemonError | None = None
        self.current_at: float | None = None
        self._config = config
        self._versions = versions
        # by model, what is to be said of it; None where there is nothing to serve
        self._entries: dict[str, Entry | None] = {}
        # models of which something may have changed since
        self._due: set[str] = set()
        self._woken = trio.Event()
        self._settled = trio.Event()
        # one write at a time, also where one was given up that its file system has not let go of
        self._writing = trio.CapacityLimiter(1)
        ledger.observe(self._saw)
        versions.changed.append(self._wake)

    async def run(self) -> None:
        """Write the file now and whenever it is to say something else."""
        while True:
            self._woken = trio.Event()
            await self._look()
            if not self._woken.is_set():
                self._settled.set()
            with trio.move_on_after(math.inf if self.problem is None else _AGAIN_SECONDS):
                await self._woken.wait()

    def reload(self) -> None:
        """The configuration may be another."""
        self._wake(*(model.name for model in self._config().model))

    async def settle(self) -> None:
        """Wait until the file says what is so, or cannot be written."""
        await self._settled.wait()

    def status(self) -> v1.ServingConfig | None:
        """The file's state; None where none is asked for."""
        settings = self._config().serving
        if settings is None:
            return None
        message = v1.ServingConfig(config_file=settings.config_file)
        if self.current_at is not None:
            set_time(message.current_at, self.current_at)
        if self.problem is not None:
            message.error.CopyFrom(error_message(self.problem))
        return message

    def _saw(self, move: Moved) -> None:
        # a rollback that failed has said of a version that it is not good
        if move.job.state is State.PUBLISHED or (move.job.state is State.FAILED and move.job.restores is not None):
            self._wake(move.job.model)

    def _wake(self, *models: str) -> None:
        self._due.update(models)
        if self._settled.is_set():  # else who waits for it would wait for ever
            self._settled = trio.Event()
        self._woken.set()

    async def _look(self) -> None:
        config = self._config()
        if config.serving is None:
            self.problem = self.current_at = None
            return
        problem: SmdaemonError | None = None
        for model in config.model:
            if model.name in self._entries and model.name not in self._due:
                continue
            self._due.discard(model.name)  # before the look: what changes during it is looked at once more
            try:
                looked = await self._looked(model, config.serving)
            except SmdaemonError as error:  # what the file says of this model stays
                self._due.add(model.name)
                problem = error
            else:
                self._entries[model.name] = _entry(model, config.serving, looked)
        told = {model.name: self._entries[model.name] for model in config.model if model.name in self._entries}
        try:
            written = await self._write(Path(config.serving.config_file), told)
        except SmdaemonError as error:
            problem = error
        else:
            if written:
                _log.info("serving config written", path=config.serving.config_file, models=sorted(told))
        self._tell(problem, config.serving)

    async def _looked(self, model: ModelSettings, settings: ServingSettings) -> Looked:
        if not settings.labels:  # the entry is the same whatever lies there
            return Looked()
        with trio.move_on_after(_HANG_SECONDS):
            looked = await self._versions.looked(model.name)
            if looked.lost:
                message = f"no version is left in the publish directory of {model.name!r}"
                remedy = "mount it; where the versions were removed on purpose, publish another one"
                raise EnvironmentFault("directory-missing", message, remedy=remedy, retryable=True)
            return looked
        # else one file system that hangs would keep the others' models from the file
        raise _hangs(f"the publish directory of {model.name!r}")

    async def _write(self, path: Path, told: Mapping[str, Entry | None]) -> bool:
        with trio.move_on_after(_HANG_SECONDS):
            # a stop does not wait for a file system that hangs: the next start goes on
            return await trio.to_thread.run_sync(_update, path, told, abandon_on_cancel=True, limiter=self._writing)
        raise _hangs(f"the directory of {str(path)!r}")

    def _tell(self, problem: SmdaemonError | None, settings: ServingSettings) -> None:
        if problem is None:
            self.current_at = time.time()
        elif self.problem is None or (self.problem.code, str(self.problem)) != (problem.code, str(problem)):
            fields = {"path": settings.config_file, "code": problem.code, "reason": problem.message}
            _log.error("serving config not written; trying again", **fields, remedy=problem.remedy)
        self.problem = problem


def _hangs(where: str) -> EnvironmentFault:
    return EnvironmentFault("io-error", f"{where} gave no answer within {_HANG_SECONDS:g} s", retryable=True)


def _entry(model: ModelSettings, settings: ServingSettings, looked: Looked) -> Entry | None:
    """What Serving is to be told of a model; None where no version is listed."""
    labels: dict[str, int] = {}
    for label, rule in settings.labels.items():
        if (version := labelled(looked, rule)) is not None:
            labels[label] = version
    if settings.versions == "listed":
        listed = tuple(sorted(set(labels.values())))
        return Entry(model.name, model.publish, listed=listed, labels=labels) if listed else None
    return Entry(model.name, model.publish, every=settings.versions == "all", labels=labels)


def labelled(looked: Looked, rule: LabelRule) -> int | None:
    """The version that a rule names; None where there is none."""
    match rule:
        case "newest":  # whoever published it: that is what Serving takes for the latest
            return max(looked.numbers, default=None)
        case "previous":
            return previous(looked)
        case "pinned":
            return max((version.version for version in looked.present if version.pinned), default=None)


def _update(path: Path, told: Mapping[str, Entry | None]) -> bool:
    """Bring the file up to date; whether it had to be written. Raises ConfigError `serving-config-invalid`, EnvironmentFault."""
    entries: Sequence[Entry] = [entry for entry in told.values() if entry is not None]
    try:
        while True:
            text = _read(path)
            made = updated(text, entries, told.keys())
            if made is None:
                return False
            if _read(path) == text:  # else somebody else has just written it
                write_atomically(path, made)
                return True
    except OSError as error:
        raise fault(error, "writing the model config file of TensorFlow Serving") from error


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
