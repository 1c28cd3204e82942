"""Exports of checkpoints with JAX functions, from the plan to what TensorFlow computes with them."""

import os
from pathlib import Path

import numpy as np
import pytest
from functions_kit import CHECKPOINTS, PARAMS, X, Y, flat, predict, served, write_bundle

from smdaemon.errors import DropError
from smdaemon.export.isolated import decode_plan, encode_plan, export_isolated, has_large_graph
from smdaemon.export.pipeline import Silent, export
from smdaemon.export.plan import ExportPlan, ModePlan, SignaturePlan
from smdaemon.savedmodel import summarize

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The function bundle."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "predict.functions", debug_info=True)


@pytest.fixture
def npz(tmp_path):
    """A checkpoint of the parameters and an optimizer's step."""
    np.savez(tmp_path / "v.npz", **flat(), **{"opt/step": np.int64(7)})
    return tmp_path / "v.npz"


def refused(code, plan, target):
    """The message of the DropError of that code; nothing is written."""
    with pytest.raises(DropError) as caught:
        export(plan, target)
    assert caught.value.code == code, caught.value
    assert not target.exists()
    return caught.value.message


@pytest.mark.parametrize("write", CHECKPOINTS)
def test_a_checkpoint_is_served_by_the_functions(tmp_path, bundle, write):
    """Whatever wrote it: the names of its tensors are the parameters'."""
    exported = export(ExportPlan(write(tmp_path / "ckpt"), function=bundle), tmp_path / "out")
    assert (exported.tensors, exported.nbytes) == (3, 40)
    np.testing.assert_allclose(served(tf, tmp_path / "out"), Y, rtol=1e-6)
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    np.testing.assert_allclose(loaded(tf.constant(X))["y"], Y, rtol=1e-6)


def test_bundle_and_checkpoint_are_what_save_writes(tmp_path, npz):
    """The same files, byte for byte."""
    from smdaemon.savedmodel.jax import save, symbolic

    save(predict, PARAMS, tmp_path / "saved", {"x": symbolic("batch, 3", "float32")}, sync=False)
    export(ExportPlan(npz, function=write_bundle(tmp_path / "it.functions")), tmp_path / "out")
    names = sorted(path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert Path("saved_model.pb") in names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes(), name


def test_what_tensorflow_saved_is_a_checkpoint(tmp_path, bundle, npz):
    """The values of a SavedModel, or of tf.train.Checkpoint, with these functions."""
    export(ExportPlan(npz, function=bundle), tmp_path / "first")
    loaded = tf.saved_model.load(str(tmp_path / "first"))
    loaded.scale.assign([6, 6])
    tf.train.Checkpoint(loaded).write(str(tmp_path / "ckpt"))
    export(ExportPlan(tmp_path / "ckpt", function=bundle), tmp_path / "second")
    np.testing.assert_allclose(served(tf, tmp_path / "second"), Y * 2, rtol=1e-6)
    export(ExportPlan(tmp_path / "second", function=bundle), tmp_path / "third")
    np.testing.assert_allclose(served(tf, tmp_path / "third"), Y * 2, rtol=1e-6)


def test_tensors_are_chosen_renamed_and_mapped(tmp_path, bundle):
    """The plan's include, exclude, rename and name map come before the parameters' names."""
    np.savez(tmp_path / "v.npz", **flat(prefix="state/params/"), **flat(prefix="state/ema/", factor=2))
    source = tmp_path / "v.npz"
    export(ExportPlan(source, function=bundle, name_map={"state/params/*": "*"}), tmp_path / "mapped")
    np.testing.assert_allclose(served(tf, tmp_path / "mapped"), Y, rtol=1e-6)
    ema = ExportPlan(source, function=bundle, include=("state/ema/*",), name_map={"state/ema/*": "*"}, unused="error")
    export(ema, tmp_path / "ema")
    np.testing.assert_allclose(served(tf, tmp_path / "ema"), Y * 4, rtol=1e-6)
    message = refused("parameters-mismatch", ExportPlan(source, function=bundle), tmp_path / "out")
    assert "a name map of 'state/ema/*' to '*' would take it" in message


def test_what_does_not_fit_is_told_at_once(tmp_path, bundle):
    """Missing tensors, shapes, dtypes, and with `unused` "error" what is no parameter."""
    values = flat() | {"dense/bias": np.zeros(9, np.float32), "opt": np.zeros(1)}
    del values["scale"]
    np.savez(tmp_path / "v.npz", **values)
    message = refused(
        "parameters-mismatch", ExportPlan(tmp_path / "v.npz", function=bundle, unused="error"), tmp_path / "out"
    )
    assert "'dense/bias' is float32 of (9,), and was float32 of (2,)" in message
    assert "no tensor is the parameter 'scale'" in message
    assert "the tensor 'opt' is no parameter" in message


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"template": Path("t")}, "request-invalid", "functions and a template"),
        ({"modes": {"train": ModePlan(Path("t"))}}, "request-invalid", "functions and a template"),
        ({"missing": "keep"}, "request-invalid", "kept"),
        ({"signatures": {"s": SignaturePlan({"x": "x:0"}, {"y": "y:0"})}}, "request-invalid", "signatures"),
        ({"serving_tensorflow": "2.18"}, "function-target-unknown", "'2.18'"),
        ({"name_map": {"nothing": "scale"}}, "parameters-mismatch", "'nothing'"),
        ({"exclude": ("scale",)}, "parameters-mismatch", "'scale'"),
        ({"function": Path("/nowhere/it.functions")}, "source-missing", "it.functions"),
        ({"function": Path("/tmp")}, "source-not-regular", "/tmp"),
        ({"function": Path(os.devnull)}, "source-not-regular", os.devnull),
        ({"function": Path(__file__)}, "function-invalid", "no function bundle"),
    ],
)
def test_a_plan_that_contradicts_its_functions_is_refused(tmp_path, bundle, npz, *, change, code, says):
    """Each contradiction has its code, and nothing is written."""
    assert says in refused(code, ExportPlan(npz, **{"function": bundle, **change}), tmp_path / "out")


def test_the_release_that_serves_may_be_asked_for(tmp_path, npz):
    """A bundle for 2.21 is refused for 2.20, and written for what it names itself."""
    bundle = write_bundle(tmp_path / "new.functions", serving_tensorflow="2.21")
    plan = ExportPlan(npz, function=bundle, serving_tensorflow="2.20")
    assert "TensorFlow 2.20 knows" in refused("function-too-new", plan, tmp_path / "out")
    export(ExportPlan(npz, function=bundle), tmp_path / "out")
    np.testing.assert_allclose(served(tf, tmp_path / "out"), Y, rtol=1e-6)


def test_options_of_form_reach_the_files(tmp_path, bundle, npz):
    """Tags, text, extra assets, a warm-up request; debug info is kept unless it is dropped."""
    np.savez(tmp_path / "warm.npz", x=X)
    (tmp_path / "note.txt").write_text("hello")
    plan = ExportPlan(
        npz,
        model_name="predict",
        function=bundle,
        tags=("serve", "gpu"),
        as_text=True,
        assets_extra={"note.txt": tmp_path / "note.txt"},
        warmup=tmp_path / "warm.npz",
        shards=2,
    )
    out = tmp_path / "out"
    export(plan, out)
    assert [graph.tags for graph in summarize(out).meta_graphs] == [("serve", "gpu")]
    assert (out / "assets.extra" / "note.txt").read_text() == "hello"
    (record,) = tf.data.TFRecordDataset(str(out / "assets.extra" / "tf_serving_warmup_requests"))
    assert b"serving_default" in record.numpy()
    assert b"functions_kit.py" in (out / "debug" / "saved_model_debug_info.pb").read_bytes()
    assert len([*(out / "variables").glob("variables.data-*")]) == 2
    loaded = tf.saved_model.load(str(out), tags=["serve", "gpu"])
    np.testing.assert_allclose(loaded(tf.constant(X))["y"], Y, rtol=1e-6)
    export(ExportPlan(npz, function=bundle, debug_info="drop"), tmp_path / "dropped")
    assert not (tmp_path / "dropped" / "debug").exists()


def test_an_export_in_a_child_process_is_the_same(tmp_path, bundle, npz):
    """The child writes the same bytes and raises the same errors; a large bundle belongs there."""
    plan = ExportPlan(npz, function=bundle, serving_tensorflow="2.20")
    assert decode_plan(encode_plan(plan)) == plan
    assert not has_large_graph(plan)
    assert export(plan, tmp_path / "here") == export_isolated(plan, tmp_path / "there", Silent())
    for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    (tmp_path / "large.functions").touch()
    os.truncate(tmp_path / "large.functions", 20 << 20)
    assert has_large_graph(ExportPlan(npz, function=tmp_path / "large.functions"))
