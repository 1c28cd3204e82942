"""What a job does when its turn comes: stage and write in a worker thread, verify, publish."""

import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from smdaemon.config import Config, ModelSettings, parse_size
from smdaemon.daemon.validator import judge
from smdaemon.errors import ConfigError, DropError, fault
from smdaemon.export.budget import ByteBudget, needed
from smdaemon.export.isolated import export_isolated, has_large_graph
from smdaemon.export.pipeline import Exported
from smdaemon.export.plan import ExportPlan
from smdaemon.export.rate import RateLimit
from smdaemon.export.republish import perform
from smdaemon.jobs.attempt import Attempt, Published
from smdaemon.jobs.job import Job
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.states import Event
from smdaemon.proto.v1 import ExportRequest
from smdaemon.publish.local import MAX_VERSION, LocalStore, identity_of, same_export
from smdaemon.publish.space import check_room


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
        # the scheduler decides how many run; this only keeps exports from crowding out trio's other threads
        self._threads = trio.CapacityLimiter(math.inf)

    async def __call__(self, job: Job, attempt: Attempt) -> Published:
        """Export and publish `job`; every step is safe to repeat after a crash. Raises SmdaemonError, JobCancelled."""
        model = self._config().model_named(job.model)
        if model is None:
            raise ConfigError("request-model-unknown", f"the model {job.model!r} is no longer configured")
        request = ExportRequest.FromString(job.request)
        plan = self._plan(job, model, request)
        store = LocalStore(Path(model.publish), self._owner)
        version = await self._version(job, model, store)
        await attempt.enter(Event.STAGE, version=version)
        draft = await trio.to_thread.run_sync(store.draft, f"job{job.id}")
        try:
            try:
                exported = await self._export(attempt, plan, model, draft)
                await judge(attempt, model, store, draft)
            except DropError as error:
                if job.restores is None:
                    raise
                await self._ledger.withdraw_version(model.name, job.source)
                raise _not_restored(job, error) from error
            await attempt.enter(Event.COMMIT)
            async with self._lock_of(model.name):
                target, identity = await trio.to_thread.run_sync(_commit, store, draft, version)
        finally:
            with trio.CancelScope(shield=True):  # removes one draft; a start sweeps what a kill leaves
                await trio.to_thread.run_sync(store.discard, draft)
        return Published(version=version, export_dir=str(target), tensors=exported.tensors, bytes_total=exported.nbytes)

    async def _version(self, job: Job, model: ModelSettings, store: LocalStore) -> int:
        """The version number that `job` publishes: what it was given, or what the model's rule gives now."""
        version = job.version
        if job.restores is not None:
            version = await trio.to_thread.run_sync(_number_of_rollback, job, model, store)
        if version is None and model.version == "step":
            raise DropError("no-step", f"neither the name {Path(job.source).name!r} nor the metadata holds a step")
        if version is None:
            newest = max(await trio.to_thread.run_sync(store.versions), default=0)
            floor = max(newest + 1, int(time.time()) if model.version == "timestamp" else 1)
            version = await self._ledger.next_sequence(model.name, floor)
        if not 0 <= version <= MAX_VERSION:
            raise DropError("version-invalid", f"version {version} is out of range")
        return version


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

    def writing(self, tensors: int, nbytes: int) -> None:
        """See that there is room on the disk, wait for host memory, then move the job on."""
        if not self._plan.copy:  # links, as a rule; a good model is not to wait for room
            self._room(nbytes)
        memory = needed(tensors, self._plan.shards_for(nbytes))
        trio.from_thread.run(self._held.enter_async_context, self._budget.reserved(memory))
        trio.from_thread.run(partial(self._attempt.enter, Event.WRITE, tensors=tensors, bytes_total=nbytes))

    def advance(self, nbytes: int) -> None:
        """Count bytes; stop where the job was cancelled or the daemon is stopping."""
        self._attempt.check()
        self._attempt.progress.add(nbytes)
        if self._limit is not None and not self._plan.copy:
            self._limit.passed(nbytes, self._attempt.check)

    def verifying(self) -> None:
        """Move the job on."""
        trio.from_thread.run(self._attempt.enter, Event.VERIFY)
