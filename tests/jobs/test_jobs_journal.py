"""The journal, by example."""

import shutil
from dataclasses import replace

import apsw
import pytest
from jobs_kit import PATHS, new_job

from smdaemon.errors import ConfigError, EnvironmentFault
from smdaemon.jobs.job import JobError, NewJob
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import Event, ImpossibleMoveError, State


@pytest.fixture
def path(tmp_path):
    """Where the journal lies."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    """An empty journal."""
    journal = Journal(path)
    yield journal
    journal.close()


def accept(journal, new=None, now=1.0):
    """Accept a job and return it."""
    return journal.accept(new or new_job(), now)[-1].job


def drive(journal, job, state, now=2.0):
    """Move a queued job into `state`."""
    for event in PATHS[state]:
        job = journal.move(job.id, event, now).job
    return job


def test_an_accepted_job_is_detected_and_queued_at_once(journal):
    """Acceptance is two moves in one transaction, and the job is what was asked for."""
    new = new_job(format="npz", request=b"\x00\xff", result_path="/runs/a.result.json", version=41)
    moves = journal.accept(new, 12.5)
    assert [(move.seq, move.before, move.job.state) for move in moves] == [
        (1, None, State.DETECTED),
        (2, State.DETECTED, State.QUEUED),
    ]
    job = journal.get(1)
    assert job == moves[-1].job
    assert (job.created_at, job.updated_at, job.attempts, job.error) == (12.5, 12.5, 0, None)
    assert NewJob(**{name: getattr(job, name) for name in NewJob.__slots__}) == new


def test_the_same_drop_is_accepted_once(journal):
    """Model, source, identity and request together say what is the same; order and time do not count."""
    new = new_job()
    accept(journal, new)
    assert journal.accept(replace(new, order=99), 7.0) == []
    others = [
        replace(new, model="b"),
        replace(new, source="/x"),
        replace(new, identity="y"),
        replace(new, request=b"z"),
    ]
    assert [len(journal.accept(other, 8.0)) for other in others] == [2, 2, 2, 2]


def test_neighbouring_fields_do_not_run_together(journal):
    """A drop is not taken for another whose fields only join to the same bytes."""
    accept(journal, new_job(model="ab", source="c"))
    assert journal.accept(new_job(model="a", source="bc"), 1.0)


def test_a_path_need_not_be_utf8(journal, path):
    """A file name of any bytes comes back as it was, and a message that names it can be stored."""
    job = accept(journal, new_job(source="/runs/\udcff\udc80.npz"))
    error = JobError("source-corrupt", "bad /runs/\udcff.npz", "write it again")
    journal.move(job.id, Event.FAIL, 2.0, reason="bad \udcff", error=error)
    journal.close()
    again = Journal(path)
    found = again.get(job.id)
    again.close()
    assert found.source == "/runs/\udcff\udc80.npz"
    assert found.error.message == "bad /runs/\\udcff.npz"
    assert found.reason == "bad \\udcff"


def test_a_drop_with_a_known_problem_fails_at_once(journal):
    """What is bad before it is attempted is a failed job from the start, which a person may retry."""
    problem = JobError("request-invalid", "unknown field 'x'", "correct the request")
    moves = journal.accept(new_job(), 1.0, problem)
    assert [move.job.state for move in moves] == [State.DETECTED, State.FAILED]
    assert (moves[-1].job.reason, journal.get(1).error) == ("unknown field 'x'", problem)
    assert journal.move(1, Event.RETRY, 2.0).job.state is State.QUEUED


@pytest.mark.parametrize("order", [0, 2**63 - 1, -1, 1732181571.123456, 0.1])
def test_an_order_keeps_its_value(journal, order):
    """A step of 63 bits and a time with its fraction both come back exactly."""
    found = journal.get(accept(journal, new_job(step=order)).id).order
    assert found == order
    assert type(found) is type(order)


def test_a_move_changes_row_and_history_together(journal):
    """A move with changes is in the row, in the history and in the event stream."""
    job = accept(journal)
    error = JobError("disk-full", "no space left", "make room", retryable=True)
    journal.move(job.id, Event.STAGE, 2.0, attempts=1, tensors=3, bytes_total=2**40)
    move = journal.move(job.id, Event.FAULT, 3.0, reason="no space left", retry_at=4.5, error=error)
    assert (move.seq, move.before) == (4, State.STAGING)
    assert journal.get(job.id) == move.job
    assert (move.job.retry_at, move.job.error, move.job.bytes_total) == (4.5, error, 2**40)
    assert [(item.seq, item.state, item.at, item.reason) for item in journal.history(job.id)] == [
        (1, State.DETECTED, 1.0, ""),
        (2, State.QUEUED, 1.0, ""),
        (3, State.STAGING, 2.0, ""),
        (4, State.WAITING, 3.0, "no space left"),
    ]


def test_a_retry_time_ends_with_the_waiting(journal):
    """A job that is due, or cancelled while it waits, keeps no time of its next attempt."""
    for event in (Event.DUE, Event.CANCEL):
        job = accept(journal, new_job(source=event))
        journal.move(job.id, Event.FAULT, 2.0, retry_at=9.0)
        assert journal.move(job.id, event, 3.0).job.retry_at is None


def test_an_impossible_move_changes_nothing(journal):
    """A refused move leaves row, history and event stream as they were."""
    job = accept(journal)
    with pytest.raises(ImpossibleMoveError):
        journal.move(job.id, Event.PUBLISH, 2.0)
    assert journal.get(job.id) == job
    assert journal.last_seq() == 2


def test_an_unknown_job_has_a_code(journal):
    """Moving a job that does not exist is the asker's mistake; reading it gives nothing."""
    with pytest.raises(ConfigError) as caught:
        journal.move(7, Event.CANCEL, 1.0)
    assert caught.value.code == "job-unknown"
    assert journal.get(7) is None
    assert journal.history(7) == []


def test_jobs_move_all_or_none(journal):
    """One job that cannot move keeps the others where they are."""
    first, second = (accept(journal, new_job(step=step)) for step in (1, 2))
    drive(journal, second, State.COMMITTING)
    with pytest.raises(ImpossibleMoveError):
        journal.move_all([first.id, second.id], Event.SUPERSEDE, 3.0)
    assert journal.get(first.id).state is State.QUEUED
    assert [move.job.state for move in journal.move_all([first.id], Event.SUPERSEDE, 3.0)] == [State.SUPERSEDED]


def test_a_statement_that_fails_within_a_move_undoes_the_others(journal):
    """If the history cannot be written the row is not either."""
    job = accept(journal)
    journal._rows(
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.transitions BEGIN SELECT RAISE(ABORT, 'broken'); END"
    )
    with pytest.raises(apsw.ConstraintError):
        journal.move(job.id, Event.STAGE, 2.0)
    with pytest.raises(apsw.ConstraintError):
        journal.accept(new_job(step=2), 2.0)
    journal._rows("DROP TRIGGER broken")
    assert journal.get(job.id) == job
    assert journal.page() == [job]
    assert len(journal.accept(new_job(step=2), 3.0)) == 2


def test_pages_go_from_new_to_old(journal):
    """A page holds the newest jobs below `before`, of one model or state if asked."""
    for step in range(5):
        accept(journal, new_job("ab"[step % 2], step))
    drive(journal, journal.get(3), State.FAILED)
    ids = [job.id for job in journal.page(limit=2)]
    assert ids == [5, 4]
    assert [job.id for job in journal.page(before=4, limit=9)] == [3, 2, 1]
    assert [job.id for job in journal.page(model="b")] == [4, 2]
    assert [job.id for job in journal.page(model="a", state=State.QUEUED)] == [5, 1]
    assert journal.page(model="c") == []


def test_the_event_stream_can_be_read_from_any_place(journal):
    """Moves come in order after a place, each with the state it led to."""
    job = drive(journal, accept(journal), State.WRITING)
    moves = journal.moves_after(1, 2)
    assert [(move.seq, move.job.state) for move in moves] == [(2, State.QUEUED), (3, State.STAGING)]
    assert [move.job.id for move in moves] == [job.id, job.id]
    assert journal.moves_after(journal.last_seq(), 10) == []


def test_counts_open_jobs_and_the_newest_version(journal):
    """What a status needs is what the rows say."""
    for step, state in enumerate((State.PUBLISHED, State.PUBLISHED, State.FAILED, State.WAITING, State.QUEUED)):
        drive(journal, accept(journal, new_job(step=step)), state)
    for job_id, version in ((1, 9), (2, 8)):
        journal._rows("UPDATE jobs SET version = ? WHERE id = ?", (version, job_id))
    assert journal.counts() == {
        ("ranker", State.PUBLISHED): 2,
        ("ranker", State.FAILED): 1,
        ("ranker", State.WAITING): 1,
        ("ranker", State.QUEUED): 1,
    }
    assert [job.id for job in journal.open_jobs()] == [4, 5]
    assert {model: (job.id, job.version) for model, job in journal.newest_published().items()} == {"ranker": (1, 9)}


def test_a_restart_resumes_what_was_active(journal, path):
    """After a restart active jobs are queued again, with the reason; the others stay."""
    for step, state in enumerate(PATHS):
        drive(journal, accept(journal, new_job(step=step)), state)
    before = {job.id: job.state for job in journal.page()}
    journal.close()
    again = Journal(path)
    resumed = again.resume(9.0)
    after = {job.id: job.state for job in again.page()}
    again.close()
    assert [before[move.job.id] for move in resumed] == [
        State.STAGING,
        State.WRITING,
        State.VERIFYING,
        State.COMMITTING,
    ]
    assert all(move.job.reason == "the daemon stopped during the attempt" for move in resumed)
    assert after == before | {move.job.id: State.QUEUED for move in resumed}


def test_what_was_accepted_survives_a_crash(journal, path, tmp_path):
    """Files as a killed process leaves them, without a close, hold every move."""
    job = drive(journal, accept(journal), State.VERIFYING)
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed, ignore=shutil.ignore_patterns("crashed"))
    again = Journal(crashed / path.name)
    assert again.get(job.id) == job
    assert again.accept(new_job(), 5.0) == []
    again.close()


def test_a_sequence_never_repeats(journal, path):
    """Numbers rise by one from at least what is asked, each model its own, and go on after a restart."""
    assert [journal.next_sequence("a", 1), journal.next_sequence("a", 1), journal.next_sequence("b", 1)] == [1, 2, 1]
    assert [journal.next_sequence("a", 10), journal.next_sequence("a", 3)] == [10, 11]
    journal.close()
    again = Journal(path)
    assert again.next_sequence("a", 1) == 12
    again.close()


def test_prune_forgets_old_ended_jobs_only(journal):
    """Open jobs, young ones, the newest few of a model and its newest published version stay."""
    published, failed, waiting, young, last = (accept(journal, new_job(step=step)) for step in range(5))
    drive(journal, published, State.PUBLISHED)
    journal._rows("UPDATE jobs SET version = 3 WHERE id = ?", (published.id,))
    drive(journal, failed, State.FAILED)
    drive(journal, waiting, State.WAITING)
    drive(journal, young, State.FAILED, now=50.0)
    drive(journal, last, State.FAILED)
    seq = journal.last_seq()
    assert journal.prune(older_than=10.0, keep=1) == 1
    assert [job.id for job in journal.page()] == [5, 4, 3, 1]
    assert journal.history(failed.id) == []
    assert journal.last_seq() == seq


def test_a_pruned_drop_is_not_accepted_again(journal):
    """A drop that still lies there after its job is forgotten is not exported again; ids and places are not reused."""
    job = drive(journal, accept(journal), State.CANCELLED)
    assert journal.prune(older_than=10.0, keep=0) == 1
    assert journal.accept(new_job(), 11.0) == []
    moves = journal.accept(new_job(step=2), 11.0)
    assert moves[0].job.id == job.id + 1
    assert moves[0].seq == 4


def test_a_full_disk_is_a_fault_that_passes(journal):
    """Where SQLite finds no room the error is retryable, nothing of the job remains, and later it is accepted."""
    new = new_job(request=bytes(1 << 20))
    journal._connection.pragma("max_page_count", journal._connection.pragma("page_count") + 1)
    with pytest.raises(EnvironmentFault) as caught:
        journal.accept(new, 1.0)
    assert (caught.value.code, caught.value.retryable) == ("disk-full", True)
    assert journal.page() == []
    journal._connection.pragma("max_page_count", 1 << 20)
    assert len(journal.accept(new, 2.0)) == 2


def test_a_second_daemon_is_refused(journal, path):
    """The journal is locked for as long as it is open."""
    with pytest.raises(ConfigError) as caught:
        Journal(path)
    assert caught.value.code == "state-dir-locked"
    journal.close()
    Journal(path).close()


def test_garbage_is_a_corrupt_journal(path):
    """A file that is no database is refused and left as it is."""
    path.write_bytes(b"not a database, and long enough to be looked at" * 100)
    content = path.read_bytes()
    with pytest.raises(EnvironmentFault) as caught:
        Journal(path)
    assert caught.value.code == "journal-corrupt"
    assert path.read_bytes() == content


def test_a_damaged_page_is_a_corrupt_journal(path):
    """Damage within a database is found when it is opened, not when a row is needed."""
    journal = Journal(path)
    for step in range(100):
        accept(journal, new_job(step=step))
    journal.close()
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault) as caught:
        Journal(path)
    assert caught.value.code == "journal-corrupt"


def test_another_programs_database_is_refused(path):
    """A database that is not a journal of ours is not written to."""
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE jobs (x)").fetchall()
    other.close()
    with pytest.raises(EnvironmentFault, match="not a journal of smdaemon") as caught:
        Journal(path)
    assert caught.value.code == "journal-corrupt"


def test_a_newer_journal_is_refused(journal, path):
    """A schema from the future is not touched."""
    journal._connection.pragma("user_version", 99)
    journal.close()
    with pytest.raises(ConfigError, match="schema 99, this smdaemon knows 5") as caught:
        Journal(path)
    assert caught.value.code == "journal-too-new"


def test_a_missing_directory_has_a_code(tmp_path):
    """The journal's directory is not made on the way."""
    with pytest.raises(EnvironmentFault) as caught:
        Journal(tmp_path / "absent" / "journal.sqlite")
    assert caught.value.code == "directory-missing"
