"""Exports with a graph through the daemon: a template from the configuration, requests with signatures and modes."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from export_kit import BIAS, KERNEL, linear_module, tf1_checkpoint, values

tf = pytest.importorskip("tensorflow")
X = np.array([[1, 2]], np.float32)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A SavedModel with zeros for its variables."""
    return linear_module(tf, tmp_path_factory.mktemp("template") / "model")


async def test_every_drop_is_served_by_the_templates_graph(started, tmp_path, template):
    """The trainer traces once; each checkpoint becomes a version with the same signature and its own numbers."""
    async with started(model=f'template = "{template}"\ndevices = "strip"') as running:
        values(tmp_path / "v.npz").rename(running.runs / "ckpt-1.npz")
        (job,) = await running.ended()
        assert (job["state"], job["tensors"]) == ("published", 2)
    served = tf.saved_model.load(str(running.models / "1")).signatures["serving_default"]
    np.testing.assert_array_equal(served(tf.constant(X))["y"].numpy(), X @ KERNEL + BIAS)


async def test_a_drop_that_does_not_fit_the_template_says_all_of_it(started, tmp_path, template):
    """Wrong shapes and missing names are listed together in the job."""
    async with started(model=f'template = "{template}"') as running:
        running.drop("ckpt-1.npz", kernel=np.zeros((9, 9), np.float32))
        (job,) = await running.ended()
    assert job["error"]["code"] == "template-mismatch"
    assert "kernel" in job["error"]["message"]
    assert "bias" in job["error"]["message"]


async def test_a_tf1_checkpoint_and_a_request_make_a_servable_model(started, tmp_path):
    """The TF1 export flow: the checkpoint drops, a request names tags and signatures by tensor names."""
    async with started(model='on_drop = "ignore"') as running:
        tf1_checkpoint(tf, running.runs / "model.ckpt-5")
        request = {
            "source": "model.ckpt-5.index",
            "tags": ["serve"],
            "signatures": {"serving_default": {"inputs": {"x": "x:0"}, "outputs": {"y": "y:0"}}},
            "devices": "strip",
        }
        (running.runs / "five.export.json").write_text(json.dumps(request))
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 5), job
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(running.models / "5"))
        assert session.run("y:0", {"x:0": [2.0]}) == [10.0]


async def test_a_tf1_checkpoint_waits_for_its_graph(started, tmp_path):
    """With format = "tf1-checkpoint" a checkpoint is whole once its .meta is there."""
    prefix = tf1_checkpoint(tf, tmp_path / "model.ckpt-6")
    async with started(model='format = "tf1-checkpoint"') as running:
        for suffix in (".data-00000-of-00001", ".index", ".meta"):
            shutil.move(f"{prefix}{suffix}", running.runs)
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 6)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(running.models / "6"))
        assert session.run("y:0", {"x:0": [2.0]}) == [10.0]


async def test_a_request_with_modes_names_the_path_of_each(started, tmp_path, template):
    """Train, eval and predict graphs share one export; the result file says where each mode is."""
    async with started(model='on_drop = "ignore"') as running:
        shutil.copytree(template, running.runs / "graph")
        values(tmp_path / "v.npz").rename(running.runs / "ckpt-8.npz")
        modes = {name: {"template": "graph"} for name in ("train", "predict")}
        (running.runs / "all.export.json").write_text(json.dumps({"source": "ckpt-8.npz", "modes": modes}))
        (job,) = await running.ended()
        assert job["state"] == "published", job
    result = json.loads((running.runs / "all.export.result.json").read_text())
    assert result["mode_dirs"] == dict.fromkeys(("predict", "train"), str(running.models / "8"))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"devices": "everywhere"}, "request-invalid"),
        ({"io_device": "/job:x/device:GPU:0"}, "request-invalid"),
        ({"missing": "perhaps"}, "request-invalid"),
        ({"template": "../../elsewhere"}, "request-source-outside"),
        ({"assets_extra": {"note": "/etc/passwd"}}, "request-source-outside"),
        ({"assets_extra": {"../note": "ckpt-1.npz"}}, "asset-invalid"),
        ({"template": "no-such"}, "savedmodel-missing"),
        ({"signatures": {"s": {"inputs": {"x": "x:0"}}}}, "request-invalid"),
    ],
)
async def test_bad_graph_options_of_a_request_have_their_code(started, fields, code):
    """Nothing is published; the result file says why."""
    async with started(model='on_drop = "ignore"') as running:
        running.drop("ckpt-1.npz")
        (running.runs / "bad.export.json").write_text(json.dumps({"source": "ckpt-1.npz", **fields}))
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", code)
        assert not list(running.models.glob("[0-9]*"))
