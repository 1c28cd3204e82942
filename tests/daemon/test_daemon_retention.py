"""Retention by the real daemon: after each commit and on request, of its own versions only, by one rename, failures told."""

import errno
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import daemon_process
import numpy as np
import pytest
import trio
from daemon_kit import write_config
from daemon_process import SmdaemonProcess

from smdaemon.cli.client import RemoteError
from smdaemon.publish import local
from smdaemon.publish.local import LocalStore, identity_of
from smdaemon.savedmodel.verify import verify

TOWER = '\n[[model]]\nname = "tower"\nwatch = "runs2"\npublish = "models2"\nquiet_seconds = 0.05\n'


def names(folder: Path) -> list[str]:
    """Everything in a directory."""
    return sorted(path.name for path in folder.iterdir())


async def until_names(folder: Path, *wanted: str) -> None:
    """Return once the directory holds just these."""
    while names(folder) != sorted(wanted):
        await trio.lowlevel.checkpoint()


async def publish(running, *steps: int, to: str = "runs", **arrays: np.ndarray) -> None:
    """Drop these steps one after the other, each once the one before is published."""
    for step in steps:
        status = await running.ask(running.client.get, "/v1/status")
        done = status["jobs"].get("published", 0)
        running.write(**(arrays or {"a": np.full(4, step, np.float32)})).rename(running.root / to / f"ckpt-{step}.npz")
        jobs = await running.ended(done + 1)
        assert jobs[-1]["state"] == "published", jobs[-1]


async def listed(running, model: str = "ranker") -> dict[int, dict]:
    """The versions as the socket shows them, by number."""
    answer = await running.ask(running.client.get, f"/v1/models/{model}/versions")
    assert [each["version"] for each in answer["versions"]] == sorted(
        (each["version"] for each in answer["versions"]), reverse=True
    )
    return {each["version"]: each for each in answer["versions"]}


async def prune(running, model: str = "ranker", **query: str) -> dict:
    """The answer to a prune."""
    return await running.ask(running.client.post, f"/v1/models/{model}/prune", **query)


async def pin(running, version: int, action: str = "pin", model: str = "ranker") -> dict:
    """The version once it is pinned or unpinned."""
    return await running.ask(running.client.post, f"/v1/models/{model}/{action}", {"version": version})


def owner_of(running) -> str:
    """What marks this daemon's hidden directories."""
    return (running.root / "state" / "owner").read_text()


async def test_only_the_last_versions_stay(started):
    """After each commit the older ones go, directory and row, and nothing hidden is left."""
    async with started(model="keep_last = 2") as running:
        await publish(running, 1, 2, 3, 4)
        await until_names(running.models, "3", "4")
        found = await listed(running)
        assert list(found) == [4, 3]
        assert found[4]["kept_by"] == ["the newest", "the newest good one", "keep_last = 2"]
        assert (found[3]["state"], found[3]["place"], found[3]["pinned"]) == ("present", 3, False)
        status = await running.ask(running.client.get, "/v1/status")
        assert "retention_error" not in status["models"][0]


async def test_without_rules_nothing_ever_goes(started):
    """The default keeps everything, also when it is asked to prune."""
    async with started() as running:
        await publish(running, 1, 2, 3)
        answer = await prune(running)
        assert (answer["removed"], [each["version"] for each in answer["kept"]]) == ([], [3, 2, 1])
        assert names(running.models) == ["1", "2", "3"]


async def test_each_model_by_its_own_rules(started, tmp_path):
    """The same numbers in two models: what goes in one stays in the other, and neither knows the other's pins."""
    (tmp_path / "runs2").mkdir()
    async with started(model="keep_last = 1" + TOWER) as running:
        await publish(running, 1, 2, to="runs2")
        await pin(running, 1, model="tower")
        await publish(running, 1, 2, to="runs")
        await until_names(running.models, "2")
        assert names(tmp_path / "models2") == ["1", "2"]
        assert {number: each["pinned"] for number, each in (await listed(running, "tower")).items()} == {
            2: False,
            1: True,
        }
        with pytest.raises(RemoteError) as caught:
            await pin(running, 1)
        assert caught.value.code == "version-unknown"


async def test_a_dry_run_says_what_a_prune_does(started):
    """It names what would go and why the rest stays, and removes nothing; the prune then does just that."""
    async with started() as running:
        await publish(running, 1, 2, 3, 4)
        config = running.root / "config.toml"
        config.write_text(config.read_text() + "keep_last = 1\nkeep_every = 3\n")
        await running.daemon.reload()
        told = await prune(running, dry_run="true")
        assert (told["dry_run"], told["removed"]) == (True, [2, 1])
        assert {each["version"]: each["kept_by"][-1] for each in told["kept"]} == {
            4: "keep_last = 1",
            3: "keep_every = 3",
        }
        assert names(running.models) == ["1", "2", "3", "4"]
        done = await prune(running)
        assert (done["dry_run"], done["removed"], len(done["kept"])) == (False, [2, 1], 2)
        assert [name for name in names(running.models) if not name.startswith(".")] == ["3", "4"]
        await until_names(running.models, "3", "4")


async def test_nothing_goes_without_a_commit(started):
    """A start or a reload with new rules removes nothing; the next commit does."""
    async with started() as running:
        await publish(running, 1, 2, 3)
    async with started(model="keep_last = 1") as running:
        await running.daemon.reload()
        assert [each["kept_by"] for each in (await listed(running)).values()][1:] == [[], []]
        assert names(running.models) == ["1", "2", "3"]
        running.drop("ckpt-4.npz")
        await running.ended(4)
        await until_names(running.models, "4")


async def test_a_pin_outlives_restarts_and_rules(started):
    """What is pinned stays until it is unpinned."""
    async with started(model="keep_last = 1") as running:
        await publish(running, 1)
        pinned = await pin(running, 1)
        assert (pinned["pinned"], pinned["kept_by"][-1]) == (True, "keep_last = 1")
        await publish(running, 2)
    async with started(model="keep_last = 1") as running:
        await publish(running, 3)
        await until_names(running.models, "1", "3")
        assert (await listed(running))[1]["kept_by"] == ["pinned"]
        unpinned = await pin(running, 1, "unpin")
        assert (unpinned["pinned"], unpinned["kept_by"]) == (False, [])
        assert names(running.models) == ["1", "3"]
        await prune(running)
        await until_names(running.models, "3")
        with pytest.raises(RemoteError) as caught:
            await pin(running, 1)
        assert caught.value.code == "version-unknown"


async def test_the_best_by_the_requests_metrics(started):
    """The value comes with each request; a request without one is never among the best."""
    rules = 'on_drop = "ignore"\nkeep_last = 1\nkeep_best = 1\nmetric = "auc"\nmetric_goal = "max"'
    async with started(model=rules) as running:
        for step, metrics in ((1, {"auc": 0.5}), (2, {"auc": 0.75, "loss": 0.1}), (3, {"auc": 0.25}), (4, {})):
            path = running.drop(f"ckpt-{step}.npz", a=np.full(3, step))
            await running.ask(
                running.client.post, "/v1/exports", {"model": "ranker", "source": str(path), "metrics": metrics}
            )
            await running.ended(step)
        await until_names(running.models, "2", "4")
        found = await listed(running)
        assert found[2]["metrics"] == {"auc": 0.75, "loss": 0.1}
        assert (found[2]["kept_by"], found[4]["metrics"]) == (["keep_best = 1"], {})


async def test_the_best_by_the_checkpoints_metadata(started):
    """Where nobody says a metric, the drop's own metadata does."""
    from safetensors.numpy import save_file

    rules = 'keep_best = 1\nmetric = "loss"\nmetric_goal = "min"'
    async with started(model=rules) as running:
        for step, loss in ((1, "0.5"), (2, "0.125"), (3, "nan"), (4, "0.25")):
            save_file({"a": np.full(3, step)}, running.root / "writing", metadata={"loss": loss})
            (running.root / "writing").rename(running.runs / f"ckpt-{step}.safetensors")
            await running.ended(step)
        await until_names(running.models, "2", "4")
        assert (await listed(running))[2]["metrics"] == {"loss": 0.125}


async def test_the_best_by_what_a_trainer_says(started, tmp_path):
    """A handoff brings its metrics as options of the save."""
    from smdaemon.handoff import attach

    rules = 'keep_best = 1\nmetric = "auc"\nmetric_goal = "max"'
    async with started(daemon='handoff_socket = "handoff.sock"', model=rules) as running:

        def train() -> list[str]:
            with attach(tmp_path / "handoff.sock", name="trainer") as sidecar:
                saves = [(1, {"auc": 0.5}), (2, {"auc": 0.75}), (3, {}), (4, {"loss": 1.0})]
                return [
                    sidecar.save(step, {"a": np.full(3, step)}, model="ranker", metrics=metrics).result(60).state
                    for step, metrics in saves
                ]

        assert await trio.to_thread.run_sync(train) == ["published"] * 4
        await until_names(running.models, "2", "4")
        assert (await listed(running))[2]["kept_by"] == ["keep_best = 1"]


async def test_a_metric_that_is_no_number_is_refused_with_its_request(started):
    """A word where a number belongs is the asker's mistake."""
    async with started() as running:
        path = running.drop("ckpt-1.npz")
        for wrong in ({"auc": "good"}, {"auc": None}, [1]):
            body = {"model": "ranker", "source": str(path), "metrics": wrong}
            with pytest.raises(RemoteError) as caught:
                await running.ask(running.client.post, "/v1/exports", body)
            assert caught.value.code == "request-invalid"


async def test_what_others_put_there_is_never_touched(started):
    """Numbers that the journal does not know, drafts of others, files and links stay, whatever their age."""
    async with started(model="keep_last = 1") as running:
        await publish(running, 5)
        (running.models / "1").mkdir()
        (running.models / "notes.txt").touch()
        (running.models / ".smdaemon-other-removed-1-2").mkdir()
        (running.models / "3").symlink_to(running.models / "1")
        await publish(running, 6)
        await until_names(running.models, "1", "3", "6", "notes.txt", ".smdaemon-other-removed-1-2")
        found = await listed(running)
        assert {number: found[number]["state"] for number in (1, 3)} == {1: "foreign", 3: "foreign"}
        assert found[1]["kept_by"] == ["not published by this daemon"]


async def test_a_directory_that_was_changed_is_no_longer_ours(started, tmp_path):
    """Copied back from elsewhere, or moved to another disk and linked to: it is told, and stays."""
    async with started(model="keep_last = 9") as running:
        await publish(running, 1, 2, 3)
        shutil.copytree(running.models / "1", tmp_path / "copy")
        shutil.rmtree(running.models / "1")
        (tmp_path / "copy").rename(running.models / "1")
        (running.models / "2").rename(tmp_path / "moved")
        (running.models / "2").symlink_to(tmp_path / "moved")
        config = running.root / "config.toml"
        config.write_text(config.read_text().replace("keep_last = 9", "keep_last = 1"))
        await running.daemon.reload()
        await publish(running, 4)
        await until_names(running.models, "1", "2", "4")
        found = await listed(running)
        assert {number: each["state"] for number, each in found.items()} == {4: "present", 2: "changed", 1: "changed"}
        assert found[2]["kept_by"] == ["another directory has its number"]
        assert (tmp_path / "moved" / "saved_model.pb").exists()


async def test_what_somebody_uses_stays_for_the_moment(started):
    """A version that is a template of the configuration, or that a link leads to, is not taken away from under its readers."""
    async with started() as running:
        await publish(running, 1, 2, 3, 4)
        (running.models / "stable").symlink_to("2")
        (running.root / "runs2").mkdir()
        config = running.root / "config.toml"
        tower = TOWER + f'template = "{running.models / "1"}"\n'
        config.write_text(config.read_text() + "keep_last = 1\n" + tower)
        await running.daemon.reload()
        answer = await prune(running)
        assert answer["removed"] == [3]
        assert {each["version"]: each["kept_by"] for each in answer["kept"]} == {
            4: ["the newest", "the newest good one", "keep_last = 1"],
            2: ["the link 'stable' leads to it"],
            1: ["the configuration of 'tower' names it"],
        }


async def test_a_crash_between_rename_and_deletion_is_swept_at_the_start(started):
    """What readers do not see any more goes; the journal learns that the version is gone."""
    async with started(model="keep_last = 3") as running:
        await publish(running, 1, 2, 3)
        owner = owner_of(running)
    store = LocalStore(running.models, owner)
    assert store.hide(1, identity_of(running.models / "1"))
    assert any(name.startswith(f".smdaemon-{owner}-removed-1-") for name in names(running.models))
    async with started(model="keep_last = 3") as running:
        await until_names(running.models, "2", "3")
        assert (await listed(running))[1]["state"] == "missing"
        await publish(running, 4)
        while 1 in await listed(running):
            pass
        assert names(running.models) == ["2", "3", "4"]


@pytest.mark.parametrize("where", ["note", "delete"])
def test_a_kill_in_the_middle_of_a_removal(tmp_path, monkeypatch, where):
    """After SIGKILL the version is hidden as a whole; the next start deletes it, serves the rest, and removes nothing else."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, model="keep_last = 2")
    for step in (1, 2, 3):
        np.savez(tmp_path / "runs" / f"ckpt-{step}.npz", a=np.full(3, step))
    with monkeypatch.context() as patch:
        patch.setattr(daemon_process, "_HELD", Path(__file__).with_name("held_removal.py"))
        patch.setenv("HELD_AT", where)
        with SmdaemonProcess(tmp_path, "run", "--config", "config.toml", held=True) as process:
            process.held()
            process.signal(signal.SIGKILL)
            process.ended()
    (hidden,) = [name for name in names(tmp_path / "models") if name.startswith(".")]
    assert "-removed-1-" in hidden
    verify(tmp_path / "models" / hidden)
    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml") as process:
        process.logged("running")
        np.savez(tmp_path / "writing.npz", a=np.full(3, 4))
        (tmp_path / "writing.npz").rename(tmp_path / "runs" / "ckpt-4.npz")
        assert process.logged("removed old versions")["versions"] == [2]
        while names(tmp_path / "models") != ["3", "4"]:
            process.client.get("/v1/status")
        listed = process.client.get("/v1/models/ranker/versions")["versions"]
        assert [(each["version"], each["state"]) for each in listed] == [(4, "present"), (3, "present")]
        process.stop()


async def test_versions_that_a_person_removes_are_forgotten(started):
    """Removed by hand is removed, pinned or not; nothing is concluded from a directory in which nothing is left."""
    async with started(model="keep_last = 5") as running:
        await publish(running, 1, 2)
        await pin(running, 1)
        shutil.rmtree(running.models / "1")
        assert (await listed(running))[1]["state"] == "missing"
        await publish(running, 3)
        while 1 in await listed(running):
            pass
        (running.models).rename(running.root / "unmounted")
        running.models.mkdir()
        await prune(running)
        assert {each["state"] for each in (await listed(running)).values()} == {"missing"}
        running.models.rmdir()
        (running.root / "unmounted").rename(running.models)
        assert {each["state"] for each in (await listed(running)).values()} == {"present"}


async def test_a_refused_removal_is_told_and_fails_no_export(started, monkeypatch):
    """The export is published, status and log name code and remedy, readers see the old version, and the next commit tries again."""
    rename = local.rename_no_replace

    def refuse(source: Path, target: Path) -> bool:
        if "-removed-" in target.name:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        return rename(source, target)

    async with started(model="keep_last = 1") as running:
        await publish(running, 1)
        with monkeypatch.context() as patch:
            patch.setattr(local, "rename_no_replace", refuse)
            await publish(running, 2)
            while "retention_error" not in (await running.ask(running.client.get, "/v1/status"))["models"][0]:
                pass
            status = await running.ask(running.client.get, "/v1/status")
            error = status["models"][0]["retention_error"]
            assert (error["code"], "removing a version" in error["message"]) == ("permission-denied", True)
            assert status["jobs"] == {"published": 2}
            assert names(running.models) == ["1", "2"]
            with pytest.raises(RemoteError) as caught:
                await prune(running)
            assert caught.value.code == "permission-denied"
        await publish(running, 3)
        await until_names(running.models, "3")
        while "retention_error" in (await running.ask(running.client.get, "/v1/status"))["models"][0]:
            pass


def test_files_that_cannot_be_deleted_are_told_and_tried_again(tmp_path):
    """By a daemon that has to obey permissions: the version is gone for readers, its room is freed once that is allowed."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, model="keep_last = 1")

    def drop(step: int) -> None:
        np.savez(tmp_path / "writing.npz", a=np.full(3, step))
        (tmp_path / "writing.npz").rename(tmp_path / "runs" / f"ckpt-{step}.npz")

    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml", unprivileged=True) as process:
        process.logged("running")
        drop(1)
        process.logged("job published")
        (tmp_path / "models" / "1" / "variables").chmod(0o555)
        drop(2)
        process.logged("removed old versions")
        refused = process.logged("old versions not removed")
        assert refused["code"] == "permission-denied"
        (error,) = [model["retention_error"] for model in process.client.get("/v1/models")["models"]]
        assert error["code"] == "permission-denied"
        hidden, newest = names(tmp_path / "models")
        assert (hidden.startswith(".smdaemon-"), newest) == (True, "2")
        (tmp_path / "models" / hidden / "variables").chmod(0o755)
        drop(3)
        process.logged("removed old versions")
        process.stop()
    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml") as process:
        process.logged("running")
        while names(tmp_path / "models") != ["3"]:
            process.client.get("/v1/status")
        process.stop()


async def test_the_metrics_count_what_was_removed(started):
    """A counter for each model, and a gauge for what cannot be removed."""
    async with started(model="keep_last = 1") as running:
        await publish(running, 1, 2, 3)
        await until_names(running.models, "3")

        def scrape() -> str:
            with closing(running.client._connection(timeout=30)) as connection:
                connection.request("GET", "/metrics")
                return connection.getresponse().read().decode()

        text = await running.ask(scrape)
        assert 'smdaemon_versions_removed_total{model="ranker"} 2.0' in text
        assert 'smdaemon_retention_failed{model="ranker"} 0.0' in text


async def test_jobs_may_be_forgotten_before_their_versions(started):
    """Retention goes by the table of versions: what old jobs published is removed when its time comes."""
    from smdaemon.jobs.journal import Journal

    async with started(model="keep_last = 2") as running:
        await publish(running, 1, 2)
    journal = Journal(running.root / "state" / "journal.sqlite")
    assert journal.prune(older_than=float("inf"), keep=0) == 1
    journal.close()
    async with started(model="keep_last = 2") as running:
        running.drop("ckpt-3.npz")
        await until_names(running.models, "2", "3")


async def test_unknown_models_and_versions_have_codes(started):
    """Asking for what there is not is the asker's mistake."""
    async with started() as running:
        for act in (listed, prune):
            with pytest.raises(RemoteError) as caught:
                await act(running, "nobody")
            assert caught.value.code == "request-model-unknown"
        with pytest.raises(RemoteError) as caught:
            await pin(running, 7)
        assert caught.value.code == "version-unknown"
        assert await listed(running) == {}


async def test_an_unmounted_publish_directory_is_not_written_over(started):
    """Missing or empty, as under a volume that is gone: the job waits, nothing is forgotten; any file there says that it is meant."""
    async with started(model="keep_last = 2") as running:
        await publish(running, 1, 2)
        await pin(running, 1)
        volume = running.models.rename(running.root / "volume")
        running.drop("ckpt-3.npz")
        while not (waiting := (await running.ask(running.client.get, "/v1/jobs", state="waiting"))["jobs"]):
            await trio.lowlevel.checkpoint()
        (job,) = waiting
        assert (job["error"]["code"], job["error"]["retryable"]) == ("directory-missing", True)
        assert not running.models.exists()
        volume.rename(running.models)
        *_, ended = await running.ended(3)
        assert (ended["version"], ended["state"]) == (3, "published")
        listed = (await running.ask(running.client.get, "/v1/models/ranker/versions"))["versions"]
        assert {each["version"]: (each["state"], each["pinned"]) for each in listed}[1] == ("present", True)
        shutil.rmtree(running.models)
        running.models.mkdir()
        (running.models / "new").touch()
        await publish(running, 4)
        assert names(running.models) == ["4", "new"]
