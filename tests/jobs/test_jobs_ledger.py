"""The ledger: row, picture, bus and log together."""

import pytest
import trio
from jobs_kit import PATHS, new_job
from structlog.testing import capture_logs

from smdaemon.errors import ConfigError
from smdaemon.jobs.job import JobError
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.states import Event, ImpossibleMoveError, State


async def drive(ledger, job, state):
    """Move a queued job into `state`."""
    for event in PATHS[state]:
        job = await ledger.move(job.id, event)
    return job


@pytest.fixture
async def ledger(tmp_path):
    """A ledger on an empty journal."""
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        yield ledger


async def test_each_move_is_one_row_one_event_one_line(ledger):
    """A move is in the journal, on the bus and in the log, with the job's id and why."""
    with ledger.bus.subscribe() as channel, capture_logs() as lines:
        job = await ledger.accept(new_job())
        error = JobError("source-corrupt", "bad header", "write it again")
        job = await ledger.move(job.id, Event.FAIL, reason="bad header", error=error)
        moves = [channel.receive_nowait() for _ in range(3)]
        with pytest.raises(trio.WouldBlock):
            channel.receive_nowait()
    assert [(move.seq, move.job.state.value) for move in moves] == [(1, "detected"), (2, "queued"), (3, "failed")]
    assert [item.seq for item in await ledger.history(job.id)] == [1, 2, 3]
    assert await ledger.get(job.id) == moves[-1].job == job
    assert [(line["job"], line["model"], line["state"], line["log_level"]) for line in lines] == [
        (1, "ranker", "detected", "info"),
        (1, "ranker", "queued", "info"),
        (1, "ranker", "failed", "error"),
    ]
    assert (lines[-1]["event"], lines[-1]["reason"], lines[-1]["code"]) == (
        "job failed",
        "bad header",
        "source-corrupt",
    )


async def test_a_known_drop_is_neither_told_nor_logged(ledger):
    """Accepting the same drop again gives nothing and says nothing."""
    await ledger.accept(new_job())
    with capture_logs() as lines:
        assert await ledger.accept(new_job()) is None
    assert lines == []


async def test_a_refused_move_is_not_told(ledger):
    """An impossible move reaches neither picture nor bus."""
    job = await ledger.accept(new_job())
    with ledger.bus.subscribe() as channel, pytest.raises(ImpossibleMoveError):
        await ledger.move(job.id, Event.COMMIT)
    assert channel.statistics().current_buffer_used == 0
    assert ledger.open_jobs == {job.id: job}
    with pytest.raises(ConfigError):
        await ledger.move(99, Event.CANCEL)


async def test_the_picture_is_what_a_restart_reads(tmp_path):
    """Counts, open jobs and newest versions kept in memory are those that the journal gives to the next daemon."""
    path = tmp_path / "journal.sqlite"
    async with open_ledger(path) as ledger:
        for step, state in enumerate(PATHS):
            await drive(ledger, await ledger.accept(new_job("ab"[step % 2], step)), state)
        for version in (7, 5):
            job = await drive(ledger, await ledger.accept(new_job("a", 100 + version)), State.COMMITTING)
            await ledger.move(job.id, Event.PUBLISH, version=version)
        await ledger.move(8, Event.RETRY)
        picture = _picture(ledger)
    async with open_ledger(path) as again:
        assert _picture(again) == picture
        assert again.counts("a")[State.PUBLISHED] == 2
        assert again.newest_published["a"].version == 7
        assert sum(again.counts().values()) == len(PATHS) + 2


def _picture(ledger):
    queued = {model: jobs for model, jobs in ledger.queued.items() if jobs}
    counts = {model: ledger.counts(model) for model in (None, "a", "b")}
    return ledger.open_jobs, queued, ledger.waiting, ledger.newest_published, counts, ledger.bus.last_seq


async def test_a_cancelled_caller_leaves_no_half_move(ledger):
    """A move whose caller is cancelled is made and told all the same."""
    with ledger.bus.subscribe() as channel:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ledger.accept(new_job())
        assert channel.statistics().current_buffer_used == 2
    assert [job.id for job in await ledger.page()] == [1]
    assert ledger.counts() == {State.QUEUED: 1}


async def test_many_callers_at_once_are_told_in_order(ledger):
    """However the tasks run, the bus has the moves in the order of their places."""
    with ledger.bus.subscribe() as channel:
        async with trio.open_nursery() as nursery:
            for step in range(20):
                nursery.start_soon(ledger.accept, new_job(step=step))
        places = [channel.receive_nowait().seq for _ in range(40)]
    assert places == list(range(1, 41))
    assert [move.seq for move in await ledger.moves_after(30, 5)] == [31, 32, 33, 34, 35]


async def test_jobs_are_superseded_together(ledger):
    """A batch is one transaction and one event each."""
    jobs = [await ledger.accept(new_job(step=step)) for step in range(3)]
    await ledger.move_all([job.id for job in jobs], Event.SUPERSEDE, reason="job 9 is newer")
    assert ledger.counts() == {State.SUPERSEDED: 3}
    assert ledger.open_jobs == {}


async def test_pruned_jobs_leave_the_counts(ledger):
    """Counts follow what is in the journal."""
    await ledger.move((await ledger.accept(new_job())).id, Event.CANCEL)
    await ledger.accept(new_job(step=2))
    assert await ledger.prune(older_than=ledger.clock() + 1, keep=0) == 1
    assert ledger.counts() == {State.QUEUED: 1}


async def test_sequence_numbers_and_pages(ledger):
    """Reads and the counter go through the same thread."""
    assert [await ledger.next_sequence("ranker", 3), await ledger.next_sequence("ranker", 1)] == [3, 4]
    await ledger.accept(new_job())
    assert [job.id for job in await ledger.page(model="ranker", state=State.QUEUED)] == [1]
    assert await ledger.get(5) is None
