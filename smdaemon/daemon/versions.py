"""The published versions of each model: retention after each commit, and what a person asks of them over the socket.

A version is removed by one rename while the model's lock is held; commits of the model hold it too, and so does the acceptance of a
rollback. So nothing is removed that has just been published or is about to be read. The files are deleted afterwards.
"""

import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from smdaemon.errors import ConfigError, EnvironmentFault
from smdaemon.jobs.job import Job, Moved, NewJob
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.messages import version_message
from smdaemon.jobs.states import ACTIVE, State
from smdaemon.log import get_logger
from smdaemon.proto import v1
from smdaemon.publish.local import LocalStore
from smdaemon.publish.presence import Looked, Standing, look
from smdaemon.publish.retention import Policy, Version, retained
from smdaemon.settings import Config, ModelSettings

_log = get_logger(__name__)
ROLLBACK_FORMAT = "saved-model"

# Why what is not simply there stays.
_KEPT_BY_STANDING = {
    Standing.CHANGED: "another directory has its number",
    Standing.MISSING: "it is not there",
    Standing.ELSEWHERE: "it is not in the model's publish directory",
    Standing.FOREIGN: "not published by this daemon",
}


class Versions:
    """A service; `run` until cancelled. `problems` has, by model, why its last removal failed."""

    def __init__(self, ledger: Ledger, config: Callable[[], Config], *, owner: str) -> None:
        self.problems: dict[str, EnvironmentFault] = {}
        # model, how many of its versions were removed; for whoever counts them
        self.observers: list[Callable[[str, int], None]] = []
        # model, of which a version was removed, pinned or unpinned
        self.changed: list[Callable[[str], None]] = []
        self._ledger = ledger
        self._config = config
        self._owner = owner
        self._locks: dict[str, trio.Lock] = {}
        # by directory: one look at a time, also where one was given up that its file system has not let go of
        self._looking: dict[str, trio.CapacityLimiter] = {}
        # models with something to do: whether retention is to be applied, or only hidden versions are to be deleted
        self._due: dict[str, bool] = {}
        self._at_work: set[str] = set()
        self._woken = trio.Event()
        ledger.observe(self._saw)

    def lock(self, model: str) -> trio.Lock:
        """Held by whoever publishes or removes a version of that model where it is published now."""
        settings = self._config().model_named(model)
        return self._locks.setdefault(settings.publish if settings else model, trio.Lock())

    async def run(self) -> None:
        """Delete what an earlier run has hidden, then apply the rules of each model after each of its commits."""
        for model in self._config().model:
            self._wake(model.name, apply=False)
        async with trio.open_nursery() as nursery:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                # a task for each: a file system that hangs holds up only what is published there
                for name in self._due.keys() - self._at_work:
                    self._at_work.add(name)
                    nursery.start_soon(self._work, name)

    async def _work(self, name: str) -> None:
        try:
            while name in self._due:
                await self._tidy(name, apply=self._due.pop(name))
        finally:
            self._at_work.discard(name)

    async def listed(self, name: str) -> v1.VersionList:
        """Every version of a model, newest first, with what retention would say of it. Raises ConfigError, EnvironmentFault."""
        model = self._model(name)
        async with self.lock(name):
            looked, kept = await self._decide(model)
        return v1.VersionList(model=name, versions=_messages(model, looked, kept))

    async def looked(self, name: str) -> Looked:
        """What is there of a model. Raises ConfigError, EnvironmentFault."""
        model = self._model(name)
        async with self.lock(name):
            looked, _ = await self._decide(model)
        return looked

    async def pin(self, name: str, version: int, *, pinned: bool) -> v1.Version:
        """Keep a version whatever the rules say, or no longer; ConfigError version-unknown."""
        model = self._model(name)
        export_dir = str(Path(model.publish) / str(version))
        async with self.lock(name):
            await self._ledger.pin_version(name, export_dir, pinned=pinned)
            self._tell_change(name)
            looked, kept = await self._decide(model)
        return next(_message(row, standing, kept) for row, standing in looked.rows if row.export_dir == export_dir)

    async def prune(self, name: str, *, dry_run: bool) -> v1.Pruned:
        """Apply the rules now, or say what that would do. Raises ConfigError, EnvironmentFault."""
        model = self._model(name)
        async with self.lock(name):
            looked, kept = await self._decide(model)
            going = _going(looked, kept)
            if not dry_run:
                await self._remove(model, looked, going)
                self._wake(name, apply=False)
        stays = [each for each in _messages(model, looked, kept) if each.kept_by]
        return v1.Pruned(model=name, dry_run=dry_run, removed=[each.version for each in reversed(going)], kept=stays)

    async def rollback(self, name: str, to: int | None) -> Job:
        """Accept a job that publishes an older version once more; without `to` the newest good one before the newest.

        Raises ConfigError: version-unknown, usage, request-duplicate; EnvironmentFault.
        """
        model = self._model(name)
        async with self.lock(name):
            open_jobs = self._ledger.open_jobs.values()
            for other in (job for job in open_jobs if job.model == name and job.restores is not None):
                message = f"job {other.id} rolls {name!r} back to version {other.restores} already"
                raise ConfigError("request-duplicate", message, remedy="wait for it, or cancel it")
            looked, _ = await self._decide(model)
            target = _older(model, looked, to)
            job = await self._ledger.accept(
                NewJob(
                    model=name,
                    origin="api",
                    source=str(Path(model.publish) / str(target)),
                    identity=f"rollback-{uuid.uuid4().hex}",
                    order=float(target),
                    format=ROLLBACK_FORMAT,
                    restores=target,
                )
            )
        assert job is not None  # no two have the same identity
        return job

    def _model(self, name: str) -> ModelSettings:
        model = self._config().model_named(name)
        if model is None:
            raise ConfigError("request-model-unknown", f"no model is called {name!r}")
        return model

    def _store(self, model: ModelSettings) -> LocalStore:
        return LocalStore(Path(model.publish), self._owner)

    def _saw(self, move: Moved) -> None:
        if move.job.state is State.PUBLISHED:
            self._wake(move.job.model, apply=True)

    def _wake(self, name: str, *, apply: bool) -> None:
        self._due[name] = apply or self._due.get(name, False)
        self._woken.set()

    async def _tidy(self, name: str, *, apply: bool) -> None:
        """Apply the rules of a model and delete what is hidden. What the machine refuses is told, and tried again at the next commit."""
        model = self._config().model_named(name)
        if model is None:
            return
        try:
            if apply and policy_of(model).has_rules:
                async with self.lock(name):
                    looked, kept = await self._decide(model)
                    await self._remove(model, looked, _going(looked, kept))
            # Hidden already: a stop of the daemon need not wait for it, the next start goes on with it.
            await trio.to_thread.run_sync(self._store(model).delete_hidden, abandon_on_cancel=True)
        except EnvironmentFault as fault:
            self._tell(name, fault)
        else:
            self.problems.pop(name, None)

    def _tell_change(self, name: str) -> None:
        for observer in self.changed:
            observer(name)

    def _tell(self, name: str, fault: EnvironmentFault) -> None:
        self.problems[name] = fault
        _log.warning("old versions not removed", model=name, code=fault.code, reason=fault.message)

    async def _decide(self, model: ModelSettings) -> tuple[Looked, dict[int, tuple[str, ...]]]:
        """What is there and why each of it stays; the lock is held."""
        rows = await self._ledger.versions(model.name)
        needed = [*_named_paths(self._config()), *self._read_paths(model)]
        one = self._looking.setdefault(model.publish, trio.CapacityLimiter(1))
        looked = await trio.to_thread.run_sync(
            look, self._store(model), rows, needed, abandon_on_cancel=True, limiter=one
        )
        if looked.adopted:
            await self._ledger.adopt_versions(model.name, looked.adopted)
        # after the last await: whoever holds the lock acts on the jobs as they are now
        held = looked.held | {
            job.version: f"job {job.id} publishes it"
            for job in self._ledger.open_jobs.values()
            if job.model == model.name and job.state in ACTIVE and job.version is not None
        }
        return looked, retained(looked.present, policy_of(model), held)

    def _read_paths(self, model: ModelSettings) -> list[tuple[str, str]]:
        """What open jobs read in the publish directory of a model: rollbacks its versions, exports of another model perhaps too."""
        return [
            (job.source, f"job {job.id} reads it")
            for job in self._ledger.open_jobs.values()
            if job.source.startswith(model.publish)
        ]

    async def _remove(self, model: ModelSettings, looked: Looked, going: list[Version]) -> None:
        """Hide what goes and note it; the lock is held. Raises the first EnvironmentFault, after all were tried."""
        removed, fault = await trio.to_thread.run_sync(_hide, self._store(model), going)
        gone = [each.export_dir for each in (*removed, *looked.missing)]
        if gone:
            await self._ledger.remove_versions(model.name, gone)
            self._tell_change(model.name)
        if removed:
            _log.info("removed old versions", model=model.name, versions=[each.version for each in removed])
            for observer in self.observers:
                observer(model.name, len(removed))
        if fault is not None:
            raise fault


def policy_of(model: ModelSettings) -> Policy:
    """The rules of a model."""
    return Policy(
        keep_last=model.keep_last,
        keep_every=model.keep_every,
        keep_best=model.keep_best,
        metric=model.metric,
        goal=model.metric_goal or "max",
    )


def _going(looked: Looked, kept: dict[int, tuple[str, ...]]) -> list[Version]:
    """What goes, oldest first."""
    return [each for each in reversed(looked.present) if each.version not in kept]


def _hide(store: LocalStore, going: list[Version]) -> tuple[list[Version], EnvironmentFault | None]:
    removed: list[Version] = []
    first: EnvironmentFault | None = None
    for version in going:
        try:
            if store.hide(version.version, version.identity):
                removed.append(version)
        except EnvironmentFault as fault:
            first = first or fault
    return removed, first


def _older(model: ModelSettings, looked: Looked, to: int | None) -> int:
    """The version that a rollback publishes once more."""
    numbers = looked.numbers
    newest = numbers[0] if numbers else None
    if to is not None:
        if to not in numbers:
            raise ConfigError("version-unknown", f"there is no version {to} in {model.publish!r}")
        if to == newest:
            raise ConfigError(
                "usage", f"version {to} of {model.name!r} is the newest already", remedy="name an older one"
            )
        return to
    if (older := previous(looked)) is not None:
        return older
    message = f"{model.name!r} has no good version that is older than its newest" + (f", {newest}" if numbers else "")
    raise ConfigError("version-unknown", message)


def previous(looked: Looked) -> int | None:
    """The newest good version before the newest that has another content; None where there is none."""
    newest = max(looked.numbers, default=None)
    content = next((each.content for each in looked.present if each.version == newest), None)
    for version in looked.present:
        if newest is not None and version.version < newest and version.good and version.content != content:
            return version.version
    return None


def _named_paths(config: Config) -> Iterable[tuple[str, str]]:
    """The paths that the configuration has an export read."""
    for model in config.model:
        paths = [model.template, model.function, model.meta_graph, model.warmup, model.debug_info_map]
        paths += [*model.assets_extra.values(), *(mode.template for mode in model.modes.values())]
        yield from ((path, f"the configuration of {model.name!r} names it") for path in paths if path)


def _messages(model: ModelSettings, looked: Looked, kept: dict[int, tuple[str, ...]]) -> list[v1.Version]:
    """All versions as the control socket shows them, newest first."""
    made = [_message(version, standing, kept) for version, standing in looked.rows]
    for number in looked.foreign:
        directory = str(Path(model.publish) / str(number))
        foreign = v1.Version(version=number, export_dir=directory, state=Standing.FOREIGN.value)
        foreign.kept_by.append(_KEPT_BY_STANDING[Standing.FOREIGN])
        made.append(foreign)
    return sorted(made, key=lambda each: -each.version)


def _message(version: Version, standing: Standing, kept: dict[int, tuple[str, ...]]) -> v1.Version:
    reasons = kept.get(version.version, ()) if standing is Standing.PRESENT else (_KEPT_BY_STANDING[standing],)
    return version_message(version, standing.value, reasons)
