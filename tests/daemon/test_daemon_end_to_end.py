"""From drop to published version, by the real daemon and its real socket."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import trio
from daemon_kit import write_config
from structlog.testing import capture_logs

from smdaemon.cli.client import RemoteError
from smdaemon.config import load_config
from smdaemon.daemon.daemon import Daemon
from smdaemon.daemon.intake import Intake
from smdaemon.errors import ConfigError, EnvironmentFault
from smdaemon.savedmodel.verify import verify


async def test_a_drop_is_published_under_its_step(started):
    """A file that is renamed into the watched directory becomes a whole SavedModel, and nothing else is left."""
    async with started() as running:
        running.drop("ckpt-41.npz")
        (job,) = await running.ended()
        assert (job["state"], job["version"], job["tensors"], job["bytes_total"]) == ("published", 41, 1, 48)
        assert job["export_dir"] == str(running.models / "41")
        assert [path.name for path in running.models.iterdir()] == ["41"]
        verify(running.models / "41")


async def test_the_watched_directorys_name_is_no_step_of_its_drops(started, tmp_path):
    """A run may be called `ckpt-2`; a drop in it that tells no step has none."""
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace('watch = "runs"', 'watch = "ckpt-2"'))
    (tmp_path / "ckpt-2").mkdir()
    async with started(config=config) as running:
        running.write().rename(tmp_path / "ckpt-2" / "model.npz")
        (job,) = await running.ended()
        assert job["error"]["code"] == "no-step"


async def test_what_lay_there_before_the_start_is_taken_once(started):
    """A drop from before the start is found, and a restart does not export it again."""
    async with started() as running:
        running.drop("ckpt-1.npz")
        await running.ended()
    async with started() as running:
        running.drop("ckpt-2.npz")
        jobs = await running.ended(2)
        assert [(job["version"], job["state"]) for job in jobs] == [(1, "published"), (2, "published")]


async def test_tensorflow_loads_what_was_published(started):
    """The real reader gives the values back, bf16 among them, under their nesting."""
    tf = pytest.importorskip("tensorflow")
    from safetensors.numpy import save_file

    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with started() as running:
        save_file({"layer.0.kernel": kernel, "scale": np.ones(2, np.float16)}, running.root / "writing")
        (running.root / "writing").rename(running.runs / "model-step7.safetensors")
        await running.ended()
        loaded = tf.saved_model.load(str(running.models / "7"))
        np.testing.assert_array_equal(loaded.layer[0].kernel.numpy(), kernel)
        assert loaded.scale.dtype == tf.float16


async def test_a_bad_drop_fails_with_its_code_and_the_rest_goes_on(started):
    """A truncated file and one without a step fail; the drop is untouched, the next one is published."""
    async with started() as running:
        content = running.write().read_bytes()
        (running.runs / "ckpt-1.npz").write_bytes(content[:-30])
        running.drop("nameless.npz")
        failed = await running.ended(2)
        assert {job["error"]["code"] for job in failed} == {"source-truncated", "no-step"}
        running.drop("ckpt-2.npz")
        *_, third = await running.ended(3)
        assert (third["state"], third["version"]) == ("published", 2)
        assert (running.runs / "ckpt-1.npz").read_bytes() == content[:-30]
        assert [path.name for path in running.models.iterdir()] == ["2"]


async def test_a_pickled_drop_is_refused(started):
    """An object array is never unpickled; the job says so."""
    async with started() as running:
        scratch = running.root / "writing.npz"
        np.savez(scratch, weird=np.array([{"a": 1}], dtype=object))
        scratch.rename(running.runs / "ckpt-3.npz")
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "source-pickled")
        assert not list(running.models.iterdir())


async def test_an_existing_version_is_never_overwritten(started):
    """A second drop of the same step with other values fails, and the published one keeps its bytes."""
    async with started() as running:
        running.drop("ckpt-5.npz")
        await running.ended()
        before = (running.models / "5" / "variables" / "variables.data-00000-of-00001").read_bytes()
        running.drop("again-ckpt-5.npz", other=np.ones(3))
        job = (await running.ended(2))[1]
        assert (job["state"], job["error"]["code"]) == ("failed", "version-exists")
        assert (running.models / "5" / "variables" / "variables.data-00000-of-00001").read_bytes() == before


async def test_the_same_content_again_is_found_done(started):
    """The same tensors under the same step end as published without a second write of the version."""
    async with started() as running:
        running.drop("ckpt-5.npz")
        await running.ended()
        running.drop("copy-ckpt-5.npz")
        assert [job["state"] for job in await running.ended(2)] == ["published", "published"]


async def test_a_request_file_exports_with_its_own_options(started):
    """A request picks tensors, renames one and sets the version; its result lies beside it."""
    async with started(model='on_drop = "ignore"') as running:
        running.drop("weights.npz", **{"a/kernel": np.zeros(2, np.float32), "b": np.ones(3), "junk": np.ones(1)})
        request = {"source": "weights.npz", "version": 9, "exclude": ["junk"], "rename": {"b": "a/bias"}}
        (running.root / "r").write_text(json.dumps(request))
        (running.root / "r").rename(running.runs / "mine.export.json")
        (job,) = await running.ended()
        assert (job["origin"], job["state"], job["version"], job["tensors"]) == ("request", "published", 9, 2)
    result = json.loads((running.runs / "mine.export.result.json").read_text())
    assert (result["state"], result["version"], result["export_dir"]) == ("published", 9, str(running.models / "9"))
    assert json.loads((running.runs / "mine.export.json").read_text()) == request


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("bad.export.json", '{"source": "x.npz", "sauce": 1}', "request-invalid"),
        ("bad.export.json", "{", "request-invalid"),
        ("bad.export.toml", "source = 3", "request-invalid"),
        ("bad.export.toml", 'tags = ["serve"]', "request-invalid"),
        ("bad.export.json", '{"source": "../../etc/passwd"}', "request-source-outside"),
        ("bad.export.json", '{"source": "none.npz"}', "source-missing"),
        ("bad.export.json", '{"source": "x.npz", "model": "nobody"}', "request-model-unknown"),
    ],
)
async def test_a_bad_request_says_why_in_its_result_file(started, name, content, code):
    """Each mistake has its code, in the job and in the result file; the request is not touched."""
    async with started(model='version = "sequence"') as running:
        (running.runs / name).write_text(content)
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", code)
        assert job["error"]["remedy"]
    result = json.loads((running.runs / "bad.export.result.json").read_text())
    assert (result["state"], result["error"]["code"]) == ("failed", code)
    assert (running.runs / name).read_text() == content


async def test_a_missing_source_is_told_before_a_missing_step(started):
    """A request for a file that is not there says so, also where the version is to be its step."""
    async with started() as running:
        (running.runs / "lost.export.json").write_text('{"source": "lost.npz"}')
        (job,) = await running.ended()
        assert job["error"]["code"] == "source-missing"


async def test_an_export_is_asked_for_over_the_socket(started):
    """POST /v1/exports accepts a source beneath the watched directory, once."""
    async with started(model='on_drop = "ignore"') as running:
        path = running.drop("ckpt-11.npz")
        body = {"model": "ranker", "source": str(path)}
        accepted = await running.ask(running.client.post, "/v1/exports", body)
        assert accepted["origin"] == "api"
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 11)
        for wrong, code in [
            (body, "request-duplicate"),
            ({"model": "ranker", "source": "/etc/passwd"}, "request-source-outside"),
            ({"model": "nobody", "source": str(path)}, "request-model-unknown"),
            ({"model": "ranker", "source": str(running.runs / "none.npz")}, "source-missing"),
        ]:
            with pytest.raises(RemoteError) as caught:
                await running.ask(running.client.post, "/v1/exports", wrong)
            assert caught.value.code == code


async def test_latest_skips_the_backlog(started, tmp_path):
    """Of several that wait only the newest step is exported; the others are superseded, and say by which."""
    for step in (3, 20, 100):
        np.savez(tmp_path / "runs" / f"ckpt-{step}.npz", a=np.ones(step))
    async with started(model='on_backlog = "latest"\nquiet_seconds = 0') as running:
        jobs = await running.ended(3)
        states = {job["source"].rsplit("-", 1)[1]: job["state"] for job in jobs}
        assert states == {"3.npz": "superseded", "20.npz": "superseded", "100.npz": "published"}


async def test_sequence_numbers_follow_what_is_published(started):
    """With version = "sequence" the next number is one above the newest directory, whoever made that."""
    async with started(model='version = "sequence"') as running:
        (running.models / "7").mkdir(parents=True)
        running.drop("a.npz")
        running.drop("b.npz", b=np.ones(2))
        assert sorted(job["version"] for job in await running.ended(2)) == [8, 9]


async def test_timestamps_never_collide(started):
    """Two drops in one second get two versions."""
    async with started(model='version = "timestamp"') as running:
        running.drop("a.npz")
        running.drop("b.npz", b=np.ones(2))
        versions = [job["version"] for job in await running.ended(2)]
        assert len(set(versions)) == 2
        assert all(version > 1_700_000_000 for version in versions)


async def test_a_reload_takes_a_new_model_and_refuses_a_mistake(started, tmp_path):
    """SIGHUP puts a new model in force; a mistake leaves the old configuration in force and shows in the status."""
    async with started() as running:
        config = tmp_path / "config.toml"
        good = config.read_text()
        config.write_text(good + "\n[[model]]\nnam = 1\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(running, lambda status: "config_error" in status)
        status = await running.ask(running.client.get, "/v1/status")
        assert status["config_error"]["code"] == "config-unknown-key"
        assert "config.toml:14" in status["config_error"]["message"]
        (tmp_path / "runs2").mkdir()
        config.write_text(good + '\n[[model]]\nname = "tower"\nwatch = "runs2"\npublish = "models2"\n')
        os.kill(os.getpid(), signal.SIGHUP)
        status = await until(running, lambda status: len(status["models"]) == 2)
        assert "config_error" not in status
        running.write().rename(tmp_path / "runs2" / "ckpt-4.npz")
        (job,) = await running.ended()
        assert (job["model"], job["version"]) == ("tower", 4)


async def test_a_reload_that_has_drops_exported_takes_what_lies_there(started, tmp_path):
    """With on_drop = "export" by SIGHUP, not only with the next start: what was ignored so far is a drop."""
    async with started(model='on_drop = "ignore"') as running:
        running.drop("ckpt-1.npz")
        running.drop("ckpt-2.npz")
        (running.runs / "r.export.json").write_text('{"source": "ckpt-2.npz"}')
        (job,) = await running.ended()
        assert (job["version"], job["state"]) == (2, "published")
        config = tmp_path / "config.toml"
        config.write_text(config.read_text().replace('"ignore"', '"export"'))
        os.kill(os.getpid(), signal.SIGHUP)
        jobs = await running.ended(3)
        assert sorted(job["version"] for job in jobs) == [1, 2, 2]
        assert {job["state"] for job in jobs} == {"published"}


async def until(running, condition):
    """The status once it fulfils `condition`."""
    while True:
        status = await running.ask(running.client.get, "/v1/status")
        if condition(status):
            return status
        await trio.lowlevel.checkpoint()


async def test_a_watched_directory_that_is_missing_degrades_its_model_only(started):
    """Status and log say which directory is missing, the log once; when it is there, its drops are taken."""
    with capture_logs() as logs:
        await _missing_and_back(started)
    said = [(line["event"], line.get("code")) for line in logs if line["event"].startswith("watch ")]
    assert said[0][0] == "watch degraded"
    assert said[-1] == ("watch goes on", None)
    assert len(set(said)) == len(said)


async def _missing_and_back(started):
    async with started() as running:
        shutil.rmtree(running.runs)
        status = await until(running, lambda status: status["models"][0]["health"] == "degraded")
        assert status["models"][0]["error"]["code"]
        running.runs.mkdir()
        await until(running, lambda status: status["models"][0]["health"] == "ok")
        running.drop("ckpt-1.npz")
        assert (await running.ended())[0]["state"] == "published"


async def test_a_journal_that_takes_no_drop_shows_in_the_status(started, monkeypatch):
    """It is the journal's trouble, and the first that one looks at is the status."""
    accept = Intake.drop
    full = EnvironmentFault("disk-full", "no space is left for the journal", retryable=True)

    async def refuse(_intake, _model, _drop):
        raise full

    async with started() as running:
        monkeypatch.setattr(Intake, "drop", refuse)
        running.drop("ckpt-1.npz")
        status = await until(running, lambda status: status["models"][0]["health"] == "degraded")
        assert status["models"][0]["error"]["code"] == "disk-full"
        monkeypatch.setattr(Intake, "drop", accept)
        assert (await running.ended())[0]["state"] == "published"
        await until(running, lambda status: status["models"][0]["health"] == "ok")


async def test_a_publish_directory_without_a_parent_waits_for_it(started, tmp_path):
    """An unmounted volume is a fault that is retried; the job says when and why."""
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace('publish = "models"', 'publish = "volume/models"'))
    async with started(config=config) as running:
        running.drop("ckpt-1.npz")
        await until(running, lambda status: status["jobs"].get("waiting"))
        job = await running.ask(running.client.get, "/v1/jobs/1")
        assert (job["error"]["code"], job["error"]["retryable"]) == ("directory-missing", True)
        assert job["retry_at"]
        (tmp_path / "volume").mkdir()
        (ended,) = await running.ended()
        assert ended["state"] == "published"


async def test_a_second_daemon_on_the_same_state_is_refused(started, tmp_path):
    """The first goes on; the second says who holds the directory."""
    async with started():
        other = tmp_path / "other.toml"
        other.write_text((tmp_path / "config.toml").read_text().replace("control.sock", "other.sock"))
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                await nursery.start(Daemon(other, load_config(other)).run)
        assert caught.group_contains(ConfigError, match="in use by process")


async def test_cancelled_and_retried_over_the_socket(started):
    """A failed job is retried on request; an ended one cannot be cancelled."""
    async with started() as running:
        running.drop("nothing.npz")
        await running.ended()
        retried = await running.ask(running.client.post, "/v1/jobs/1/retry")
        assert retried["state"] == "queued"
        await running.ended(2)
        with pytest.raises(RemoteError) as caught:
            await running.ask(running.client.post, "/v1/jobs/1/cancel")
        assert caught.value.code == "job-not-cancellable"


async def test_drafts_that_a_crash_left_are_swept_at_the_start(started):
    """A hidden draft of ours is removed, one of another owner stays."""
    async with started() as running:
        owner = (running.root / "state" / "owner").read_text()
    running.models.mkdir()
    (running.models / f".smdaemon-{owner}-job9").mkdir()
    (running.models / ".smdaemon-other-job9").mkdir()
    async with started() as running:
        assert [path.name for path in running.models.iterdir()] == [".smdaemon-other-job9"]
