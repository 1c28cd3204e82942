"""Exports with a graph, from the plan to what TensorFlow computes with them."""

import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from export_kit import BIAS, KERNEL, linear_module, tf1_checkpoint, values

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.export import isolated
from smdaemon.export.isolated import decode_plan, encode_plan, export_isolated, has_large_graph
from smdaemon.export.pipeline import Silent, export
from smdaemon.export.plan import ExportPlan, ModePlan, SignaturePlan
from smdaemon.placement import count_devices
from smdaemon.savedmodel.reader import read_saved_model

tf = pytest.importorskip("tensorflow")
X = np.array([[1, 2]], np.float32)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A SavedModel with zeros for its variables."""
    return linear_module(tf, tmp_path_factory.mktemp("template") / "model")


def run(path, x=X):
    """What TensorFlow's v2 loader computes by the default signature."""
    return tf.saved_model.load(str(path)).signatures["serving_default"](tf.constant(x))["y"].numpy()


def test_a_template_serves_the_values_of_the_drop(tmp_path, template):
    """The graph is the template's, the numbers are the drop's; what the template does not know is ignored."""
    plan = ExportPlan(values(tmp_path / "v.npz"), template=template)
    exported = export(plan, tmp_path / "out")
    assert (exported.tensors, exported.nbytes) == (2, 36)
    np.testing.assert_array_equal(run(tmp_path / "out"), X @ KERNEL + BIAS)


def test_unused_and_missing_tensors_are_errors_where_asked(tmp_path, template):
    """`unused` says that nothing may be left over, `missing` keeps the template's value."""
    path = values(tmp_path / "v.npz")
    with pytest.raises(DropError) as caught:
        export(ExportPlan(path, template=template, unused="error"), tmp_path / "out")
    assert caught.value.code == "template-mismatch"
    with pytest.raises(DropError):
        export(ExportPlan(path, template=template, exclude=("bias",)), tmp_path / "out")
    export(ExportPlan(path, template=template, exclude=("bias",), missing="keep"), tmp_path / "out")
    np.testing.assert_array_equal(run(tmp_path / "out"), X @ KERNEL)


def test_names_are_mapped_to_the_templates(tmp_path, template):
    """A name map with a pattern gives the drop's names the template's."""
    np.savez(tmp_path / "v.npz", **{"model/kernel": KERNEL, "model/bias": BIAS})
    export(ExportPlan(tmp_path / "v.npz", template=template, name_map={"model/*": "*"}), tmp_path / "out")
    np.testing.assert_array_equal(run(tmp_path / "out"), X @ KERNEL + BIAS)


def test_devices_are_stripped_everywhere_when_asked(tmp_path):
    """A model pinned to a GPU in a function runs where there is none once its devices are stripped."""
    pinned = linear_module(tf, tmp_path / "pinned", device="/device:CPU:0")
    assert "/device:CPU:0" in str(devices(pinned))
    export(ExportPlan(values(tmp_path / "v.npz"), template=pinned, devices="strip"), tmp_path / "out")
    assert devices(tmp_path / "out") == [{}]
    export(ExportPlan(values(tmp_path / "v.npz"), template=pinned, devices="remap:*=/device:GPU:1"), tmp_path / "gpu")
    assert {"/device:GPU:1"} == {device for place in devices(tmp_path / "gpu")[0].values() for device in place}


def devices(path):
    """The devices of each meta graph, by place."""
    return [count_devices(meta_graph) for meta_graph in read_saved_model(path)[1].meta_graphs]


def test_options_of_form_reach_the_files(tmp_path, template):
    """Text, extra assets, a warm-up request, a debug map and stripped attributes are all in the export."""
    np.savez(tmp_path / "warm.npz", x=X)
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "map.json").write_text(json.dumps({"StatefulPartitionedCall": [["train.py", 3, "loss", "loss(x)"]]}))
    plan = ExportPlan(
        values(tmp_path / "v.npz"),
        model_name="linear",
        template=template,
        as_text=True,
        strip_default_attrs=True,
        assets_extra={"docs/note.txt": tmp_path / "note.txt"},
        warmup=tmp_path / "warm.npz",
        debug_info_map=tmp_path / "map.json",
    )
    out = tmp_path / "out"
    export(plan, out)
    assert (out / "saved_model.pbtxt").is_file()
    assert not (out / "saved_model.pb").exists()
    assert (out / "assets.extra" / "docs" / "note.txt").read_text() == "hello"
    (record,) = tf.data.TFRecordDataset(str(out / "assets.extra" / "tf_serving_warmup_requests"))
    assert b"serving_default" in record.numpy()
    assert (out / "debug" / "saved_model_debug_info.pb").is_file()
    np.testing.assert_array_equal(run(out), X @ KERNEL + BIAS)


def test_debug_info_is_kept_or_dropped(tmp_path, template):
    """The template's debug info comes along unless it is dropped."""
    path = values(tmp_path / "v.npz")
    export(ExportPlan(path, template=template), tmp_path / "kept")
    export(ExportPlan(path, template=template, debug_info="drop"), tmp_path / "dropped")
    assert (tmp_path / "kept" / "debug").is_dir()
    assert not (tmp_path / "dropped" / "debug").exists()


def test_a_saved_model_is_exported_with_its_graph_or_as_weights(tmp_path, template):
    """SOURCE may be a SavedModel: its graph and values, or with graph = "none" its weights alone."""
    export(ExportPlan(template, devices="strip"), tmp_path / "whole")
    np.testing.assert_array_equal(run(tmp_path / "whole"), X @ np.zeros((2, 3)))
    export(ExportPlan(template, graph="none"), tmp_path / "weights")
    weights = tf.saved_model.load(str(tmp_path / "weights"))
    assert len(weights.signatures) == 0
    assert sorted(variable.name for variable in weights.variables) == ["bias:0", "kernel:0"]


@pytest.mark.parametrize("suffix", ["", ".index"])
def test_a_tf1_checkpoint_is_served_by_the_names_of_its_tensors(tmp_path, cpp_load, suffix):
    """The .meta gives the graph, the plan tags and signatures; v1 and C++ loaders compute with the checkpoint's values."""
    prefix = tf1_checkpoint(tf, tmp_path / "model.ckpt-5")
    signature = SignaturePlan({"x": "x:0"}, {"y": "y:0"})
    source = prefix.with_name(prefix.name + suffix)
    plan = ExportPlan(source, signatures={"serving_default": signature}, tags=("serve", "gpu"))
    export(plan, tmp_path / "out")
    x = np.array([1, 2], np.float32)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve", "gpu"], str(tmp_path / "out"))
        assert loaded.signature_def["serving_default"].method_name == "tensorflow/serving/predict"
        np.testing.assert_array_equal(session.run("y:0", {"x:0": x}), x * 3 + 4)
    model = cpp_load.load(tmp_path / "out", ("serve", "gpu"))
    (y,) = cpp_load.run(model, {"x:0": (x, 1)}, [("y:0", np.float32)])
    np.testing.assert_array_equal(y, x * 3 + 4)


def test_a_tf1_checkpoint_without_its_graph_is_weights(tmp_path):
    """With graph = "none", or without a .meta, the variables are exported alone."""
    prefix = tf1_checkpoint(tf, tmp_path / "model.ckpt-5")
    export(ExportPlan(prefix, graph="none"), tmp_path / "out")
    loaded = tf.saved_model.load(str(tmp_path / "out"))
    assert (loaded.w.numpy(), loaded.b.numpy()) == (3, 4)


def test_a_graph_from_elsewhere_is_pruned_and_initialised(tmp_path):
    """The graph may lie anywhere, be pruned to its signatures, and name the op that is run after loading."""
    prefix = tf1_checkpoint(tf, tmp_path / "model.ckpt-5")
    (tmp_path / "graphs").mkdir()
    meta = (tmp_path / "model.ckpt-5.meta").rename(tmp_path / "graphs" / "model.meta")
    signatures = {"serving_default": SignaturePlan({"x": "x:0"}, {"y": "y:0"})}
    export(ExportPlan(prefix, signatures=signatures, meta_graph=meta), tmp_path / "whole")
    export(ExportPlan(prefix, signatures=signatures, meta_graph=meta, prune=True), tmp_path / "pruned")
    nodes = [len(read_saved_model(tmp_path / name)[1].meta_graphs[0].graph_def.node) for name in ("whole", "pruned")]
    assert nodes[1] < nodes[0]
    with pytest.raises(DropError, match="nothing_there"):
        export(ExportPlan(prefix, meta_graph=meta, main_op="nothing_there"), tmp_path / "out")


def test_modes_share_the_values(tmp_path, template):
    """Train, eval and predict graphs become three meta graphs of one export, the variables saved once."""
    modes = {name: ModePlan(template) for name in ("train", "eval", "predict")}
    export(ExportPlan(values(tmp_path / "v.npz"), modes=modes), tmp_path / "out")
    _, model = read_saved_model(tmp_path / "out")
    assert [sorted(graph.meta_info_def.tags) for graph in model.meta_graphs] == [["train"], ["eval"], ["serve"]]
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "out"))
        signature = graph.signature_def["serving_default"]
        feed = {signature.inputs["x"].name: X}
        np.testing.assert_array_equal(session.run(signature.outputs["y"].name, feed), X @ KERNEL + BIAS)


def test_a_models_description_comes_along(tmp_path):
    """Where the source's metadata has Keras' description of the model, it is among the assets."""
    from safetensors.numpy import save_file

    description = json.dumps({"class_name": "Functional"})
    save_file({"kernel": KERNEL}, tmp_path / "v.safetensors", {"model_config": description})
    export(ExportPlan(tmp_path / "v.safetensors"), tmp_path / "out")
    assert (tmp_path / "out" / "assets" / "saved_model.json").read_text() == description
    assert tf.saved_model.load(str(tmp_path / "out")).kernel.shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"signatures": {"s": SignaturePlan({"x": "x:0"}, {"y": "y:0"})}}, "request-invalid"),
        ({"modes": {"test": ModePlan(None)}}, "request-invalid"),
        ({"tags": ("nothing",)}, "tags-not-found"),
        ({"name_map": {"a*b*": "c"}}, "request-invalid"),
        ({"devices": "remap:"}, "device-invalid"),
    ],
)
def test_a_plan_that_contradicts_its_graph_is_refused(tmp_path, template, change, code):
    """Each contradiction has its code, and nothing is written."""
    plan = ExportPlan(values(tmp_path / "v.npz"), template=template, **change)
    with pytest.raises(DropError) as caught:
        export(plan, tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": {"s": SignaturePlan({"x": "x:0"}, {"y": "y:0"})}},
        {"name_map": {"model/*": "*"}},
        {"meta_graph": Path("it.meta")},
        {"main_op": "init"},
        {"prune": True},
        {"serving_tensorflow": "2.19"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_option_of_a_graph_is_refused_where_there_is_none_to_take_it(tmp_path, change):
    """It would be passed over in silence."""
    with pytest.raises(DropError) as caught:
        export(ExportPlan(values(tmp_path / "v.npz"), **change), tmp_path / "out")
    assert caught.value.code == "request-invalid"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["template", "weights"])
def test_a_request_for_another_graph_or_none_leaves_the_settings_for_checkpoints_out(tmp_path, template, other):
    """It cannot take them back otherwise: they are those of a model whose checkpoints have graphs."""
    of_model = {"prune": True, "main_op": "init", "meta_graph": Path("it.meta")}
    of_request = {"template": template} if other == "template" else {"graph": "none"}
    export(ExportPlan(values(tmp_path / "v.npz"), **of_model, **of_request), tmp_path / "out")
    assert (tmp_path / "out" / "saved_model.pb").exists()


def test_an_export_in_a_child_process_is_the_same(tmp_path, template):
    """The child writes the same bytes, and reports the same progress."""
    plan = ExportPlan(values(tmp_path / "v.npz"), template=template, signatures={}, tags=("serve",))
    told = []

    class Told(Silent):
        def writing(self, tensors, nbytes, working_bytes):
            told.append((tensors, nbytes))

        def advance(self, nbytes):
            told.append(nbytes)

        def verifying(self):
            told.append("verifying")

    here, there = export(plan, tmp_path / "here"), export_isolated(plan, tmp_path / "there", Told())
    assert here == there
    files = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file())
    for name in files:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert told[0] == (2, 36)
    assert told[-1] == "verifying"
    assert decode_plan(encode_plan(plan)) == plan
    assert not has_large_graph(plan)


def test_a_path_that_is_not_utf_8_crosses_the_pipe(tmp_path, template):
    """A file's name is bytes: of the source, of what is copied beside it, and of the directory that is written to."""
    source = values(tmp_path / os.fsdecode(b"\xe9 %2f.npz"))
    plan = ExportPlan(source, template=template, assets_extra={"a": source}, root=tmp_path, trusted=(template,))
    assert decode_plan(encode_plan(plan)) == plan
    target = tmp_path / os.fsdecode(b"\xe9")
    export_isolated(plan, target, Silent())
    assert (target / "assets.extra" / "a").read_bytes() == source.read_bytes()


def test_an_error_in_the_child_process_is_the_same_error(tmp_path, template):
    """Code, message and remedy cross the pipe."""
    plan = ExportPlan(values(tmp_path / "v.npz"), template=template, exclude=("bias",))
    with pytest.raises(DropError) as here:
        export(plan, tmp_path / "out")
    with pytest.raises(DropError) as there:
        export_isolated(plan, tmp_path / "out", Silent())
    assert (here.value.code, str(here.value), here.value.remedy) == (
        there.value.code,
        str(there.value),
        there.value.remedy,
    )


def worker_errors(tmp_path, monkeypatch, raised: str) -> Exception:
    """What becomes of an exception that an export raises in the child process."""
    script = tmp_path / "broken.py"
    script.write_text(
        "import smdaemon.export.worker as worker\n"
        f"def broken(*_arguments): raise {raised}\n"
        "worker.perform = broken\n"
        "worker.main()\n"
    )
    monkeypatch.setattr(isolated, "WORKER", [str(script)])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is asked by the caller
        export_isolated(ExportPlan(values(tmp_path / "v.npz")), tmp_path / "out", Silent())
    return caught.value


def test_a_bug_in_the_child_process_comes_with_its_traceback(tmp_path, monkeypatch, capfd):
    """In the exception, and so in the log line of its job; nothing is written past the log."""
    bug = worker_errors(tmp_path, monkeypatch, "KeyError('layer\\n')")
    assert str(bug) == "in the export's process: KeyError: 'layer\\n'"
    assert "in broken" in "".join(traceback.format_exception(bug))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("raised", "code"),
    [("MemoryError", "memory-short"), ("OSError(24, 'Too many open files')", "too-many-files")],
)
def test_a_shortage_in_the_child_process_is_a_fault_that_is_tried_again(tmp_path, monkeypatch, raised, code):
    """As in the daemon itself."""
    fault = worker_errors(tmp_path, monkeypatch, raised)
    assert isinstance(fault, EnvironmentFault)
    assert (fault.code, fault.retryable) == (code, True)


def test_a_report_that_raises_ends_the_child_process(tmp_path, template):
    """A cancelled job does not leave its process behind."""

    class CancelledError(Exception):
        pass

    class Cancelling(Silent):
        def writing(self, tensors, nbytes, working_bytes):
            raise CancelledError

    plan = ExportPlan(values(tmp_path / "v.npz"), template=template)
    with pytest.raises(CancelledError):
        export_isolated(plan, tmp_path / "out", Cancelling())


def test_a_killed_child_process_is_a_fault_that_is_tried_again(tmp_path, template):
    """The kernel kills it where memory is short; the job says so and waits."""
    before = children_of(os.getpid())

    class Killing(Silent):
        def writing(self, tensors, nbytes, working_bytes):
            (child,) = children_of(os.getpid()) - before
            os.kill(child, signal.SIGKILL)

    with pytest.raises(EnvironmentFault) as caught:
        export_isolated(ExportPlan(values(tmp_path / "v.npz"), template=template), tmp_path / "out", Killing())
    assert (caught.value.code, caught.value.retryable) == ("memory-short", True)


def test_a_child_process_does_not_outlive_the_daemon(tmp_path, template):
    """Where the parent is killed in the middle of an export, the kernel ends the child too."""
    plan = encode_plan(ExportPlan(values(tmp_path / "v.npz"), template=template)).decode()
    program = (
        "import os, signal, sys\n"
        "from smdaemon.export.isolated import decode_plan, export_isolated\n"
        "from smdaemon.export.pipeline import Silent\n"
        "class Dying(Silent):\n"
        "    def writing(self, tensors, nbytes, working_bytes):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"export_isolated(decode_plan({plan!r}.encode()), __import__('pathlib').Path({str(tmp_path / 'out')!r}), Dying())\n"
    )
    # both hold the pipe that stderr is: the read ends when both are gone
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def children_of(pid):
    """The processes that `pid` started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    found: set[int] = set()
    for thread in threads:
        with suppress(FileNotFoundError):  # a thread of an earlier test, which has ended since it was listed
            found |= {int(child) for child in (thread / "children").read_text().split()}
    return found
