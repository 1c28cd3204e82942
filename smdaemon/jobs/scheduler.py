"""Which job is attempted when, and what becomes of it.

One loop starts attempts, each in a task of its own; it looks again whenever a job moves, and at least once a minute. The
ledger's picture is all that it looks at. A job that is attempted is in `_running` from the moment it is chosen, and one that
is being cancelled or superseded in `_held`: between choosing and moving there are awaits, and both keep the other side away.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from smdaemon.errors import ConfigError, EnvironmentFault, SmdaemonError, shortage
from smdaemon.jobs.attempt import Attempt, JobCancelled, Published
from smdaemon.jobs.job import COALESCED, Changes, Job, JobError, Moved, Publication
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.retry import LONGEST_SECONDS, delay
from smdaemon.jobs.states import Event, ImpossibleMoveError, State
from smdaemon.jobs.turns import ModelPolicy, Turns, may_be_published, recency
from smdaemon.log import bound, get_logger

_log = get_logger(__name__)

# The wall clock may jump while we sleep by trio's clock, so we look at it at least this often.
LOOK_SECONDS = 60.0


Execute = Callable[[Job, Attempt], Awaitable[Published]]


@dataclass(frozen=True, slots=True)
class _Outcome:
    event: Event
    reason: str
    changes: Changes


class Scheduler:
    """Attempts the jobs of `ledger` by `execute`, at most `workers` at a time.

    At most `max_parallel` jobs of one model at a time, so that its versions appear in order; whose turn it is `Turns` knows. `policy` is
    asked anew at each look; call `wake` when its answers have changed.
    """

    def __init__(
        self,
        ledger: Ledger,
        execute: Execute,
        *,
        workers: int,
        policy: Callable[[str], ModelPolicy],
        rng: random.Random | None = None,
    ) -> None:
        self.workers = workers
        self._ledger = ledger
        self._execute = execute
        self._policy = policy
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._running: dict[int, Attempt] = {}
        self._written_by_ended = 0
        # how many are about to move the job: a person's cancel may come while it is being superseded
        self._held: Counter[int] = Counter()
        self._turns = Turns(policy)
        self._changed = trio.Event()
        self._looked = trio.Event()
        self._recovered = False
        self._draining = False
        self._drains_queue = False
        self._scope: trio.CancelScope | None = None
        self._stopped = trio.Event()
        ledger.observe(self._saw)

    @property
    def busy(self) -> int:
        """How many attempts are under way."""
        return len(self._running)

    def attempt(self, job_id: int) -> Attempt | None:
        """The attempt under way of a job, for its progress."""
        return self._running.get(job_id)

    def attempts(self) -> list[Attempt]:
        """The attempts under way."""
        return list(self._running.values())

    @property
    def bytes_written(self) -> int:
        """What all attempts have written so far, those that are over too."""
        return self._written_by_ended + sum(attempt.progress.bytes_done for attempt in self._running.values())

    def wake(self) -> None:
        """Look again."""
        self._changed.set()

    async def answers(self) -> None:
        """Return once the loop has come round: proof that it is not stuck. At once while it starts nothing, before `run` and after `drain`."""
        if self._scope is None or self._draining:
            await trio.lowlevel.checkpoint()
            return
        looked = self._looked
        self.wake()
        await looked.wait()

    async def recover(self) -> list[Job]:
        """Queue what an earlier daemon left interrupted. `run` does it by itself, if it was not done before.

        Where that daemon published the latest drop and died before it passed over the older ones, that is made up for.
        """
        if self._recovered:
            return []
        resumed = await self._ledger.resume()
        for model, newest in list(self._ledger.newest_published.items()):
            if self._policy(model).on_backlog == "latest":
                await self._supersede_older(newest)
        self._recovered = True
        return resumed

    async def run(self) -> None:
        """Attempt jobs until `drain` is called or this task is cancelled; raises only what was not foreseen."""
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._abandon_when_cancelled)
                while not self._draining or self._has_more():
                    self._changed = trio.Event()
                    # the event is made first: what happens while we look is not missed
                    nap = await self._look(nursery)
                    self._looked.set()
                    self._looked = trio.Event()
                    with trio.move_on_after(nap):
                        await self._changed.wait()
                self._looked.set()
                while self._running:
                    await next(iter(self._running.values())).ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._scope = None
            self._looked.set()
            self._stopped.set()

    def _has_more(self) -> bool:
        """Whether there is something to do yet before a drain ends that takes the queue along."""
        return self._drains_queue and (bool(self._running) or self._choose() is not None)

    async def drain(self, within_seconds: float, *, queue: bool = False) -> None:
        """Start nothing more, or with `queue` all that is queued, and wait for what runs; after `within_seconds` stop it.

        What is stopped can be resumed.
        """
        self._draining = True
        self._drains_queue = queue
        self.wake()
        if self._scope is None:
            return
        with trio.move_on_after(within_seconds):
            await self._stopped.wait()
        if self._scope is not None:
            self._scope.cancel()
            await self._stopped.wait()

    async def cancel(self, job_id: int) -> Job:
        """Cancel a job, and stop its attempt; raises `ConfigError` (job-unknown, job-not-cancellable)."""
        open_job = self._ledger.open_jobs.get(job_id)
        if open_job is not None and may_be_published(open_job):
            message = f"job {job_id} may be published already: its commit had begun, and the next attempt will show"
            raise ConfigError("job-not-cancellable", message)
        if (attempt := self._running.get(job_id)) is not None:
            if not attempt.cancel():
                raise ConfigError("job-not-cancellable", f"job {job_id} is being committed")
            await attempt.ended.wait()
            job = await self._known(job_id)
            if job.state is State.CANCELLED:
                return job
        try:
            with self._holding([job_id]):
                return await self._ledger.move(job_id, Event.CANCEL, reason="cancelled on request")
        except ImpossibleMoveError as error:
            raise ConfigError("job-not-cancellable", f"job {job_id} is {error.state} already") from error

    async def retry(self, job_id: int) -> Job:
        """Queue a failed or cancelled job again; raises `ConfigError` (job-unknown, job-not-retryable)."""
        try:
            return await self._ledger.move(job_id, Event.RETRY, reason="retried on request", attempts=0)
        except ImpossibleMoveError as error:
            raise ConfigError("job-not-retryable", f"job {job_id} is {error.state}") from error

    async def _known(self, job_id: int) -> Job:
        if (job := await self._ledger.get(job_id)) is None:
            raise ConfigError("job-unknown", f"there is no job {job_id}")
        return job

    def _saw(self, move: Moved) -> None:
        # the steps of an attempt change nothing for the others
        if move.job.state in (State.QUEUED, State.WAITING):
            self.wake()

    async def _abandon_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            # threads that export do not notice trio's cancellation by themselves
            for attempt in self._running.values():
                attempt.abandon()

    async def _look(self, nursery: trio.Nursery) -> float:
        """Start what can be started; returns seconds until the next look."""
        try:
            await self.recover()
            await self._queue_due()
            while (not self._draining or self._drains_queue) and len(self._running) < self.workers:
                job = self._choose()
                if job is None:
                    break
                self._start(job, nursery)
        except EnvironmentFault as fault:
            if not fault.retryable:
                raise
            _log.error("the journal refuses; trying again", code=fault.code, reason=fault.message)
            return delay(3, self._rng)
        return self._nap()

    async def _queue_due(self) -> None:
        now = self._ledger.clock()
        for job in self._free(self._ledger.waiting):
            if _seconds_left(job, now) <= 0:
                # while an earlier one of them moved, this one may have been cancelled, superseded, or offered again
                with contextlib.suppress(ImpossibleMoveError):
                    await self._ledger.move(job.id, Event.DUE, reason=job.reason)

    def _nap(self) -> float:
        now = self._ledger.clock()
        left = (_seconds_left(job, now) for job in self._free(self._ledger.waiting))
        return max(min([LOOK_SECONDS, *left]), 0.0)

    def _free(self, jobs: Mapping[int, Job]) -> list[Job]:
        return [job for job in jobs.values() if job.id not in self._running and job.id not in self._held]

    @contextlib.contextmanager
    def _holding(self, job_ids: Collection[int]) -> Iterator[None]:
        """Nothing is begun with these jobs until the end of the block, which moves them."""
        self._held += Counter(job_ids)
        try:
            yield
        finally:
            self._held -= Counter(job_ids)  # which drops those that nobody holds any more
            self.wake()

    def _choose(self) -> Job | None:
        free = {name: self._free(jobs) for name, jobs in self._ledger.queued.items()}
        return self._turns.choose({name: jobs for name, jobs in free.items() if jobs and self._has_room(name)})

    def _has_room(self, model: str) -> bool:
        running = sum(attempt.job.model == model for attempt in self._running.values())
        return running < self._policy(model).max_parallel

    def _start(self, job: Job, nursery: trio.Nursery) -> None:
        attempt = self._running[job.id] = Attempt(self._ledger, job)
        self._turns.given(job.model)
        nursery.start_soon(self._run_attempt, attempt)

    async def _run_attempt(self, attempt: Attempt) -> None:
        try:
            # whatever room writes a line meanwhile, and in whatever thread: it says which job it was at
            with bound(job=attempt.job.id, model=attempt.job.model):
                outcome = await self._outcome(attempt)
                if outcome is not None:
                    await self._insist(attempt.job, partial(self._record, attempt, outcome))
                    if outcome.event is Event.PUBLISH and self._policy(attempt.job.model).on_backlog == "latest":
                        await self._insist(attempt.job, partial(self._supersede_older, attempt.job))
        finally:
            self._end(attempt)

    async def _supersede_older(self, newest: Job) -> None:
        """What is older than a published drop need not be exported. Requests were asked for one by one: they all are."""
        if newest.origin not in COALESCED:
            return
        queue = self._ledger.queued.get(newest.model, {})
        waiting = {job.id: job for job in self._ledger.waiting.values() if job.model == newest.model}
        free = self._free({**queue, **waiting})
        older = [
            job.id
            for job in free
            if job.origin in COALESCED and recency(job) < recency(newest) and not may_be_published(job)
        ]
        if older:
            # no await since the choice: a cancel that comes now comes after this in the ledger's order
            with self._holding(older):
                await self._ledger.move_all(older, Event.SUPERSEDE, reason=f"job {newest.id} is newer")

    def _end(self, attempt: Attempt) -> None:
        del self._running[attempt.job.id]
        self._written_by_ended += attempt.progress.bytes_done
        attempt.ended.set()
        self.wake()

    async def _outcome(self, attempt: Attempt) -> _Outcome | None:
        """Make the attempt; None if it was abandoned and the row is to stay as it is."""
        try:
            with attempt.scope:
                published = await self._execute(attempt.job, attempt)
                if not attempt.committed:
                    raise RuntimeError(f"the export ended in state {attempt.job.state.value!r}")
                return _published(attempt, published)
        except Exception as error:  # noqa: BLE001 - whatever one job meets, the daemon goes on with the others
            return self._failure(attempt, error)
        except BaseExceptionGroup as group:
            # the daemon stops, and something failed at the same time: the failure is told, the stop goes on
            failures, stop = group.split(Exception)
            if failures is not None:
                _tell_of_failure_while_stopping(attempt, failures)
            raise (stop or group) from None
        return _cancelled(attempt)

    def _failure(self, attempt: Attempt, error: Exception) -> _Outcome | None:
        foreseen = _leading(error)
        if attempt.abandoned:
            # the stop itself may have caused it: the next attempt will show
            if not isinstance(foreseen, JobCancelled):
                _tell_of_failure_while_stopping(attempt, error)
            return None
        if isinstance(foreseen, JobCancelled):
            return _cancelled(attempt)
        if isinstance(foreseen, EnvironmentFault) and foreseen.retryable:
            retry_at = self._ledger.clock() + delay(attempt.number, self._rng)
            return _failed(attempt, Event.FAULT, JobError.of(foreseen), retry_at=retry_at)
        if isinstance(foreseen, SmdaemonError):
            return _failed(attempt, Event.FAIL, JobError.of(foreseen))
        _log.error("internal error", job=attempt.job.id, model=attempt.job.model, exc_info=error)
        return _failed(attempt, Event.FAIL, JobError.of_bug(foreseen))

    async def _record(self, attempt: Attempt, outcome: _Outcome) -> None:
        """Move the job by its outcome."""
        await self._ledger.move(attempt.job.id, outcome.event, reason=outcome.reason, **outcome.changes)

    async def _insist(self, job: Job, act: Callable[[], Awaitable[None]]) -> None:
        """Do `act`, as often as it takes: the disk of the journal may be the full one."""
        tries = 0
        while True:
            tries += 1
            try:
                return await act()
            except EnvironmentFault as fault:
                if not fault.retryable:
                    raise
                _log.error("the journal refuses; trying again", job=job.id, code=fault.code)
                await trio.sleep(delay(tries, self._rng))


def _tell_of_failure_while_stopping(attempt: Attempt, error: BaseException) -> None:
    _log.warning("job failed while the daemon stopped", job=attempt.job.id, model=attempt.job.model, exc_info=error)


def _published(attempt: Attempt, published: Published) -> _Outcome:
    changes: Changes = {
        "version": published.version,
        "export_dir": published.export_dir,
        "tensors": published.tensors,
        "bytes_total": published.bytes_total,
        "attempts": attempt.number,
        "error": None,
        "publication": Publication(published.identity, published.metrics),
        **attempt.findings,
    }
    return _Outcome(Event.PUBLISH, "", changes)


def _cancelled(attempt: Attempt) -> _Outcome:
    return _Outcome(Event.CANCEL, "cancelled on request", {"attempts": attempt.number, **attempt.findings})


def _failed(attempt: Attempt, event: Event, error: JobError, *, retry_at: float | None = None) -> _Outcome:
    changes: Changes = {"attempts": attempt.number, "error": error, "retry_at": retry_at, **attempt.findings}
    return _Outcome(event, error.message, changes)


def _leading(error: Exception) -> Exception:
    """The error of a group that decides what becomes of the job; `error` itself if it is no group.

    A bug comes before bad data, bad data before a fault that may pass: the job must not be tried again for ever because one
    of two threads met a full disk. A stop comes last: it only follows from one of the others, or is alone.
    """
    if not isinstance(error, ExceptionGroup):
        return shortage(error) or error
    return min((_leading(inner) for inner in error.exceptions), key=_rank)


def _rank(error: Exception) -> int:
    match error:
        case JobCancelled():
            return 3
        case EnvironmentFault(retryable=True):
            return 2
        case SmdaemonError():
            return 1
    return 0


def _seconds_left(job: Job, now: float) -> float:
    """Until the next attempt. More than any delay means that the clock was set back: then the time is now."""
    left = (job.retry_at or now) - now
    return 0.0 if left > LONGEST_SECONDS else left
