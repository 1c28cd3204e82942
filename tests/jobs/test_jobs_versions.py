"""The journal's table of published versions: what it is told, what outlives what, and journals from before it was there."""

import apsw
import pytest
from jobs_kit import PATHS, new_job

from smdaemon.errors import ConfigError
from smdaemon.jobs.job import JobError, Publication
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.schema import APPLICATION_ID, MIGRATIONS
from smdaemon.jobs.states import Event, State


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


def publish(journal, version, model="ranker", *, now=5.0, identity="1/2-3-4", metrics=None, **fields):
    """A job that publishes that version; the job."""
    fields.setdefault("identity", f"{model}-{version}-{now}-{identity}")
    new = new_job(model, version, **fields)
    job = journal.accept(new, now)[-1].job
    for event in PATHS[State.COMMITTING]:
        journal.move(job.id, event, now)
    return journal.move(
        job.id,
        Event.PUBLISH,
        now,
        publication=Publication(identity, metrics or {}),
        version=version,
        export_dir=f"/models/{model}/{version}",
    ).job


def numbers(journal, model="ranker"):
    """The versions that the journal knows, newest first."""
    return [each.version for each in journal.versions(model)]


def test_what_is_published_is_noted_in_the_same_transaction(journal):
    """Number, directory, its identity, time and metrics; a model at a time."""
    publish(journal, 41, now=7.5, identity="9/1-2-3", metrics={"b": 0.5, "a": 1.0})
    publish(journal, 41, "tower")
    (found,) = journal.versions("ranker")
    assert (found.model, found.version, found.export_dir) == ("ranker", 41, "/models/ranker/41")
    assert (found.identity, found.place, found.published_at) == ("9/1-2-3", 1, 7.5)
    assert (found.metrics, found.pinned, found.restores, found.good) == ({"a": 1.0, "b": 0.5}, False, None, True)
    assert [each.place for each in journal.versions("tower")] == [1]
    assert journal.versions("nobody") == []


def test_a_publication_that_cannot_be_noted_is_none(journal):
    """Where the table refuses, the job is not published either."""
    journal._rows(
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.versions BEGIN SELECT RAISE(ABORT, 'broken'); END", None
    )
    with pytest.raises(apsw.ConstraintError):
        publish(journal, 1)
    assert journal.get(1).state is State.COMMITTING
    assert journal.versions("ranker") == []


def test_versions_are_counted_as_they_are_published(journal):
    """The place is the order of publication and not that of the numbers, and it is never given twice."""
    for version in (30, 10, 20):
        publish(journal, version)
    assert [(each.version, each.place) for each in journal.versions("ranker")] == [(30, 1), (20, 3), (10, 2)]
    journal.remove_versions("ranker", ["/models/ranker/10"], 6.0)
    publish(journal, 40)
    assert journal.versions("ranker")[0].place == 4


def test_versions_outlive_their_jobs(journal):
    """Old jobs are forgotten; what they published stays known as long as it is there."""
    for version in (1, 2, 3):
        publish(journal, version, metrics={"auc": version / 10})
    journal.pin_version("ranker", "/models/ranker/1", True)
    journal.remove_versions("ranker", ["/models/ranker/2"], 6.0)
    assert journal.prune(older_than=100.0, keep=0) == 2
    assert [(each.version, each.pinned, each.metrics["auc"]) for each in journal.versions("ranker")] == [
        (3, False, 0.3),
        (1, True, 0.1),
    ]
    assert journal._rows("SELECT version FROM versions") == [(1,), (3,)]


def test_the_same_directory_again_keeps_its_row(journal):
    """A version that was found equal is the one that was published before: place, time, pin and judgement stay."""
    publish(journal, 1, now=5.0, metrics={"auc": 0.5})
    publish(journal, 2)
    journal.pin_version("ranker", "/models/ranker/1", True)
    journal.withdraw_version("ranker", "/models/ranker/1", 6.0)
    publish(journal, 1, now=9.0)
    found = journal.versions("ranker")[-1]
    assert (found.place, found.published_at, found.pinned, found.withdrawn_at) == (1, 5.0, True, 6.0)
    assert found.metrics == {"auc": 0.5}
    publish(journal, 1, now=10.0, metrics={"auc": 0.75})
    assert journal.versions("ranker")[-1].metrics == {"auc": 0.75}


def test_another_directory_under_the_number_is_another_version(journal):
    """It has a place and a time of its own and no judgement; what a person said of the number stays."""
    publish(journal, 1, now=5.0, metrics={"auc": 0.5})
    journal.pin_version("ranker", "/models/ranker/1", True)
    journal.withdraw_version("ranker", "/models/ranker/1", 6.0)
    publish(journal, 1, now=9.0, identity="7/7-7-7")
    (found,) = journal.versions("ranker")
    assert (found.identity, found.place, found.published_at) == ("7/7-7-7", 2, 9.0)
    assert (found.pinned, found.good, found.metrics) == (True, True, {})


def test_what_was_removed_comes_back_as_new(journal):
    """A number that is published after its removal is a version like any other, and no longer pinned."""
    publish(journal, 1)
    journal.pin_version("ranker", "/models/ranker/1", True)
    journal.remove_versions("ranker", ["/models/ranker/1"], 6.0)
    assert numbers(journal) == []
    publish(journal, 1, now=9.0)
    (found,) = journal.versions("ranker")
    assert (found.place, found.published_at, found.pinned) == (2, 9.0, False)


def test_pins_outlive_a_restart(journal, path):
    """A pin is in the journal; it is taken away as it was given; an unknown version cannot be pinned."""
    publish(journal, 1)
    journal.pin_version("ranker", "/models/ranker/1", True)
    journal.close()
    again = Journal(path)
    assert again.versions("ranker")[0].pinned
    again.pin_version("ranker", "/models/ranker/1", False)
    assert not again.versions("ranker")[0].pinned
    for model, directory in (("ranker", "/models/ranker/9"), ("tower", "/models/ranker/1")):
        with pytest.raises(ConfigError) as caught:
            again.pin_version(model, directory, True)
        assert caught.value.code == "version-unknown"
    again.close()


def test_a_rollback_withdraws_what_it_went_back_behind(journal):
    """What it publishes says whose content it is; versions between are not good any more; others' are not touched."""
    for version in (1, 2, 3):
        publish(journal, version)
    publish(journal, 3, "tower")
    publish(journal, 4, now=8.0, identity="4/4-4-4", restores=2)
    assert [(each.version, each.restores, each.withdrawn_at) for each in journal.versions("ranker")] == [
        (4, 2, None),
        (3, None, 8.0),
        (2, None, None),
        (1, None, None),
    ]
    assert journal.versions("tower")[0].good


def test_a_rollback_to_a_rollback_names_the_first_content(journal):
    """Of a chain of copies each names the version that had the content first."""
    for version in (1, 2):
        publish(journal, version)
    publish(journal, 3, restores=1)
    publish(journal, 4)
    publish(journal, 5, restores=3)
    assert [(each.version, each.content) for each in journal.versions("ranker")] == [
        (5, 1),
        (4, 4),
        (3, 1),
        (2, 2),
        (1, 1),
    ]


def test_an_identity_is_adopted_once(journal):
    """What is known already is not overwritten."""
    publish(journal, 1, identity="")
    publish(journal, 2, identity="2/2-2-2")
    journal.adopt_versions("ranker", {"/models/ranker/1": "1/1-1-1", "/models/ranker/2": "9/9-9-9"})
    assert [each.identity for each in journal.versions("ranker")] == ["2/2-2-2", "1/1-1-1"]


def test_a_directory_need_not_be_utf8(journal):
    """A path of any bytes and a metric of any name come back."""
    job = journal.accept(new_job(), 1.0)[-1].job
    for event in PATHS[State.COMMITTING]:
        journal.move(job.id, event, 2.0)
    metrics = Publication("1/1-1-1", {"näme\udcff": 1.0})
    journal.move(job.id, Event.PUBLISH, 3.0, publication=metrics, version=1, export_dir="/m/\udcff/1")
    (found,) = journal.versions("ranker")
    assert (found.export_dir, found.metrics) == ("/m/\udcff/1", {"näme\\udcff": 1.0})


def test_a_job_keeps_what_it_restores_and_what_its_validator_said(journal, path):
    """Both are columns of the job, and survive a restart."""
    job = journal.accept(new_job(restores=2), 1.0)[-1].job
    error = JobError("validator-refused", "exit status 1", "mend it")
    journal.move(job.id, Event.FAIL, 2.0, error=error, validator_output="no such layer\n\udcff")
    journal.close()
    again = Journal(path)
    found = again.get(job.id)
    again.close()
    assert (found.restores, found.validator_output) == (2, "no such layer\n\\udcff")


def test_what_a_commit_is_to_publish_outlives_a_crash(journal, path):
    """It is in the row before the rename, and stays there through a new attempt."""
    job = journal.accept(new_job(), 1.0)[-1].job
    for event in PATHS[State.VERIFYING]:
        journal.move(job.id, event, 1.0)
    begun = Publication("1/2-3-4", {"loss": 0.5, "näme": 1.0})
    journal.move(job.id, Event.COMMIT, 1.0, publication=begun)
    journal.close()
    again = Journal(path)
    again.resume(2.0)
    again.move(job.id, Event.STAGE, 3.0)
    found = again.get(job.id)
    again.close()
    assert (found.state, found.publication) == (State.STAGING, begun)


def old_journal(path):
    """A journal of the first schema, open for its rows to be written."""
    connection = apsw.Connection(str(path))
    connection.execute(MIGRATIONS[0]).fetchall()
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", 1)
    return connection


def test_a_journal_from_before_tells_what_it_published(path):
    """The migration fills the table from the published jobs that are there, each directory once, its identity unknown."""
    connection = old_journal(path)
    rows = [
        ("ranker", "published", 30, b"/models/30", 10.0),
        ("ranker", "published", 10, b"/models/10", 20.0),
        ("ranker", "failed", 20, b"", 30.0),
        ("ranker", "published", 30, b"/models/30", 40.0),
        ("tower", "published", 1, b"/tower/\xff/1", 50.0),
        ("tower", "published", None, b"", 60.0),
    ]
    for model, state, version, directory, at in rows:
        connection.execute(
            "INSERT INTO jobs VALUES (NULL, ?, ?, '', 'drop', x'2f', '', '', x'', x'', 1, ?, ?, 0, 0, 1, NULL, 1.0, ?,"
            " '', '', '', 0)",
            (model, state, version, directory, at),
        ).fetchall()
    connection.close()
    journal = Journal(path)
    found = {(each.model, each.version): each for model in ("ranker", "tower") for each in journal.versions(model)}
    assert {key: (each.place, each.published_at, each.identity) for key, each in found.items()} == {
        ("ranker", 30): (1, 40.0, ""),
        ("ranker", 10): (2, 20.0, ""),
        ("tower", 1): (1, 50.0, ""),
    }
    assert found["tower", 1].export_dir == "/tower/\udcff/1"
    job = journal.get(1)
    assert (job.restores, job.validator_output, job.version, job.publication) == (None, "", 30, None)
    publish(journal, 40, now=70.0)
    assert journal.versions("ranker")[0].place == 3
    journal.close()


def test_a_migration_that_is_interrupted_is_made_again(path, monkeypatch):
    """A crash leaves the old schema or the new one."""
    old_journal(path).close()
    with monkeypatch.context() as patch:
        patch.setattr("smdaemon.jobs.journal.MIGRATIONS", (MIGRATIONS[0], MIGRATIONS[1] + "SELECT no_such_function();"))
        with pytest.raises(apsw.SQLError):
            Journal(path)
    journal = Journal(path)
    assert journal.versions("ranker") == []
    journal.close()
