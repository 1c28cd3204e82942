"""The watch of each model: started, restarted when its settings change, stopped."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from smdaemon.config import ModelSettings
from smdaemon.daemon.intake import Intake
from smdaemon.errors import EnvironmentFault
from smdaemon.jobs.retry import delay
from smdaemon.log import get_logger
from smdaemon.watch.watcher import Drop, Watcher, WatchSpec, WatchState

_log = get_logger(__name__)


@dataclass(frozen=True)
class _Watch:
    spec: WatchSpec
    watcher: Watcher
    scope: trio.CancelScope


class Watches:
    """All watches; they run in `nursery` and report to `intake`."""

    def __init__(self, intake: Intake, nursery: trio.Nursery) -> None:
        self._intake = intake
        self._nursery = nursery
        self._watches: dict[str, _Watch] = {}

    def state_of(self, model: str) -> WatchState | None:
        """The state of that model's watch; None while it has none."""
        watch = self._watches.get(model)
        return None if watch is None else watch.watcher.state

    async def apply(self, models: Iterable[ModelSettings]) -> None:
        """Watch what these settings say: start what is new, restart what changed, stop what is gone."""
        wanted = {model.name: _spec_of(model) for model in models}
        for name, watch in list(self._watches.items()):
            if wanted.get(name) != watch.spec:
                watch.scope.cancel()
                del self._watches[name]
        for name, spec in wanted.items():
            if name not in self._watches:
                watch = _Watch(spec, Watcher(spec, self._reporter(name)), trio.CancelScope())
                self._watches[name] = watch
                await self._nursery.start(self._run, watch)

    def rescan(self) -> None:
        """Look at everything again, soon."""
        for watch in self._watches.values():
            watch.watcher.request_rescan()

    def stop(self) -> None:
        """Take nothing more."""
        for watch in self._watches.values():
            watch.scope.cancel()
        self._watches.clear()

    async def _run(self, watch: _Watch, *, task_status: trio.TaskStatus[None]) -> None:
        with watch.scope:
            await watch.watcher.run(task_status=task_status)

    def _reporter(self, model: str) -> "_Reporter":
        return _Reporter(self._intake, model)


class _Reporter:
    """Hands a model's drops to the intake; a journal that cannot write for the moment makes it wait, not lose the drop."""

    def __init__(self, intake: Intake, model: str) -> None:
        self._intake = intake
        self._model = model
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    async def __call__(self, drop: Drop) -> None:
        tries = 0
        while True:
            try:
                return await self._intake.drop(self._model, drop)
            except EnvironmentFault as refused:
                if not refused.retryable:
                    raise
                tries += 1
                _log.error("drop not accepted yet", path=str(drop.path), code=refused.code, reason=refused.message)
                await trio.sleep(delay(tries, self._rng))


def _spec_of(model: ModelSettings) -> WatchSpec:
    return WatchSpec(
        root=Path(model.watch),
        recursive=model.recursive,
        format=model.format,
        method=model.watch_method,
        quiet_seconds=model.quiet_seconds,
        poll_seconds=model.poll_seconds,
        rescan_seconds=model.rescan_seconds,
    )
