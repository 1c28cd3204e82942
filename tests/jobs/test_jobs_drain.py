"""How a scheduler starts again after an end, and stops: what it waits for, and what it leaves to the next start."""

import pytest
import trio
import trio.testing
from scheduler_kit import START, STEPS, Exporter
from structlog.testing import capture_logs

from smdaemon.jobs.states import Event, State
from smdaemon.jobs.turns import ModelPolicy


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
