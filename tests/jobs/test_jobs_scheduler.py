"""The scheduler, with a fake export function and a clock that jumps.

pytest-trio uses a clock only if the test itself asks for it, so each does.
"""

import errno
import random

import pytest
import trio
import trio.testing
from jobs_kit import PATHS, new_job
from structlog.testing import capture_logs

from smdaemon.errors import ConfigError, DropError, EnvironmentFault
from smdaemon.jobs.attempt import JobCancelled, Published
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.retry import JITTER
from smdaemon.jobs.scheduler import ModelPolicy, Scheduler
from smdaemon.jobs.states import Event, State

START = 1_700_000_000.0
FULL = EnvironmentFault("disk-full", "no space left", retryable=True)
STEPS = (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT)


class Exporter:
    """A fake export: enters the four steps, each of which takes `seconds`, and notes what it saw.

    `troubles` has, by source and first come first served, errors to raise after `trouble_at`.
    """

    def __init__(self, seconds=1.0):
        self.seconds = seconds
        self.troubles = {}
        self.trouble_at = Event.WRITE
        self.started = []
        self.at_work = 0
        self.most_at_work = 0

    async def __call__(self, job, attempt):
        """The export."""
        self.started.append(job.order)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            for step in STEPS:
                await attempt.enter(step)
                await trio.sleep(self.seconds)
                if step is self.trouble_at and self.troubles.get(job.source):
                    raise self.troubles[job.source].pop(0)
        finally:
            self.at_work -= 1
        return Published(int(job.order), f"/models/{job.model}/{job.order}", 2, 10)


class House:
    """A scheduler at work in a nursery, on a ledger whose wall clock follows trio's."""

    def __init__(self, ledger, nursery, export, workers, policies):
        self.ledger = ledger
        self.nursery = nursery
        self.export = export
        self.policies = policies
        self.scheduler = Scheduler(ledger, export, workers=workers, policy=self.policy, rng=random.Random(7))

    def policy(self, model):
        """What the tests set for the model."""
        return self.policies.get(model, ModelPolicy())

    def start(self):
        """Let the scheduler run."""
        self.nursery.start_soon(self.scheduler.run)

    async def accept(self, model="ranker", step=1, **fields):
        """Accept a drop."""
        return await self.ledger.accept(new_job(model, step, **fields))

    async def until(self, job, *states):
        """The job once it is in one of the states; fails if it ends elsewhere."""
        with self.ledger.bus.subscribe() as moves:
            current = await self.ledger.get(job.id)
            while current.state not in states:
                move = await moves.receive()
                current = move.job if move.job.id == job.id else current
        return current

    async def until_ended(self):
        """Until no job is open."""
        with self.ledger.bus.subscribe() as moves:
            while self.ledger.open_jobs:
                await moves.receive()

    async def states(self, job):
        """The states that the job went through."""
        return [item.state.value for item in await self.ledger.history(job.id)]


@pytest.fixture
def inline_threads(monkeypatch):
    """The journal's thread does its work within the task.

    The clock jumps as soon as all tasks are blocked, and one that waits for a thread is: a deadline could pass meanwhile.
    """

    async def run_sync(function, *args, limiter=None):
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
async def build(tmp_path, inline_threads, nursery):
    """Makes a house; `start=False` leaves the scheduler to be started."""
    async with open_ledger(tmp_path / "journal.sqlite", lambda: START + trio.current_time()) as ledger:

        def make(export=None, *, workers=1, policies=None, start=True):
            house = House(ledger, nursery, export or Exporter(), workers, policies or {})
            if start:
                house.start()
            return house

        yield make
        nursery.cancel_scope.cancel()


async def test_a_job_goes_all_the_way(build, autojump_clock):
    """An accepted job is attempted at once and its row says what was published."""
    house = build()
    job = await house.until(await house.accept(step=41), State.PUBLISHED)
    assert await house.states(job) == [
        "detected",
        "queued",
        "staging",
        "writing",
        "verifying",
        "committing",
        "published",
    ]
    assert (job.version, job.export_dir, job.tensors, job.bytes_total) == (41, "/models/ranker/41", 2, 10)
    assert (job.attempts, job.error, job.retry_at) == (1, None, None)


async def test_versions_of_a_model_appear_in_order(build, autojump_clock):
    """With several workers the drops of one model are still attempted one by one, the oldest drop first."""
    house = build(workers=4, start=False)
    for step in (3, 1, 2):
        await house.accept(step=step)
    house.start()
    await house.until_ended()
    assert house.export.started == [1, 2, 3]
    assert house.export.most_at_work == 1


async def test_max_parallel_allows_more(build, autojump_clock):
    """A model may be given several attempts at a time, within the workers."""
    house = build(workers=2, policies={"ranker": ModelPolicy(max_parallel=3)}, start=False)
    for step in range(4):
        await house.accept(step=step)
    house.start()
    await house.until_ended()
    assert house.export.most_at_work == 2


async def test_models_take_turns(build, autojump_clock):
    """A long backlog of one model does not keep another one waiting."""
    house = build(start=False)
    for step in range(5):
        await house.accept("a", step)
    for step in range(100, 102):
        await house.accept("b", step)
    house.start()
    await house.until_ended()
    assert house.export.started == [0, 100, 1, 101, 2, 3, 4]


async def test_latest_leaves_out_older_drops(build, autojump_clock):
    """When a drop of a `latest` model is published, older queued and waiting ones are superseded, with the newer one's id."""
    house = build(policies={"ranker": ModelPolicy("latest")}, start=False)
    waiting = await house.accept(step=1)
    await house.ledger.move(waiting.id, Event.FAULT, retry_at=START + 1000)
    older, newest, between = [await house.accept(step=step) for step in (2, 4, 3)]
    other = await house.accept("b", 0)
    house.start()
    await house.until_ended()
    assert house.export.started == [4, 0]
    for job in (waiting, older, between):
        found = await house.ledger.get(job.id)
        assert (found.state, found.reason, found.retry_at) == (State.SUPERSEDED, f"job {newest.id} is newer", None)
    assert (await house.ledger.get(other.id)).state is State.PUBLISHED


async def test_latest_falls_back_to_the_newest_good_drop(build, autojump_clock):
    """A newest drop that is broken fails; the next older one is exported, and supersedes the rest."""
    house = build(policies={"ranker": ModelPolicy("latest")}, start=False)
    oldest, good, broken = [await house.accept(step=step) for step in (1, 2, 3)]
    house.export.troubles[broken.source] = [DropError("source-corrupt", "bad header")]
    house.start()
    await house.until_ended()
    states = [(await house.ledger.get(job.id)).state for job in (oldest, good, broken)]
    assert states == [State.SUPERSEDED, State.PUBLISHED, State.FAILED]


async def test_latest_exports_every_request(build, autojump_clock):
    """What was asked for one by one is exported, however old it is."""
    house = build(policies={"ranker": ModelPolicy("latest")}, start=False)
    request = await house.accept(step=1, origin="request")
    await house.accept(step=2)
    house.start()
    await house.until_ended()
    assert (await house.ledger.get(request.id)).state is State.PUBLISHED


async def test_latest_does_not_touch_a_newer_job_that_waits(build, autojump_clock):
    """An older drop is exported while the newest waits for its next attempt; then the newest follows."""
    house = build(policies={"ranker": ModelPolicy("latest")}, start=False)
    newest = await house.accept(step=9)
    await house.ledger.move(newest.id, Event.FAULT, retry_at=START + 100)
    await house.accept(step=8)
    house.start()
    await house.until_ended()
    assert house.export.started == [8, 9]


async def test_a_drop_that_comes_during_an_attempt_waits_for_its_end(build, autojump_clock):
    """A running attempt is not superseded."""
    house = build(policies={"ranker": ModelPolicy("latest")}, workers=2)
    first = await house.until(await house.accept(step=1), State.WRITING)
    await house.accept(step=2)
    await house.until_ended()
    assert house.export.started == [1, 2]
    assert (await house.ledger.get(first.id)).state is State.PUBLISHED


async def test_a_paused_model_starts_nothing_until_told(build, autojump_clock):
    """Jobs of a paused model stay queued; `wake` after a change of policy starts them."""
    house = build(policies={"ranker": ModelPolicy(paused=True)})
    job = await house.accept()
    await house.until(await house.accept("b"), State.PUBLISHED)
    assert (await house.ledger.get(job.id)).state is State.QUEUED
    house.policies.clear()
    house.scheduler.wake()
    await house.until(job, State.PUBLISHED)


async def test_a_fault_is_tried_again_with_growing_delays(build, autojump_clock):
    """A retryable fault leads to waiting with a time and the reason; the error goes when the next attempt begins."""
    house = build()
    job = await house.accept()
    house.export.troubles[job.source] = [FULL] * 4
    delays = []
    for attempt in range(1, 5):
        waiting = await house.until(job, State.WAITING)
        assert (waiting.attempts, waiting.error.code, waiting.reason) == (attempt, "disk-full", "no space left")
        delays.append(waiting.retry_at - waiting.updated_at)
        staging = await house.until(job, State.STAGING)
        assert staging.updated_at == pytest.approx(waiting.retry_at, abs=1e-3)
        assert (staging.error, staging.retry_at) == (None, None)
    assert [2**n * (1 - JITTER) <= seconds <= 2**n for n, seconds in enumerate(delays)] == [True] * 4
    assert (await house.until(job, State.PUBLISHED)).attempts == 5


async def test_a_waiting_job_does_not_hold_up_the_others(build, autojump_clock):
    """While one job waits, the worker goes on with the next."""
    house = build()
    first = await house.accept(step=1)
    house.export.troubles[first.source] = [FULL]
    await house.accept(step=2)
    await house.until_ended()
    assert house.export.started == [1, 2, 1]


async def test_a_clock_set_back_does_not_stop_the_retries(build, autojump_clock):
    """A retry time further away than any delay can be is taken as come."""
    house = build(start=False)
    job = await house.accept()
    await house.ledger.move(job.id, Event.FAULT, retry_at=START + 86400)
    house.start()
    done = await house.until(job, State.PUBLISHED)
    assert done.updated_at < START + 60


async def test_a_clock_set_forward_is_seen_within_a_minute(build, autojump_clock):
    """The wall clock is looked at again and again, not slept away."""
    house = build(start=False)
    job = await house.accept()
    await house.ledger.move(job.id, Event.FAULT, retry_at=START + 299)
    house.start()
    await trio.sleep(1)
    clock = house.ledger.clock
    house.ledger.clock = lambda: clock() + 3600
    await house.until(job, State.PUBLISHED)
    assert trio.current_time() < 70


@pytest.mark.parametrize(
    "error",
    [
        DropError("source-corrupt", "bad header"),
        EnvironmentFault("permission-denied", "may not write"),
        ConfigError("config-invalid", "bad value"),
    ],
)
async def test_an_error_that_needs_a_person_fails_the_job(build, autojump_clock, error):
    """Bad data and lasting faults are not tried again; code, message and remedy are in the job."""
    house = build()
    job = await house.accept(step=1)
    house.export.troubles[job.source] = [error]
    failed = await house.until(job, State.FAILED)
    assert (failed.error.code, failed.error.message, failed.error.remedy) == (error.code, error.message, error.remedy)
    assert (failed.reason, failed.attempts) == (error.message, 1)
    await house.until(await house.accept(step=2), State.PUBLISHED)


async def test_a_bug_fails_one_job_and_the_daemon_goes_on(build, autojump_clock):
    """An error that nobody foresaw is logged with its traceback, and the next job is attempted."""
    house = build()
    job = await house.accept(step=1)
    bug = KeyError("layer")
    house.export.troubles[job.source] = [bug]
    with capture_logs() as lines:
        failed = await house.until(job, State.FAILED)
    assert (failed.error.code, failed.error.message) == ("internal-error", "KeyError: 'layer'")
    assert [line["exc_info"] for line in lines if line["event"] == "internal error"] == [bug]
    await house.until(await house.accept(step=2), State.PUBLISHED)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "memory-short"),
        (RuntimeError("can't start new thread"), "memory-short"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory-short"),
        (OSError(errno.EMFILE, "Too many open files", "/runs/a"), "too-many-files"),
        (ExceptionGroup("two threads", [OSError(errno.ENFILE, "full"), FULL]), "too-many-files"),
    ],
)
async def test_a_machine_that_gives_no_more_is_waited_for(build, autojump_clock, error, code):
    """Memory, threads, descriptors: whichever line met the end of them, the job waits and is tried again."""
    house = build()
    job = await house.accept(step=1)
    house.export.troubles[job.source] = [error]
    waiting = await house.until(job, State.WAITING)
    assert (waiting.error.code, waiting.error.retryable) == (code, True)
    await house.until(job, State.PUBLISHED)


async def test_an_export_that_skips_its_commit_is_a_bug(build, autojump_clock):
    """Without the commit nothing can have been published."""

    async def skip(job, attempt):
        await attempt.enter(Event.STAGE)
        return Published(1, "/x", 0, 0)

    house = build(skip)
    failed = await house.until(await house.accept(), State.FAILED)
    assert (failed.error.code, failed.error.message) == (
        "internal-error",
        "RuntimeError: the export ended in state 'staging'",
    )


async def test_an_attempt_can_only_enter_steps(build, autojump_clock):
    """An export function cannot publish or fail the job by itself."""

    async def overreach(job, attempt):
        await attempt.enter(Event.FAIL)

    house = build(overreach)
    failed = await house.until(await house.accept(), State.FAILED)
    assert failed.error.code == "internal-error"


@pytest.mark.parametrize(
    ("errors", "state", "code"),
    [
        ([FULL, DropError("source-corrupt", "bad")], State.FAILED, "source-corrupt"),
        ([FULL, JobCancelled()], State.WAITING, "disk-full"),
        (
            [FULL, ExceptionGroup("inner", [DropError("name-clash", "a"), ValueError("b")])],
            State.FAILED,
            "internal-error",
        ),
    ],
)
async def test_of_several_errors_the_gravest_counts(build, autojump_clock, errors, state, code):
    """A group from the export's nursery is judged by its worst member."""
    house = build()
    job = await house.accept()
    house.export.troubles[job.source] = [ExceptionGroup("nursery", errors)]
    assert (await house.until(job, state)).error.code == code


@pytest.mark.parametrize("state", [State.QUEUED, State.WAITING])
async def test_a_job_that_does_not_run_is_cancelled_at_once(build, autojump_clock, state):
    """A queued or waiting job is cancelled without an attempt."""
    house = build(policies={"ranker": ModelPolicy(paused=True)})
    job = await house.accept()
    if state is State.WAITING:
        await house.ledger.move(job.id, Event.FAULT, retry_at=START + 100)
    cancelled = await house.scheduler.cancel(job.id)
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "cancelled on request")
    assert house.export.started == []


@pytest.mark.parametrize("state", [State.STAGING, State.WRITING, State.VERIFYING])
async def test_an_attempt_is_cancelled(build, autojump_clock, state):
    """The attempt is stopped, the job is cancelled when it has ended, and the worker goes on."""
    house = build()
    job = await house.until(await house.accept(), state)
    cancelled = await house.scheduler.cancel(job.id)
    assert (cancelled.state, cancelled.attempts) == (State.CANCELLED, 1)
    assert house.export.at_work == 0
    await house.until(await house.accept(step=2), State.PUBLISHED)


async def test_a_thread_that_exports_is_told_to_stop(build, autojump_clock):
    """Work that trio cannot interrupt sees the cancel by `check`, and the job is cancelled."""
    checks = []

    async def stubborn(job, attempt):
        await attempt.enter(Event.STAGE)
        with trio.CancelScope(shield=True):
            for _ in range(5):
                await trio.sleep(1)
                checks.append(attempt.cancelled)
                attempt.check()

    house = build(stubborn)
    job = await house.until(await house.accept(), State.STAGING)
    await trio.sleep(1.5)
    assert (await house.scheduler.cancel(job.id)).state is State.CANCELLED
    assert checks == [False, True]


async def test_a_commit_is_not_cancelled(build, autojump_clock):
    """While it is being committed, and after it was published, a job cannot be cancelled."""
    house = build()
    job = await house.until(await house.accept(), State.COMMITTING)
    with pytest.raises(ConfigError, match="is being committed") as caught:
        await house.scheduler.cancel(job.id)
    assert caught.value.code == "job-not-cancellable"
    await house.until(job, State.PUBLISHED)
    with pytest.raises(ConfigError, match="is published already") as caught:
        await house.scheduler.cancel(job.id)
    assert caught.value.code == "job-not-cancellable"


async def test_a_cancel_between_choice_and_start_counts(build, autojump_clock):
    """A job that is cancelled when a worker has taken it but not begun is cancelled, not exported or broken."""
    house = build(start=False)
    job = await house.accept(step=1)
    house.scheduler._start(job, house.nursery)
    assert (await house.scheduler.cancel(job.id)).state is State.CANCELLED
    assert State.PUBLISHED not in house.ledger.counts()


async def test_failed_and_cancelled_jobs_can_be_retried(build, autojump_clock):
    """A person's retry begins anew, with the count of attempts at none."""
    house = build()
    job = await house.accept()
    house.export.troubles[job.source] = [DropError("source-corrupt", "bad header")]
    await house.until(job, State.FAILED)
    retried = await house.scheduler.retry(job.id)
    assert (retried.state, retried.attempts, retried.reason) == (State.QUEUED, 0, "retried on request")
    await house.until(job, State.STAGING)
    await house.scheduler.cancel(job.id)
    await house.scheduler.retry(job.id)
    done = await house.until(job, State.PUBLISHED)
    assert (done.attempts, done.error) == (1, None)


@pytest.mark.parametrize("state", [State.QUEUED, State.WAITING, State.PUBLISHED, State.SUPERSEDED])
async def test_other_jobs_cannot_be_retried(build, autojump_clock, state):
    """Retry of a job that has not failed is the asker's mistake."""
    house = build(start=False)
    job = await house.accept()
    for event in PATHS[state]:
        await house.ledger.move(job.id, event)
    with pytest.raises(ConfigError) as caught:
        await house.scheduler.retry(job.id)
    assert caught.value.code == "job-not-retryable"


async def test_an_unknown_job_has_its_own_code(build, autojump_clock):
    """Cancel and retry of a job that does not exist say so."""
    house = build()
    for act in (house.scheduler.cancel, house.scheduler.retry):
        with pytest.raises(ConfigError) as caught:
            await act(99)
        assert caught.value.code == "job-unknown"


async def test_a_restart_attempts_again_what_was_interrupted(build, autojump_clock):
    """Jobs that an earlier daemon left active are queued before anything starts, and attempted."""
    house = build(start=False)
    jobs = [await house.accept(step=step) for step in range(4)]
    for job, step in zip(jobs, range(1, 5), strict=True):
        for event in STEPS[:step]:
            await house.ledger.move(job.id, event)
    house.start()
    await house.until_ended()
    assert house.export.started == [0, 1, 2, 3]
    assert (await house.states(jobs[2]))[5:7] == ["queued", "staging"]


async def test_recover_passes_over_what_is_older_than_the_published_latest(build, autojump_clock):
    """A daemon that died between publishing the latest drop and superseding the older ones is made up for."""
    house = build(policies={"ranker": ModelPolicy("latest")}, start=False)
    older, newest = [await house.accept(step=step) for step in (1, 2)]
    for event in (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT):
        await house.ledger.move(newest.id, event)
    await house.ledger.move(newest.id, Event.PUBLISH, version=2)
    await house.scheduler.recover()
    assert (await house.ledger.get(older.id)).state is State.SUPERSEDED


async def test_recover_touches_no_running_attempt(build, autojump_clock):
    """A second call of recover does nothing."""
    house = build(start=False)
    assert await house.scheduler.recover() == []
    house.start()
    job = await house.until(await house.accept(), State.WRITING)
    assert await house.scheduler.recover() == []
    assert (await house.ledger.get(job.id)).state is State.WRITING


async def test_drain_waits_for_what_runs_and_starts_nothing(build, autojump_clock):
    """Within its time the running attempt ends, and the queue stays as it is."""
    house = build()
    first = await house.until(await house.accept(step=1), State.STAGING)
    second = await house.accept(step=2)
    await house.scheduler.drain(60)
    assert (await house.ledger.get(first.id)).state is State.PUBLISHED
    assert (await house.ledger.get(second.id)).state is State.QUEUED
    assert house.scheduler.busy == 0


async def test_drain_can_take_the_queue_along(build, autojump_clock):
    """All that is queued is exported, one after the other; what is paused or waits for its next attempt is not waited for."""
    house = build(policies={"paused": ModelPolicy(paused=True)})
    first = await house.until(await house.accept(step=1), State.WRITING)
    queued = [await house.accept(step=2), await house.accept("other", step=1)]
    paused = await house.accept("paused")
    later = await house.accept("later")
    await house.ledger.move(later.id, Event.FAULT, retry_at=START + 200)
    await house.scheduler.drain(60, queue=True)
    ended = [(await house.ledger.get(job.id)).state for job in (first, *queued, paused, later)]
    assert ended == [State.PUBLISHED] * 3 + [State.QUEUED, State.WAITING]
    assert trio.current_time() < 60


async def test_a_drain_with_the_queue_has_its_deadline_too(build, autojump_clock):
    """What is not begun by then stays queued; a drain at once ends the patient one."""
    house = build(Exporter(10))
    jobs = [await house.accept(step=step) for step in range(1, 4)]
    await house.until(jobs[0], State.WRITING)
    await house.scheduler.drain(60, queue=True)
    states = [(await house.ledger.get(job.id)).state for job in jobs]
    assert states[0] is State.PUBLISHED
    assert states[1] not in {State.PUBLISHED, State.QUEUED}
    assert states[2] is State.QUEUED


async def test_drain_stops_what_takes_too_long_and_it_is_resumed(build, autojump_clock):
    """After its deadline drain stops the attempt; the row stays active, and the next scheduler attempts it again."""
    house = build(Exporter(seconds=1000))
    job = await house.until(await house.accept(), State.WRITING)
    began = trio.current_time()
    await house.scheduler.drain(30)
    assert trio.current_time() == pytest.approx(began + 30)
    assert (await house.ledger.get(job.id)).state is State.WRITING
    again = build()
    done = await again.until(job, State.PUBLISHED)
    assert done.attempts == 2


async def test_drain_stops_threads_without_cancelling_the_job(build, autojump_clock):
    """A thread that sees the stop by `check` leaves the job resumable, not cancelled."""

    async def stubborn(job, attempt):
        await attempt.enter(Event.STAGE)
        with trio.CancelScope(shield=True):
            while True:
                await trio.sleep(1)
                attempt.check()

    house = build(stubborn)
    job = await house.until(await house.accept(), State.STAGING)
    await house.scheduler.drain(10)
    assert (await house.ledger.get(job.id)).state is State.STAGING


@pytest.mark.parametrize("alone", [True, False])
async def test_a_failure_during_the_stop_does_not_escape(build, autojump_clock, alone):
    """An error that comes with the stop, alone or in one group with it, is logged; the row is resumable."""

    async def break_when_stopped():
        with trio.CancelScope(shield=not alone):
            try:
                await trio.sleep(10)
            finally:
                raise ValueError("broken while stopping")

    async def clash(job, attempt):
        await attempt.enter(Event.STAGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_when_stopped)
            if not alone:
                nursery.start_soon(trio.sleep_forever)

    house = build(clash)
    job = await house.until(await house.accept(), State.STAGING)
    with capture_logs() as lines:
        await house.scheduler.drain(1)
    assert (await house.ledger.get(job.id)).state is State.STAGING
    assert [line["job"] for line in lines if line["event"] == "job failed while the daemon stopped"] == [job.id]


async def test_drain_of_a_scheduler_that_never_ran_returns(build, autojump_clock):
    """A daemon that stops while it starts does not hang, and a later run ends at once."""
    house = build(start=False)
    job = await house.accept()
    await house.scheduler.drain(10)
    await house.scheduler.run()
    assert (await house.ledger.get(job.id)).state is State.QUEUED


async def test_an_outcome_that_cannot_be_written_is_written_later(build, autojump_clock, monkeypatch):
    """If the journal's own disk is full when an attempt ends, the outcome waits for room; no export is lost or repeated."""
    house = build()
    job = await house.until(await house.accept(), State.COMMITTING)
    move = house.ledger.move
    refused = []

    async def full(job_id, event, **fields):
        if len(refused) < 3:
            refused.append(event)
            raise FULL
        return await move(job_id, event, **fields)

    monkeypatch.setattr(house.ledger, "move", full)
    await house.until(job, State.PUBLISHED)
    assert refused == [Event.PUBLISH] * 3
    assert house.export.started == [1]


async def test_a_journal_without_room_does_not_stop_the_loop(build, autojump_clock, monkeypatch):
    """If a due job cannot be queued for want of room, the scheduler tries again."""
    house = build(start=False)
    job = await house.accept()
    await house.ledger.move(job.id, Event.FAULT, retry_at=START + 1)
    move = house.ledger.move
    refused = []

    async def full(job_id, event, **fields):
        if not refused:
            refused.append(event)
            raise FULL
        return await move(job_id, event, **fields)

    monkeypatch.setattr(house.ledger, "move", full)
    house.start()
    await house.until(job, State.PUBLISHED)
    assert refused == [Event.DUE]


async def test_a_corrupt_journal_ends_the_daemon(build, autojump_clock, monkeypatch):
    """A journal that will not be better by itself is not worked around."""
    house = build(start=False)
    job = await house.accept()
    await house.ledger.move(job.id, Event.FAULT, retry_at=START)

    async def broken(job_id, event, **fields):
        raise EnvironmentFault("journal-corrupt", "damaged")

    monkeypatch.setattr(house.ledger, "move", broken)
    with pytest.raises(ExceptionGroup) as caught:
        await house.scheduler.run()
    assert caught.group_contains(EnvironmentFault, match="damaged")


async def test_an_attempt_shows_its_progress(build, autojump_clock):
    """The attempt under way can be asked for; after its end there is none."""
    house = build()
    job = await house.until(await house.accept(), State.WRITING)
    house.scheduler.attempt(job.id).progress.add(5)
    assert house.scheduler.attempt(job.id).progress.bytes_done == 5
    assert (house.scheduler.busy, house.scheduler.workers) == (1, 1)
    await house.until_ended()
    await trio.testing.wait_all_tasks_blocked()
    assert house.scheduler.attempt(job.id) is None
