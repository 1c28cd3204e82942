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
from smdaemon.errors import ConfigError, DropError
from smdaemon.export.budget import ByteBudget, needed
from smdaemon.export.isolated import export_isolated, has_large_graph
from smdaemon.export.pipeline import export
from smdaemon.export.plan import ExportPlan
from smdaemon.export.rate import RateLimit
from smdaemon.jobs.attempt import Attempt, Published
from smdaemon.jobs.job import Job
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.states import Event
from smdaemon.proto.v1 import ExportRequest
from smdaemon.publish.local import MAX_VERSION, LocalStore
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
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._budget = budget
        self._owner = owner
        self._segment_of = segment_of
        # the scheduler decides how many run; this only keeps exports from crowding out trio's other threads
        self._threads = trio.CapacityLimiter(math.inf)

    async def __call__(self, job: Job, attempt: Attempt) -> Published:
        """Export and publish `job`; every step is safe to repeat after a crash. Raises SmdaemonError, JobCancelled."""
        model = self._config().model_named(job.model)
        if model is None:
            raise ConfigError("request-model-unknown", f"the model {job.model!r} is no longer configured")
        plan = ExportPlan.of(Path(job.source), model, ExportRequest.FromString(job.request))
        if job.origin == "handoff":
            # one data file: what lies in shared memory as it is to lie on the disk is written as one stream
            plan = replace(plan, segment=self._segment_of(job), shards=plan.shards or 1)
        store = LocalStore(Path(model.publish), self._owner)
        version = await self._version(job, model, store)
        await attempt.enter(Event.STAGE, version=version)
        draft = await trio.to_thread.run_sync(store.draft, f"job{job.id}")
        try:
            async with AsyncExitStack() as held:
                room = partial(check_room, Path(model.publish), min_free=self._config().daemon.min_free_bytes)
                report = _JobReport(attempt, plan, budget=self._budget, held=held, room=room, limit=_limit_of(model))
                perform = export_isolated if await trio.to_thread.run_sync(has_large_graph, plan) else export
                exported = await trio.to_thread.run_sync(perform, plan, draft, report, limiter=self._threads)
            await attempt.enter(Event.COMMIT)
            target = await trio.to_thread.run_sync(store.commit, draft, version)
        finally:
            with trio.CancelScope(shield=True):  # removes one draft; a start sweeps what a kill leaves
                await trio.to_thread.run_sync(store.discard, draft)
        return Published(version=version, export_dir=str(target), tensors=exported.tensors, bytes_total=exported.nbytes)

    async def _version(self, job: Job, model: ModelSettings, store: LocalStore) -> int:
        """The version number that `job` publishes: what it was given, or what the model's rule gives now."""
        version = job.version
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
        self._room(nbytes)
        memory = needed(tensors, self._plan.shards_for(nbytes))
        trio.from_thread.run(self._held.enter_async_context, self._budget.reserved(memory))
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
