"""What an attempt or the journal throws: whose fault it is, and that the others go on."""

import errno

import pytest
from scheduler_kit import FULL, START
from structlog.testing import capture_logs

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.jobs.attempt import JobCancelled, Published
from smdaemon.jobs.states import Event, State


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
