"""The watch of each model: started, restarted when its settings change, stopped."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import trio

from smdaemon.daemon.intake import Intake, UnreadableError
from smdaemon.errors import EnvironmentFault
from smdaemon.jobs.retry import LONGEST_SECONDS, delay
from smdaemon.log import get_logger
from smdaemon.settings import ModelSettings
from smdaemon.watch.watcher import Drop, NotTakenError, Watcher, WatchSpec, WatchState

_log = get_logger(__name__)
# Nobody waits longer for a watch to have looked; from then on it is degraded.
PATIENCE_SECONDS = 60.0
# A drop that could not be read is reported again long before this is over, unless it is gone.
_TRIES_KEPT_SECONDS = 4 * LONGEST_SECONDS


class _Watch:
    """One model's watch. `looked` is set once everything that lay there has been reported, or the watch was stopped."""

    def __init__(self, spec: WatchSpec, on_drop: str, reporter: "_Reporter", on_looked: Callable[[], None]) -> None:
        self.spec = spec
        self.on_drop = on_drop
        self.watcher = Watcher(spec, reporter, on_state=reporter.tell)
        self._reporter = reporter
        self._on_looked = on_looked
        self.scope = trio.CancelScope()
        self.looked = trio.Event()
        self._began = trio.current_time()

    @property
    def state(self) -> WatchState:
        """The watcher's state; degraded, too, where it should have looked by now, or the journal cannot take what it reports."""
        state = self.watcher.state
        if self._reporter.refused is not None:
            return replace(state, health="degraded", error=self._reporter.refused)
        if self.looked.is_set() or state.error is not None or trio.current_time() < self._began + PATIENCE_SECONDS:
            return state
        message = f"what lies in {str(self.spec.root)!r} is not known yet; exports of the model wait for that"
        return replace(state, health="degraded", error=EnvironmentFault("directory-slow", message, retryable=True))

    def started(self, _value: None = None) -> None:
        """The watcher has looked: its way to say so, in place of trio's, which a stopped watch would leave unanswered."""
        self.looked.set()
        self._on_looked()


class Watches:
    """All watches; they run in `nursery` and report to `intake`. `on_looked` is called when one has looked at its backlog."""

    def __init__(self, intake: Intake, nursery: trio.Nursery, on_looked: Callable[[], None]) -> None:
        self._intake = intake
        self._nursery = nursery
        self._on_looked = on_looked
        self._watches: dict[str, _Watch] = {}
        # once stopped, by name: those that had looked by then
        self._had_looked: set[str] = set()

    def state_of(self, model: str) -> WatchState | None:
        """The state of that model's watch; None while it has none."""
        watch = self._watches.get(model)
        return None if watch is None else watch.state

    def has_looked(self, model: str) -> bool:
        """Whether all that lay in the model's directory is known: before that nobody can say which drop is the latest."""
        watch = self._watches.get(model)
        return model in self._had_looked or (watch is not None and watch.looked.is_set())

    async def apply(self, models: Iterable[ModelSettings]) -> None:
        """Watch what these settings say: start what is new, restart what changed, stop what is gone.

        Returns when every watch has looked once.
        """
        # what a watch has reported is not reported again: where that was ignored, it begins anew
        wanted = {model.name: (_spec_of(model), model.on_drop) for model in models}
        for name, watch in list(self._watches.items()):
            if wanted.get(name) != (watch.spec, watch.on_drop):
                watch.scope.cancel()
                del self._watches[name]
        for name, (spec, on_drop) in wanted.items():
            if name not in self._watches:
                watch = self._watches[name] = _Watch(spec, on_drop, _Reporter(self._intake, name), self._on_looked)
                self._nursery.start_soon(self._run, watch)
        for watch in list(self._watches.values()):
            await watch.looked.wait()

    def rescan(self) -> None:
        """Look at everything again, soon."""
        for watch in self._watches.values():
            watch.watcher.request_rescan()

    def stop(self) -> None:
        """Take nothing more; what is known by now is all that there will be."""
        self._had_looked = {name for name, watch in self._watches.items() if watch.looked.is_set()}
        for watch in self._watches.values():
            watch.scope.cancel()
        self._watches.clear()

    async def _run(self, watch: _Watch) -> None:
        try:
            with watch.scope:
                await watch.watcher.run(task_status=watch)
        finally:
            watch.looked.set()


class _Reporter:
    """Hands a model's drops to the intake; none is lost.

    A journal that cannot write for the moment makes them wait. A drop that cannot be read for the moment waits alone.
    """

    def __init__(self, intake: Intake, model: str) -> None:
        self._intake = intake
        self._model = model
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        # how often each drop that cannot be read was tried, and when last; the one that waits longest is the first
        self._tries: dict[Path, tuple[int, float]] = {}
        self.refused: EnvironmentFault | None = None
        """Why the journal takes no drop for the moment."""
        self._told: tuple[str, str] | None = None

    async def __call__(self, drop: Drop) -> None:
        tries = 0
        while True:
            try:
                await self._intake.drop(self._model, drop)
            except UnreadableError as refused:
                self.refused = None
                _say(drop, refused.fault)
                raise NotTakenError(delay(self._tried(drop.path), self._rng)) from refused
            except EnvironmentFault as refused:
                if not refused.retryable:
                    raise
                tries += 1
                _say(drop, refused)
                self.refused = refused
                await trio.sleep(delay(tries, self._rng))
            else:
                self._tries.pop(drop.path, None)
                self.refused = None
                return

    def _tried(self, path: Path) -> int:
        """Count one more attempt at a drop that cannot be read; those that are gone are forgotten."""
        now = trio.current_time()
        times, _ = self._tries.pop(path, (0, now))
        self._tries[path] = times + 1, now
        while self._tries[oldest := next(iter(self._tries))][1] + _TRIES_KEPT_SECONDS < now:
            del self._tries[oldest]
        return times + 1

    def tell(self, state: WatchState) -> None:
        """Log it once when the watch is not well, and when it is well again."""
        error = state.error
        now = None if error is None else (error.code, error.message)
        if now == self._told:
            return
        self._told = now
        if error is None:
            _log.info("watch goes on", model=self._model, method=state.method)
        else:
            _log.warning(
                "watch degraded", model=self._model, code=error.code, reason=error.message, remedy=error.remedy
            )


def _say(drop: Drop, refused: EnvironmentFault) -> None:
    _log.error("drop not accepted yet", path=str(drop.path), code=refused.code, reason=refused.message)


def _spec_of(model: ModelSettings) -> WatchSpec:
    return WatchSpec(
        root=Path(model.watch),
        recursive=model.recursive,
        follow_links=model.follow_links,
        format=model.format,
        method=model.watch_method,
        quiet_seconds=model.quiet_seconds,
        poll_seconds=model.poll_seconds,
        rescan_seconds=model.rescan_seconds,
    )
