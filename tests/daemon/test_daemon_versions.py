"""The service of versions on a real ledger and real directories, without a daemon around it: what is hard to bring about there."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from smdaemon.config import parse_config
from smdaemon.daemon.requests import check_request
from smdaemon.daemon.versions import Versions
from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.jobs.job import NewJob, Publication
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.states import Event
from smdaemon.proto.v1 import ExportRequest
from smdaemon.publish import local
from smdaemon.publish.local import LocalStore, identity_of
from smdaemon.publish.presence import look

CONFIG = '[daemon]\nstate_dir = "state"\ncontrol_socket = "s"\n[[model]]\nname = "ranker"\nwatch = "runs"\npublish = "models"\n'
STEPS = (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT)


class House:
    """A ledger, a publish directory, and the service on both; `rules` are lines of the model's configuration."""

    def __init__(self, root: Path, ledger):
        self.root = root
        self.models = root / "models"
        self.ledger = ledger
        self.config = None
        self.rules("")
        self.versions = Versions(ledger, lambda: self.config, owner="me")
        self.jobs = 0

    def rules(self, lines: str) -> None:
        """Put a configuration in force."""
        self.config = parse_config((CONFIG + lines).encode(), self.root / "config.toml")

    async def job(self, version: int, *steps: Event, **fields):
        """A job that has come so far."""
        self.jobs += 1
        new = NewJob(
            model="ranker", origin="drop", source=f"/runs/{self.jobs}", identity=str(self.jobs), order=1, **fields
        )
        job = await self.ledger.accept(new)
        for step in steps:
            job = await self.ledger.move(job.id, step, **({"version": version} if step is Event.STAGE else {}))
        return job

    async def publish(self, *numbers: int, identity: str | None = None) -> None:
        """Versions that are there, and jobs that have published them."""
        for number in numbers:
            path = self.models / str(number)
            if not path.exists():
                path.mkdir(parents=True)
                (path / "saved_model.pb").write_bytes(b"pb")
            job = await self.job(number, *STEPS)
            known = identity_of(path) if identity is None else identity
            await self.ledger.move(
                job.id, Event.PUBLISH, publication=Publication(known or ""), version=number, export_dir=str(path)
            )

    async def listed(self) -> dict[int, tuple[str, list[str]]]:
        """State and reasons by number."""
        answer = await self.versions.listed("ranker")
        return {each.version: (each.state, list(each.kept_by)) for each in answer.versions}

    @property
    def numbers(self) -> list[str]:
        """Everything in the publish directory."""
        return sorted(path.name for path in self.models.iterdir())


@pytest.fixture
async def house(tmp_path):
    """A house; its ledger is open until the end of the test."""
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        yield House(tmp_path, ledger)


async def running(house, nursery) -> None:
    """Start the service and let it come to rest."""
    nursery.start_soon(house.versions.run)
    await at_rest(house)


async def at_rest(house) -> None:
    """Return once the service has nothing to do; its last thread may be at work when all tasks are blocked."""
    threads = trio.to_thread.current_default_thread_limiter()
    while True:
        await trio.testing.wait_all_tasks_blocked()
        idle = not (house.versions._due or house.versions._at_work or threads.borrowed_tokens)
        await trio.testing.wait_all_tasks_blocked()
        if idle and not threads.borrowed_tokens:
            return


async def test_what_is_being_published_stays(house):
    """A version that an open job is about to publish once more is not removed beneath it."""
    await house.publish(1, 2, 3)
    house.rules("keep_last = 1")
    job = await house.job(1, *STEPS)
    await house.job(2)  # has no version yet
    assert (await house.versions.prune("ranker", dry_run=False)).removed == [2]
    assert (await house.listed())[1] == ("present", [f"job {job.id} publishes it"])


async def test_a_commit_and_a_removal_wait_for_each_other(house, nursery):
    """While one has the model's lock the other does nothing; another model's lock is another."""
    await house.publish(1, 2)
    house.rules("keep_last = 1")
    done = trio.Event()

    async def prune():
        await house.versions.prune("ranker", dry_run=False)
        done.set()

    async with house.versions.lock("ranker"):
        nursery.start_soon(prune)
        await trio.testing.wait_all_tasks_blocked()
        assert (house.numbers, done.is_set()) == (["1", "2"], False)
        assert not house.versions.lock("tower").locked()
    await done.wait()
    assert "1" not in house.numbers


async def test_a_crash_between_rename_and_journal_is_made_up_for(house, monkeypatch):
    """The row of a version that is gone is no version any more at the next look; it is never taken for a new directory there."""
    await house.publish(1, 2, 3)
    house.rules("keep_last = 2")

    async def crash(*_args):
        raise EnvironmentFault("disk-full", "no space left", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr(house.ledger, "remove_versions", crash)
        with pytest.raises(EnvironmentFault):
            await house.versions.prune("ranker", dry_run=False)
    assert (await house.listed())[1] == ("missing", ["it is not there"])
    (house.models / "1").mkdir()
    assert (await house.listed())[1][0] == "changed"
    (house.models / "1").rmdir()
    answer = await house.versions.prune("ranker", dry_run=False)
    assert answer.removed == []
    assert sorted(await house.listed()) == [2, 3]


async def test_a_journal_that_refuses_is_told_and_not_the_end(house, nursery, monkeypatch):
    """The service goes on; when the journal writes again the problem is gone."""
    await running(house, nursery)
    house.rules("keep_last = 1")

    async def full(*_args):
        raise EnvironmentFault("disk-full", "no space left", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr(house.ledger, "remove_versions", full)
        await house.publish(1, 2)
        await at_rest(house)
        assert house.versions.problems["ranker"].code == "disk-full"
    await house.publish(3)
    await at_rest(house)
    assert house.versions.problems == {}
    assert house.numbers == ["3"]


async def test_versions_of_an_older_journal_are_adopted(house):
    """Published before identities were kept: at the first look they are the journal's own, unless they are younger."""
    await house.publish(1, 2, 3, identity="")
    os.utime(house.models / "1" / "saved_model.pb", (2**33, 2**33))
    house.rules("keep_last = 1")
    answer = await house.versions.prune("ranker", dry_run=False)
    assert answer.removed == [2]
    rows = {row.version: row.identity for row in await house.ledger.versions("ranker")}
    assert rows == {1: "", 3: identity_of(house.models / "3")}
    assert (await house.listed())[1][0] == "changed"


async def test_another_publish_directory_is_another_matter(house):
    """What was published before publish was changed is shown and stays; the same number here is this one."""
    await house.publish(1, 2)
    house.models.rename(house.root / "old")
    (house.root / "old").rename(house.models)
    house.config = parse_config(CONFIG.replace('"models"', '"new"').encode(), house.root / "config.toml")
    house.models = house.root / "new"
    await house.publish(2, 3)
    house.config = parse_config(
        (CONFIG.replace('"models"', '"new"') + "keep_last = 1").encode(), house.root / "config.toml"
    )
    answer = await house.versions.listed("ranker")
    found = [(each.version, each.state, Path(each.export_dir).parent.name) for each in answer.versions]
    assert sorted(found, key=str) == [
        (1, "elsewhere", "models"),
        (2, "elsewhere", "models"),
        (2, "present", "new"),
        (3, "present", "new"),
    ]
    pinned = await house.versions.pin("ranker", 2, pinned=True)
    assert (pinned.state, Path(pinned.export_dir).parent.name) == ("present", "new")
    await house.versions.pin("ranker", 2, pinned=False)
    await house.versions.prune("ranker", dry_run=False)
    assert sorted(path.name for path in (house.root / "models").iterdir()) == ["1", "2"]


async def test_a_model_that_is_gone_is_left_alone(house, nursery):
    """A commit of a model that a reload has removed meanwhile removes nothing."""
    await running(house, nursery)
    house.config = parse_config(CONFIG.replace('"ranker"', '"tower"').encode(), house.root / "config.toml")
    await house.publish(1, 2)
    await at_rest(house)
    assert house.numbers == ["1", "2"]


async def test_what_was_hidden_before_the_start_is_deleted_by_the_service(house, nursery):
    """Also for a model without rules; a refusal is told, and tried again after the next prune."""
    await house.publish(1, 2)
    LocalStore(house.models, "me").hide(1, identity_of(house.models / "1"))
    remove = local.remove_tree

    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    local.remove_tree = refuse
    try:
        await running(house, nursery)
    finally:
        local.remove_tree = remove
    assert house.versions.problems["ranker"].code == "io-error"
    await house.versions.prune("ranker", dry_run=False)
    await at_rest(house)
    assert (house.numbers, house.versions.problems) == (["2"], {})


async def test_a_model_that_is_held_up_holds_up_no_other(house, nursery):
    """Each is looked after by itself; what is due meanwhile is done afterwards."""
    await running(house, nursery)
    house.rules('keep_last = 1\n[[model]]\nname = "tower"\nwatch = "runs2"\npublish = "models2"\nkeep_last = 1\n')
    async with house.versions.lock("tower"):
        house.versions._wake("tower", apply=True)
        await trio.testing.wait_all_tasks_blocked()
        await house.publish(1, 2)
        while house.numbers != ["2"]:
            await trio.lowlevel.checkpoint()
        house.versions._wake("tower", apply=True)
        assert house.versions._at_work >= {"tower"}
    await at_rest(house)
    assert not house.versions._at_work


async def test_a_dry_run_takes_no_step(house, monkeypatch):
    """Nothing is renamed, noted or woken."""
    await house.publish(1, 2)
    house.rules("keep_last = 1")
    monkeypatch.setattr(local, "rename_no_replace", None)
    monkeypatch.setattr(house.ledger, "remove_versions", None)
    house.versions._due.clear()
    assert (await house.versions.prune("ranker", dry_run=True)).removed == [1]
    assert not house.versions._due


async def test_one_refusal_does_not_keep_the_others(house, monkeypatch):
    """All are tried; what went is noted, and the first refusal is told."""
    await house.publish(1, 2, 3, 4)
    house.rules("keep_last = 1")
    rename = local.rename_no_replace

    def refuse(source: Path, target: Path) -> bool:
        if source.name == "2":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))
        return rename(source, target)

    monkeypatch.setattr(local, "rename_no_replace", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        await house.versions.prune("ranker", dry_run=False)
    assert caught.value.code == "permission-denied"
    assert [name for name in house.numbers if not name.startswith(".")] == ["2", "4"]
    assert sorted(await house.listed()) == [2, 4]


async def test_everything_gone_is_an_unmounted_volume(house):
    """Nothing is noted where nothing is left; back again, all is as it was."""
    await house.publish(1, 2)
    house.rules("keep_last = 1")
    shutil.move(house.models, house.root / "away")
    assert (await house.versions.prune("ranker", dry_run=False)).removed == []
    shutil.move(house.root / "away", house.models)
    assert (await house.versions.prune("ranker", dry_run=False)).removed == [1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_must_be_finite(value):
    """Protobuf has numbers that are none; a journal has not."""
    with pytest.raises(DropError, match="metrics: 'auc' is ") as caught:
        check_request(ExportRequest(source="x", metrics={"auc": value}))
    assert caught.value.code == "request-invalid"


async def test_a_publish_directory_that_hangs_takes_one_thread(house, monkeypatch):
    """However often it is looked at and given up: the daemon's other work needs threads, too."""
    await house.publish(1)
    answers, looks = threading.Event(), []

    def hang(*rest):
        looks.append(None)
        answers.wait()
        return look(*rest)

    monkeypatch.setattr("smdaemon.daemon.versions.look", hang)
    try:
        for _ in range(3):
            with trio.move_on_after(0.05):
                await house.versions.looked("ranker")
        assert len(looks) == 1
    finally:
        answers.set()
    assert (await house.versions.looked("ranker")).numbers == [1]
