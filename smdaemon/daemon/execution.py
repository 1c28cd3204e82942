"""What a job does when its turn comes: stage and write in a worker thread, verify, publish."""

import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from smdaemon.daemon.drafts import discard
from smdaemon.daemon.validator import judge
from smdaemon.errors import ConfigError, DropError
from smdaemon.export.budget import ByteBudget, needed
from smdaemon.export.isolated import export_isolated, has_large_graph
from smdaemon.export.perform import perform
from smdaemon.export.pipeline import Exported
from smdaemon.export.plan import ExportPlan
from smdaemon.export.rate import RateLimit
from smdaemon.jobs.attempt import Attempt, Published
from smdaemon.jobs.job import Job, Publication
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.states import Event, State
from smdaemon.proto.v1 import ExportRequest
from smdaemon.publish.local import MAX_VERSION, LocalStore, identity_of, same_export
from smdaemon.publish.presence import is_bare, refuse_bare
from smdaemon.publish.space import Promises
from smdaemon.settings import Config, ModelSettings, parse_size
from smdaemon.tensorbundle.writer import writing_threads


class Execution:
    """Performs jobs. `owner` marks this state directory's drafts, so that another daemon's are never touched."""

    def __init__(
        self,
        ledger: Ledger,
        config: Callable[[], Config],
        budget: ByteBudget,
        *,
        owner: str,
        segment_of: Callable[[Job], tuple[Path, Path]],
        lock_of: Callable[[str], trio.Lock],
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._budget = budget
        self._owner = owner
        self._segment_of = segment_of
        # a model's lock, held while one of its versions appears or goes
        self._lock_of = lock_of
        self._promises = Promises()
        # the scheduler decides how many run; this only keeps exports from crowding out trio's other threads
        self._threads = trio.CapacityLimiter(math.inf)

    async def __call__(self, job: Job, attempt: Attempt) -> Published:
        """Export and publish `job`; every step is safe to repeat after a crash. Raises SmdaemonError, JobCancelled."""
        model = self._config().model_named(job.model)
        if model is None:
            raise ConfigError("request-model-unknown", f"the model {job.model!r} is no longer configured")
        store = LocalStore(Path(model.publish), self._owner)
        if (done := await self._already_published(job, attempt, store)) is not None:
            return done
        if await trio.to_thread.run_sync(is_bare, store.root):  # the journal is asked then only: there may be thousands
            refuse_bare(store, await self._ledger.versions(model.name))
        request = ExportRequest.FromString(job.request)
        plan = await self._plan(job, model, request)
        version = await self._version(job, model, store)
        await attempt.enter(Event.STAGE, version=version, publication=None)
        draft = await trio.to_thread.run_sync(store.draft, f"job{job.id}")
        try:
            try:
                exported = await self._export(attempt, plan, model, draft)
                if attempt.job.state is State.WRITING:  # nothing was read back
                    await attempt.enter(Event.VERIFY)
                if model.validator:
                    await judge(attempt, model, store, draft)
            except DropError as error:
                if job.restores is None:
                    raise
                await self._ledger.withdraw_version(model.name, job.source)
                raise _not_restored(job, error) from error
            metrics = _metrics(plan, exported, request)
            identity = await trio.to_thread.run_sync(_identity, draft)
            # in the journal before the rename: whoever finds the version after a crash knows whose it is
            await attempt.enter(Event.COMMIT, publication=Publication(identity, metrics))
            async with self._lock_of(model.name):
                target, identity = await trio.to_thread.run_sync(_commit, store, draft, version)
        finally:
            await discard(store, draft)
        return Published(
            version=version,
            export_dir=str(target),
            tensors=exported.tensors,
            bytes_total=exported.nbytes,
            identity=identity,
            metrics=metrics,
        )

    async def _already_published(self, job: Job, attempt: Attempt, store: LocalStore) -> Published | None:
        """What an earlier attempt has published without the journal's learning of it; None where there is nothing like that.

        Neither source nor trainer is asked: they may be gone by now.
        """
        if job.publication is None or job.version is None:
            return None
        identity, metrics = job.publication
        async with self._lock_of(job.model):
            target = await trio.to_thread.run_sync(store.committed, job.version, identity)
        if target is None:
            return None
        for step in (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT):
            await attempt.enter(step)
        return Published(
            version=job.version,
            export_dir=str(target),
            tensors=job.tensors,
            bytes_total=job.bytes_total,
            identity=identity,
            metrics=metrics,
        )

    async def _plan(self, job: Job, model: ModelSettings, request: ExportRequest) -> ExportPlan:
        if job.restores is not None:
            return ExportPlan(source=Path(job.source), model_name=model.name, copy=True)
        # in a thread, as it looks where links of the operator's lead
        plan = await trio.to_thread.run_sync(ExportPlan.of, Path(job.source), model, request)
        plan = replace(plan, content=job.content)
        if job.origin == "handoff":
            # one data file: what lies in shared memory as it is to lie on the disk is written as one stream
            plan = replace(plan, segment=self._segment_of(job), shards=plan.shards or 1)
        return plan

    async def _export(self, attempt: Attempt, plan: ExportPlan, model: ModelSettings, draft: Path) -> Exported:
        """Write and verify the draft, in a thread, or in a process of its own where the graph is large."""

        def room(nbytes: int) -> None:
            min_free, progress = self._config().daemon.min_free_bytes, attempt.progress
            self._promises.make(attempt.job.id, Path(model.publish), nbytes, min_free, lambda: progress.bytes_done)

        limit = None if plan.copy else _limit_of(model)  # links are no bytes
        async with AsyncExitStack() as held:
            held.callback(self._promises.release, attempt.job.id)
            report = _JobReport(attempt, plan, budget=self._budget, held=held, room=room, limit=limit)
            act = export_isolated if await trio.to_thread.run_sync(has_large_graph, plan) else perform
            return await trio.to_thread.run_sync(act, plan, draft, report, limiter=self._threads)

    async def _version(self, job: Job, model: ModelSettings, store: LocalStore) -> int:
        """The version number that `job` publishes: what it was given, or what the model's rule gives now."""
        version = job.version
        if job.restores is not None:
            version = await trio.to_thread.run_sync(_number_of_rollback, job, model, store)
        if version is None and model.version == "step":
            raise DropError("no-step", f"neither the name {Path(job.source).name!r} nor the metadata holds a step")
        if version is None:
            newest = max(await trio.to_thread.run_sync(store.versions), default=0)
            if newest == MAX_VERSION:
                message = f"{str(store.root / str(newest))!r} is the greatest version that there can be"
                raise DropError(
                    "version-invalid", message, remedy="move it away: every further version is to be greater"
                )
            floor = max(newest + 1, int(time.time()) if model.version == "timestamp" else 1)
            version = await self._ledger.next_sequence(model.name, floor)
        if not 0 <= version <= MAX_VERSION:
            raise DropError("version-invalid", f"version {version} is out of range")
        return version


def _number_of_rollback(job: Job, model: ModelSettings, store: LocalStore) -> int | None:
    """The number under which an older version is the newest once more; None where the model's rule is to give one.

    The number that an earlier attempt had is kept where that one has published it, or where it still is the newest to come.
    """
    newest = max(store.versions(), default=0)
    given = job.version
    if given is not None and given > newest:
        return given
    if given == newest and same_export(Path(job.source), store.root / str(given)):
        return given
    return newest + 1 if model.version == "step" else None


def _commit(store: LocalStore, draft: Path, version: int) -> tuple[Path, str]:
    """Publish; the version directory and its identity, which is empty where it cannot be told: published is published."""
    target = store.commit(draft, version)
    return target, _identity(target)


def _identity(path: Path) -> str:
    try:
        return identity_of(path) or ""
    except OSError:
        return ""


def _metrics(plan: ExportPlan, exported: Exported, request: ExportRequest) -> dict[str, float]:
    """What is known of how good the version is: what the request says comes before what the source says."""
    found = {} if exported.metric is None else {plan.metric: exported.metric}
    return found | dict(request.metrics)


def _not_restored(job: Job, error: DropError) -> DropError:
    message = f"version {job.restores} cannot be published once more: {error.message}"
    return DropError(
        error.code, message, remedy=f"roll back to another one: smdaemon rollback {job.model} --to VERSION"
    )


def _limit_of(model: ModelSettings) -> RateLimit | None:
    return RateLimit(parse_size(model.write_rate)) if model.write_rate else None


class _JobReport:
    """Tells the job how its export goes, from the export's threads."""

    def __init__(
        self,
        attempt: Attempt,
        plan: ExportPlan,
        *,
        budget: ByteBudget,
        held: AsyncExitStack,
        room: Callable[[int], None],
        limit: RateLimit | None,
    ) -> None:
        self._attempt = attempt
        self._budget = budget
        self._held = held
        self._plan = plan
        self._room = room
        self._limit = limit

    def writing(self, tensors: int, nbytes: int, working_bytes: int) -> None:
        """See that there is room on the disk, wait for host memory, then move the job on."""
        if not self._plan.copy:  # links, as a rule; a good model is not to wait for room
            self._room(nbytes)
        threads = writing_threads(self._plan.shards_for(nbytes))
        reserved = self._budget.reserved(needed(tensors, threads), threads * working_bytes)
        trio.from_thread.run(self._held.enter_async_context, reserved)
        trio.from_thread.run(partial(self._attempt.enter, Event.WRITE, tensors=tensors, bytes_total=nbytes))

    def advance(self, nbytes: int) -> None:
        """Count bytes; stop where the job was cancelled or the daemon is stopping."""
        self._attempt.check()
        self._attempt.progress.add(nbytes)
        if self._limit is not None:
            self._limit.passed(nbytes, self._attempt.check)

    def verifying(self) -> None:
        """Move the job on."""
        trio.from_thread.run(self._attempt.enter, Event.VERIFY)

    def read_back(self, nbytes: int) -> None:
        """Read no faster than the model may write; stop as `advance` does."""
        self._attempt.check()
        if self._plan.copy:  # all that is done with it
            self._attempt.progress.add(nbytes)
        elif self._limit is not None:
            self._limit.passed(nbytes, self._attempt.check)
