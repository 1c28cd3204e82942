"""Devices of models that TensorFlow made: before, after, and what its own loaders make of them."""

import shutil

import numpy as np
import pytest
from device_finder import find_devices
from placement_models import POLICIES

from smdaemon.placement import count_colocations, count_devices, parse_policy, place
from smdaemon.proto.tensorflow import GraphDef, MetaGraphDef, SavedModel
from smdaemon.savedmodel.summary import summarize

tf = pytest.importorskip("tensorflow")
tf1 = tf.compat.v1

CPU_1 = "/job:localhost/replica:0/task:0/device:CPU:1"
WORKER = "/job:worker/replica:0/task:0/device:GPU:1"
MADE = ("pinned", "v1", "v1_cleared", *(f"{kind}_{name}" for kind in ("mirrored", "second") for name in POLICIES))
SHIPPED = (
    "saved_model_half_plus_two_gpu/00000123",
    "saved_model_half_plus_two_mlmd/00000123",
    "saved_model_half_plus_two_tf2_cpu/00000123",
    "saved_model_half_plus_three/00000123",
)
FLOAT = 1


def read(export_dir):
    """The model's message."""
    return SavedModel.FromString((export_dir / "saved_model.pb").read_bytes())


def placed(export_dir, folder, policy):
    """A copy of a model below `folder`, with a policy applied."""
    copy = folder / "placed"
    shutil.copytree(export_dir, copy)
    model = read(copy)
    place(model, parse_policy(policy))
    (copy / "saved_model.pb").write_bytes(model.SerializeToString())
    # it tells of the file before
    (copy / "fingerprint.pb").unlink(missing_ok=True)
    return copy


def signature_tensors(export_dir):
    """The names of the input x and the output y of the model's one signature."""
    (meta_graph,) = read(export_dir).meta_graphs
    (signature,) = (s for key, s in meta_graph.signature_def.items() if not key.startswith("__"))
    return signature.inputs["x"].name, next(iter(signature.outputs.values())).name


def run_v2(export_dir):
    """What the signature makes of [1, 2] when tf.saved_model.load has loaded it."""
    (function,) = tf.saved_model.load(str(export_dir)).signatures.values()
    (y,) = function(x=tf.constant([1.0, 2.0])).values()
    return y.numpy().tolist()


def run_v1(export_dir):
    """The same by the loader of TensorFlow 1, in a session of soft placement."""
    x, y = signature_tensors(export_dir)
    with tf1.Session(graph=tf.Graph(), config=tf1.ConfigProto(allow_soft_placement=True)) as session:
        tf1.saved_model.load(session, ["serve"], str(export_dir))
        return session.run(y, {x: [1.0, 2.0]}).tolist()


def run_cpp(cpp_load, export_dir):
    """The same by the loader that TensorFlow Serving uses."""
    x, y = signature_tensors(export_dir)
    feeds = {x: (np.array([1.0, 2.0], np.float32), FLOAT)}
    (result,) = cpp_load.run(cpp_load.load(export_dir), feeds, [(y, np.float32)])
    return result.tolist()


@pytest.mark.parametrize("name", MADE)
def test_nothing_like_a_device_is_left_after_strip(device_models, name):
    """Not in any text of the message, bytes within bytes included."""
    model = read(device_models / name)
    assert find_devices(model)
    assert place(model, parse_policy("strip")).total
    assert find_devices(model) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_like_a_device_is_left_of_shipped_models(shared, name):
    """Models of many releases."""
    model = read(shared / "fixtures" / name)
    place(model, parse_policy("strip"))
    assert find_devices(model) == []


@pytest.mark.parametrize("name", MADE)
def test_no_host_is_left_after_soft(device_models, name):
    """Devices keep their type; nobody's job is named any more."""
    model = read(device_models / name)
    (meta_graph,) = model.meta_graphs
    colocations = count_colocations(meta_graph)
    place(model, parse_policy("soft"))
    assert not [content for _, content in find_devices(model) if b"/job" in content or b"/task" in content]
    assert count_colocations(meta_graph) == colocations


def test_every_place_of_tensorflows_models_is_counted(device_models):
    """Graph, functions, the variable and its components, as `inspect` shows them."""
    counts = summarize(device_models / "mirrored_expand").meta_graphs[0].devices
    assert counts["variables"] == {CPU_1.replace("CPU:1", "CPU:0"): 2, CPU_1: 1}
    assert counts["graph"][CPU_1] == 2
    assert counts["functions"]["/device:CPU:*"] > 0
    assert summarize(device_models / "pinned").meta_graphs[0].devices["functions"][WORKER] > 0
    assert summarize(device_models / "v1").meta_graphs[0].colocations > 0


def test_a_pinned_model_fails_until_it_is_stripped(device_models, tmp_path, cpp_load):
    """Its functions name a device that is not there; afterwards all loaders run it, with the numbers of the source."""
    export_dir = device_models / "pinned"
    with pytest.raises(tf.errors.InvalidArgumentError, match="Cannot assign a device"):
        run_v2(export_dir)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Cannot assign a device"):
        run_v1(export_dir)
    with pytest.raises(RuntimeError, match="Cannot assign a device"):
        run_cpp(cpp_load, export_dir)
    stripped = placed(export_dir, tmp_path, "strip")
    assert run_v2(stripped) == run_v1(stripped) == run_cpp(cpp_load, stripped) == [6.0, 18.0]


def test_a_pinned_model_runs_where_it_is_remapped_to(device_models, tmp_path, cpp_load):
    """The GPU of the cluster becomes this host's CPU, nothing else changes."""
    remapped = placed(device_models / "pinned", tmp_path, "remap:/device:GPU:*=/device:CPU:0")
    (meta_graph,) = read(remapped).meta_graphs
    assert set(count_devices(meta_graph)["functions"]) == {"/device:CPU:0", "/device:CPU:*"}
    assert run_v2(remapped) == run_v1(remapped) == run_cpp(cpp_load, remapped) == [6.0, 18.0]


@pytest.mark.parametrize("name", ["second_devices", "second_expand", "mirrored_expand"])
def test_models_with_devices_of_variables_fail_until_they_are_stripped(device_models, tmp_path, cpp_load, name):
    """A machine with one CPU cannot hold them; stripped, all loaders give the numbers of the source."""
    export_dir = device_models / name
    with pytest.raises(RuntimeError, match="Cannot assign a device"):
        cpp_load.load(export_dir)
    stripped = placed(export_dir, tmp_path, "strip")
    assert run_v2(stripped) == run_v1(stripped) == run_cpp(cpp_load, stripped) == [1.0, 4.0]


def test_a_model_of_tensorflow_1_runs_stripped(device_models, tmp_path, cpp_load):
    """Reference variables, loops, branches and queues of the old kind, all of them pinned and colocated."""
    with pytest.raises(RuntimeError, match="Cannot assign a device"):
        cpp_load.load(device_models / "v1")
    stripped = placed(device_models / "v1", tmp_path, "strip")
    assert run_v1(stripped) == run_cpp(cpp_load, stripped) == [9.0, 33.0]


def test_tensorflow_leaves_devices_where_we_leave_none(device_models):
    """Its clear_devices looks at the nodes of the graph alone."""
    model = read(device_models / "v1_cleared")
    (meta_graph,) = model.meta_graphs
    assert count_devices(meta_graph) == {"functions": {CPU_1: 1}}
    assert count_colocations(meta_graph) > 0
    place(model, parse_policy("strip"))
    assert (count_devices(meta_graph), count_colocations(meta_graph)) == ({}, 0)


@pytest.mark.parametrize("policy", ["strip", "remap:/device:GPU:*=/device:CPU:0"])
def test_remote_calls_come_home(policy):
    """Their target is the value of a constant, in the graph as in a function."""
    from tensorflow.python.framework.function import Defun

    @Defun(tf.float32)
    def double(x):
        return x * 2

    @Defun(tf.float32)
    def remote(x):
        return call(x)

    def call(x):
        return tf.raw_ops.RemoteCall(target=tf.constant("/device:GPU:7"), args=[x], Tout=[tf.float32], f=double)[0]

    with tf.Graph().as_default() as graph:
        total = call(tf.constant(1.0)) + remote(tf.constant(10.0))
        meta_graph = MetaGraphDef(graph_def=GraphDef.FromString(graph.as_graph_def().SerializeToString()))
    assert count_devices(meta_graph) == {"targets": {"/device:GPU:7": 2}}
    place(meta_graph, parse_policy(policy))
    graph_def = tf1.GraphDef.FromString(meta_graph.graph_def.SerializeToString())
    with tf1.Session(graph=tf.Graph()) as session:
        tf.import_graph_def(graph_def, name="")
        assert session.run(total.name) == 22.0
