"""Faults where the journal lies, at each operation of the database, and power losses behind each of them."""

import errno
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk_model import Kept
from faults_kit import TALLY, Case

from smdaemon.durable import lasting_directory
from smdaemon.errors import EnvironmentFault
from smdaemon.jobs.job import JobError, NewJob
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import Event

pytestmark = pytest.mark.root

OPERATIONS = (
    "open",
    "create",
    "read",
    "write",
    "fsync",
    "fsyncdir",
    "opendir",
    "unlink",
    "setattr",
    "getattr",
    "lookup",
)
# What each may be called. SQLite passes no reason on but that there is no space.
FAULTS = {
    errno.EIO: {"io-error"},
    errno.ENOSPC: {"disk-full", "io-error"},
    errno.EROFS: {"read-only", "io-error"},
}
FULL_DISK = JobError("disk-full", "no space left", "make room", retryable=True)


def new_job(step: int) -> NewJob:
    """A drop."""
    return NewJob(
        model="ranker", origin="drop", source=f"/runs/ckpt-{step}.npz", identity="1-2-3", order=step, version=step
    )


Act = Callable[[Journal], Any]


def moved(job_id: int, event: Event, **changes: Any) -> Act:
    """The act of moving a job."""
    return lambda journal: journal.move(job_id, event, 2.0, **changes)


# A life of a journal. One is closed and opened again at None.
LIFE: list[Act | None] = [
    lambda journal: journal.accept(new_job(1), 1.0),
    lambda journal: journal.accept(new_job(2), 1.0),
    moved(1, Event.STAGE, attempts=1),
    moved(1, Event.FAULT, reason="no space left", retry_at=9.0, error=FULL_DISK),
    lambda journal: journal.next_sequence("ranker", 7),
    None,
    moved(1, Event.DUE),
    moved(1, Event.STAGE, attempts=2),
    moved(1, Event.WRITE),
    moved(1, Event.VERIFY),
    moved(1, Event.COMMIT),
    moved(1, Event.PUBLISH, export_dir="/models/1"),
    lambda journal: journal.move_all([2], Event.SUPERSEDE, 3.0),
    lambda journal: journal.accept(new_job(3), 4.0, FULL_DISK),
    lambda journal: journal.resume(5.0),
    lambda journal: journal.prune(0.5, 1),
    None,
    lambda journal: journal.accept(new_job(1), 6.0),
]


def told(journal: Journal) -> tuple[object, ...]:
    """Everything that a journal says."""
    jobs = sorted(journal.page(), key=lambda job: job.id)
    histories = [journal.history(job.id) for job in jobs]
    return jobs, histories, journal.last_seq(), journal.counts(), journal.newest_published()


def live(path: Path, after_each: Callable[[int, Journal], None]) -> None:
    """The whole life, on a disk without faults."""
    journal = Journal(path)
    try:
        after_each(0, journal)
        for number, act in enumerate(LIFE, start=1):
            if act is None:
                journal.close()
                journal = Journal(path)
            else:
                act(journal)
            after_each(number, journal)
    finally:
        journal.close()


@pytest.fixture
def path(disk) -> Path:
    """Where the journal lies."""
    lasting_directory(disk.path / "state")
    return disk.path / "state" / "journal.sqlite"


def test_a_journal_that_is_refused_an_operation_says_so_and_goes_on(disk, path, everything):
    """Nothing of the method's work remains; once the disk is mended the same method does it, and the journal ends as without a fault."""
    disk.ask("arm", kind="none", nth=0, effect=0, under="state/")
    expected: list[object] = []
    live(path, lambda _number, journal: expected.append(told(journal)))
    counts = disk.ask("counts")
    operations = [(kind, nth) for kind in OPERATIONS for nth in range(1, counts.get(kind, 0) + 1)]
    assert len(operations) > 100
    cases = [Case(*op, *way) for op, way in itertools.product(operations, itertools.product(FAULTS, (True, False)))]
    for case in cases[:: 1 if everything else 61]:
        disk.ask("reset")
        lasting_directory(path.parent)
        disk.ask("arm", kind=case.kind, nth=case.nth, effect=case.number, lasting=case.lasting, under="state/")
        _live_on(disk, path, case, expected)
        TALLY["journals that met a fault"] += 1


def _live_on(disk, path: Path, case: Case, expected: list[object]) -> None:
    journal = _again(disk, case, lambda: Journal(path))
    for number, act in enumerate(LIFE, start=1):
        if act is None:
            journal.close()
            journal = _again(disk, case, lambda: Journal(path))
            continue
        try:
            act(journal)
        except EnvironmentFault as fault:
            refused = fault
        else:
            refused = None
        if refused is not None:
            disk.ask("clear")
            assert refused.code in FAULTS[case.number], (case, number, refused)
            assert told(journal) == expected[number - 1], (case, number)
            act(journal)
    disk.ask("clear")
    assert told(journal) == expected[-1], case
    journal.close()
    acts = disk.ask("position")
    disk.ask("cut", acts=acts, kept=Kept.NOTHING)  # what was written again after an error is durable, too
    journal = Journal(path)
    assert told(journal) == expected[-1], case
    journal.close()


def _again(disk, case: Case, act: Callable[[], Journal]) -> Journal:
    try:
        return act()
    except EnvironmentFault as fault:
        refused = fault
    assert refused.code in FAULTS[case.number], (case, refused)
    disk.ask("clear")
    return act()


def test_what_the_journal_took_outlasts_a_power_loss(disk, path, everything):
    """Cut behind whichever act: every method that had returned is there afterwards, the one that was under way wholly or not at all."""
    expected: list[object] = []
    marks: list[int] = []

    def mark(_number: int, journal: Journal) -> None:
        expected.append(told(journal))
        marks.append(disk.ask("position"))

    disk.ask("begin")
    live(path, mark)
    for kept in Kept:
        cuts = disk.ask("cuts", kept=kept)
        assert len(cuts) > 20
        for acts in cuts[:: 1 if everything else 17]:
            disk.ask("cut", acts=acts, kept=kept)
            journal = Journal(path)
            found = told(journal)
            journal.close()
            done = sum(mark <= acts for mark in marks)
            allowed = expected[max(done - 1, 0) : done + 1]
            assert found in allowed, (kept, acts, done)
            TALLY["power losses of the journal"] += 1
