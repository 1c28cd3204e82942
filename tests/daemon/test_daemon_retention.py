"""Retention by the real daemon: after each commit and on request, of its own versions only."""

import shutil
from contextlib import closing

import numpy as np
import pytest
import trio
from versions_kit import listed, names, pin, prune, publish, until_names

from smdaemon.cli.client import RemoteError

TOWER = '\n[[model]]\nname = "tower"\nwatch = "runs2"\npublish = "models2"\nquiet_seconds = 0.05\n'


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
        first = (await listed(running))[1]
        assert (first["state"], first["pinned"]) == ("present", True)
        shutil.rmtree(running.models)
        running.models.mkdir()
        (running.models / "new").touch()
        await publish(running, 4)
        assert names(running.models) == ["4", "new"]
