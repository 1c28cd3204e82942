"""The scheduler, with a fake export function and a clock that jumps.

pytest-trio uses a clock only if the test itself asks for it, so each does.
"""

import pytest
import trio
import trio.testing
from scheduler_kit import FULL, START

from smdaemon.errors import ConfigError, DropError, EnvironmentFault
from smdaemon.jobs.retry import JITTER
from smdaemon.jobs.states import Event, State
from smdaemon.jobs.turns import ModelPolicy


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


async def test_latest_lets_neither_requests_nor_drops_wait_for_ever(build, autojump_clock):
    """A request has its turn before drops that came later, however new they are; the newest drop before requests that came later."""
    house = build(policies={"ranker": ModelPolicy("latest")}, start=False)
    await house.accept(step=5, origin="request")
    for step in (6, 7):
        await house.accept(step=step)
    for step in (98, 99):
        await house.accept(step=step, origin="api")
    house.start()
    await house.until_ended()
    assert house.export.started == [5, 7, 98, 99]


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


async def test_an_attempt_shows_its_progress(build, autojump_clock):
    """The attempt under way can be asked for; after its end there is none, and what it wrote is counted."""
    house = build()
    job = await house.until(await house.accept(), State.WRITING)
    house.scheduler.attempt(job.id).progress.add(5)
    assert house.scheduler.attempt(job.id).progress.bytes_done == house.scheduler.bytes_written == 5
    assert (house.scheduler.busy, house.scheduler.workers) == (1, 1)
    await house.until_ended()
    await trio.testing.wait_all_tasks_blocked()
    assert house.scheduler.attempt(job.id) is None
    assert house.scheduler.bytes_written == 5
