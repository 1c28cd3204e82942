"""Cancel and retry: what a person may do to a job, and when."""

import pytest
import trio
import trio.testing
from jobs_kit import PATHS
from scheduler_kit import START

from smdaemon.errors import ConfigError, DropError
from smdaemon.jobs.job import Publication
from smdaemon.jobs.states import Event, State
from smdaemon.jobs.turns import ModelPolicy


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


@pytest.mark.parametrize(("then", "changes"), [(Event.RESUME, {}), (Event.FAULT, {"retry_at": START + 100})])
async def test_what_may_be_published_already_is_not_cancelled(build, autojump_clock, then, changes):
    """Its commit had begun, and how it ended is not known: its version may be there, and be loaded."""
    house = build(policies={"ranker": ModelPolicy(max_parallel=0)})
    job = await house.accept()
    for event in (Event.STAGE, Event.WRITE, Event.VERIFY):
        await house.ledger.move(job.id, event)
    await house.ledger.move(job.id, Event.COMMIT, publication=Publication("1/2-3-4"))
    await house.ledger.move(job.id, then, **changes)
    with pytest.raises(ConfigError, match="may be published already") as caught:
        await house.scheduler.cancel(job.id)
    assert caught.value.code == "job-not-cancellable"
    assert (await house.ledger.get(job.id)).state is not State.CANCELLED


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
