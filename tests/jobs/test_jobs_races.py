"""Two who move one job at the same time: one of them comes too late, and nothing ends for that."""

import pytest
import trio
import trio.testing
from scheduler_kit import START

from smdaemon.errors import ConfigError
from smdaemon.jobs.states import Event, State
from smdaemon.jobs.turns import ModelPolicy


def meanwhile(monkeypatch, ledger, method, act):
    """Have `act` done once, right before the next call of that method of the ledger goes on."""
    original = getattr(ledger, method)

    async def call(*args, **fields):
        monkeypatch.setattr(ledger, method, original)
        await act()
        return await original(*args, **fields)

    monkeypatch.setattr(ledger, method, call)


@pytest.fixture
async def due(build):
    """A house with two jobs whose next attempt is due, before the scheduler runs."""
    house = build(start=False)
    jobs = [await house.accept(step=step) for step in (1, 2)]
    for job in jobs:
        await house.ledger.move(job.id, Event.FAULT, retry_at=START)
    return house, jobs


async def test_a_job_cancelled_while_due_ones_are_queued(due, autojump_clock, monkeypatch):
    """The loop had both on its list; the cancelled one is passed over, the other is published."""
    house, (first, second) = due
    meanwhile(monkeypatch, house.ledger, "move", lambda: house.scheduler.cancel(second.id))
    house.start()
    await house.until(first, State.PUBLISHED)
    assert (await house.ledger.get(second.id)).state is State.CANCELLED


async def test_a_job_offered_again_while_due_ones_are_queued(due, autojump_clock, monkeypatch):
    """A trainer's offer queues the job before the loop comes to it: it is queued once, and published."""
    house, (_, second) = due
    meanwhile(monkeypatch, house.ledger, "move", lambda: house.ledger.move(second.id, Event.DUE))
    house.start()
    await house.until_ended()
    assert await house.states(second) == [
        *("detected", "queued", "waiting", "queued"),
        *("staging", "writing", "verifying", "committing", "published"),
    ]


async def test_two_exports_that_end_together_supersede_once(build, autojump_clock):
    """Of two published at the same moment both find the same older jobs: these are superseded, by one of them."""
    house = build(policies={"ranker": ModelPolicy("latest", max_parallel=2)}, workers=2, start=False)
    older = [await house.accept(step=step) for step in (1, 2)]
    await house.accept(step=3)
    await house.accept(step=4)
    house.start()
    await house.until_ended()
    assert sorted(house.export.started) == [3, 4]
    for job in older:
        assert await house.states(job) == ["detected", "queued", "superseded"]


async def test_a_job_that_is_being_superseded_is_not_begun(build, autojump_clock, monkeypatch):
    """A worker that becomes free between the choice of the older jobs and their move takes none of them."""
    house = build(policies={"ranker": ModelPolicy("latest")}, workers=2, start=False)
    older = await house.accept(step=1)
    await house.accept(step=2)

    async def look():
        house.policies["ranker"] = ModelPolicy("latest", max_parallel=2)
        await house.scheduler.answers()

    meanwhile(monkeypatch, house.ledger, "move_all", look)
    house.start()
    await house.until_ended()
    assert house.export.started == [2]
    assert await house.states(older) == ["detected", "queued", "superseded"]


@pytest.mark.parametrize("first", ["cancel", "supersede"])
async def test_a_job_is_cancelled_and_superseded_at_the_same_time(build, autojump_clock, first):
    """Whoever comes first moves it; who cancels second is told why it cannot be done, who supersedes second passes it over."""
    house = build(start=False)
    older, newest = [await house.accept(step=step) for step in (1, 2)]
    refused = []

    async def cancel():
        try:
            await house.scheduler.cancel(older.id)
        except ConfigError as error:
            refused.append(error.code)

    async def supersede():
        await house.scheduler._supersede_older(newest)

    async with trio.open_nursery() as nursery, house.ledger._order:  # both wait for their turn
        for act in (cancel, supersede) if first == "cancel" else (supersede, cancel):
            nursery.start_soon(act)
            await trio.testing.wait_all_tasks_blocked()
    state = (await house.ledger.get(older.id)).state
    expected = (State.CANCELLED, []) if first == "cancel" else (State.SUPERSEDED, ["job-not-cancellable"])
    assert (state, refused) == expected
    assert house.scheduler._choose() == newest
