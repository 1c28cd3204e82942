"""Drops that would lead the daemon to files that their writer may not read."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from structlog.testing import capture_logs

from smdaemon.daemon import results

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

SECRET = np.frombuffer(b"the weights of another team, 64 bytes of them, 32 more to come..", np.uint8)


@pytest.fixture
def secret(tmp_path):
    """A file outside the watched directory that the daemon may read."""
    (tmp_path / "private").mkdir()
    np.savez(tmp_path / "private" / "step_9.npz", w=SECRET)
    np.save(tmp_path / "private" / "w.npy", SECRET)
    save_file({"w": SECRET}, tmp_path / "private" / "shard.safetensors")
    return tmp_path / "private"


def published_bytes(models) -> bytes:
    """All that was published."""
    return b"".join(path.read_bytes() for path in models.rglob("*") if path.is_file())


def link_to_a_file(runs, secret):
    """The drop is a link."""
    (runs / "step_1.npz").symlink_to(secret / "step_9.npz")


def hard_link_in_a_shared_directory(runs, secret):
    """The drop is a second name of a file of the daemon's, in a directory that others can write."""
    runs.chmod(0o777)
    (runs / "step_1.npz").hardlink_to(secret / "step_9.npz")


def directory_with_a_link_in_it(runs, secret):
    """One array of a directory is a link."""
    (runs.parent / "new").mkdir()
    np.save(runs.parent / "new" / "a.npy", np.ones(3, np.float32))
    (runs.parent / "new" / "w.npy").symlink_to(secret / "w.npy")
    (runs.parent / "new").rename(runs / "step_1")


def shard_that_is_a_link(runs, secret):
    """The index is a file; a shard that it names is a link."""
    (runs / "model-1.safetensors").symlink_to(secret / "shard.safetensors")
    (runs / "step_1.safetensors.index.json").write_text('{"weight_map": {"w": "model-1.safetensors"}}')


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (link_to_a_file, "source-outside"),
        (hard_link_in_a_shared_directory, "source-link"),
        (directory_with_a_link_in_it, "source-link"),
        (shard_that_is_a_link, "source-link"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_drop_does_not_lead_out_of_the_watched_directory(started, secret, make, code):
    """The job fails, says why and what to do, and not a byte of the file is published; the next drop is."""
    async with started(model='format = "auto"') as running:
        make(running.runs, secret)
        (failed,) = await running.ended()
        assert (failed["state"], failed["error"]["code"]) == ("failed", code)
        assert "beneath the watch directory" in failed["error"]["remedy"] or "follow_links" in failed["error"]["remedy"]
        running.runs.chmod(0o755)
        running.drop("step_2.npz")
        await running.ended(2)
        assert SECRET.tobytes() not in published_bytes(running.models)
        assert [path.name for path in running.models.iterdir()] == ["2"]


async def test_a_link_to_a_neighbour_is_that_neighbour(started):
    """`latest` beside the drops is no further export: it is resolved once, and what it leads to was taken before."""
    async with started() as running:
        drop = running.drop("step_1.npz")
        await running.ended()
        (running.runs / "latest.npz").symlink_to(drop.name)
        running.drop("step_2.npz")
        jobs = await running.ended(2)
        assert [job["version"] for job in jobs] == [1, 2]
        listed = await running.ask(running.client.get, "/v1/jobs")
        assert len(listed["jobs"]) == 2


async def test_a_request_may_name_a_link_to_a_neighbour(started):
    """It stands for what it leads to when the request is accepted."""
    async with started(model='on_drop = "ignore"') as running:
        drop = running.drop("step_1.npz")
        (running.runs / "latest.npz").symlink_to(drop.name)
        job = await running.ask(running.client.post, "/v1/exports", {"model": "ranker", "source": "latest.npz"})
        assert job["source"] == str(drop)
        (ended,) = await running.ended()
        assert (ended["state"], ended["version"]) == ("published", 1)


async def test_a_request_file_is_not_read_through_a_link(started, secret):
    """Its content would be quoted in what is said of it."""
    (secret / "note").write_text("password = 1")
    async with started() as running:
        (running.runs / "a.export.toml").symlink_to(secret / "note")
        (failed,) = await running.ended()
        assert (failed["state"], failed["error"]["code"]) == ("failed", "source-link")
        assert "password" not in str(failed)


async def test_links_are_followed_where_the_operator_says_so(started, secret):
    """With follow_links a drop, and what a request names, may lie anywhere; a path that leads out by its words may not."""
    async with started(model="follow_links = true") as running:
        (running.runs / "step_1.npz").symlink_to(secret / "step_9.npz")
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 1)
        assert SECRET.tobytes() in published_bytes(running.models)
        (running.runs / "beside.npz").symlink_to(secret / "step_9.npz")
        asked = {"model": "ranker", "source": "beside.npz", "version": 5}
        await running.ask(running.client.post, "/v1/exports", asked)
        jobs = await running.ended(2)
        assert jobs[1]["state"] == "published"
        with pytest.raises(Exception, match="lies outside") as caught:
            await running.ask(
                running.client.post, "/v1/exports", {"model": "ranker", "source": "../private/step_9.npz"}
            )
        assert caught.value.code == "request-source-outside"


async def test_a_root_that_is_a_link_is_the_operators_own(started, tmp_path):
    """The watched directory itself may be reached by a link."""
    (tmp_path / "runs").rename(tmp_path / "disk")
    (tmp_path / "runs").symlink_to("disk")
    async with started() as running:
        running.drop("step_1.npz")
        (job,) = await running.ended()
        assert (job["state"], job["source"]) == ("published", str(running.runs / "step_1.npz"))


async def test_a_template_of_the_configuration_may_lie_anywhere_and_be_a_link(started, tmp_path):
    """What the operator names is trusted, and stays where it is."""
    from export_kit import KERNEL, linear_module, values

    tf = pytest.importorskip("tensorflow")
    linear_module(tf, tmp_path / "graphs" / "linear")
    (tmp_path / "template").symlink_to("graphs/linear")
    async with started(model='template = "template"') as running:
        values(running.root / "writing.npz").rename(running.runs / "step_1.npz")
        (job,) = await running.ended()
        assert job["state"] == "published", job
        loaded = tf.saved_model.load(str(running.models / "1"))
        np.testing.assert_array_equal(loaded.kernel.numpy(), KERNEL)


async def test_an_asset_of_the_configuration_may_be_a_link(started, tmp_path):
    """A mounted ConfigMap is nothing but links to a directory that is replaced as a whole."""
    (tmp_path / "config" / "..1").mkdir(parents=True)
    (tmp_path / "config" / "..1" / "note.txt").write_text("hello")
    (tmp_path / "config" / "..data").symlink_to("..1")
    (tmp_path / "config" / "note.txt").symlink_to("..data/note.txt")
    async with started(model='assets_extra = {"note.txt" = "config/note.txt"}') as running:
        running.drop("step_1.npz")
        (job,) = await running.ended()
        assert job["state"] == "published", job
        assert (running.models / "1" / "assets.extra" / "note.txt").read_text() == "hello"


async def test_an_asset_beneath_the_watched_directory_is_followed_nowhere(started, secret):
    """The configuration names the file, and whoever may write there has put a link in its place."""
    async with started(model='assets_extra = {"note.txt" = "runs/note.txt"}') as running:
        (running.runs / "note.txt").symlink_to(secret / "step_9.npz")
        running.drop("step_1.npz")
        (job,) = await running.ended()
        assert job["error"]["code"] in {"source-link", "asset-invalid"}


async def test_a_watched_directory_swapped_for_a_link_leads_nowhere(started, secret):
    """A directory between the root and the drop that becomes a link after the drop was found: the retry does not follow it."""
    async with started(model='recursive = true\nvalidator = ["/bin/false"]') as running:
        (running.runs / "run").mkdir()
        running.write().rename(running.runs / "run" / "step_9.npz")
        (first,) = await running.ended()
        assert first["error"]["code"] == "validator-refused"
        (running.runs / "run").rename(running.root / "aside")
        (running.runs / "run").symlink_to(secret)
        await running.ask(running.client.post, f"/v1/jobs/{first['id']}/retry")
        jobs = await running.ended(2)
        assert jobs[1]["error"]["code"] in {"source-link", "source-outside"}
        assert not list(running.models.iterdir())


async def test_a_result_is_not_written_through_a_link(started, secret, monkeypatch):
    """A directory that becomes a link while the export runs: the result file is not written where it leads, and the log says so."""

    def swapped(job, root):
        (running.runs / "run").rename(running.root / "aside")
        (running.runs / "run").symlink_to(secret)
        return write(job, root)

    write = results.write_result
    monkeypatch.setattr(results, "write_result", swapped)
    before = sorted(secret.iterdir())
    with capture_logs() as logs:
        async with started(model='recursive = true\non_drop = "ignore"') as running:
            (running.runs / "run").mkdir()
            running.write().rename(running.runs / "run" / "step_9.npz")
            (running.root / "writing").write_text('{"source": "step_9.npz"}')
            (running.root / "writing").rename(running.runs / "run" / "a.export.json")
            (job,) = await running.ended()
            assert job["state"] == "published"
    assert sorted(secret.iterdir()) == before
    assert [line["code"] for line in logs if line["event"] == "result not written"] == ["source-link"]
