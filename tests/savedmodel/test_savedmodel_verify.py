"""Proving SavedModels sound, and finding what is wrong with those that are not."""

import dataclasses
import json

import numpy as np
import pytest
from savedmodel_values import VARIABLE_DTYPES, floats, tensors, values_of

from smdaemon.errors import DropError
from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel import summarize, verify, write_weights
from smdaemon.savedmodel.reader import read_fingerprint, read_saved_model
from smdaemon.tensorbundle.writer import write_bundle

FIXTURES = {
    "saved_model_half_plus_two_gpu/00000123": "absent",
    "saved_model_half_plus_two_tf2_cpu/00000123": "unchecked",
    "saved_model_half_plus_two_2_versions/00000123": "absent",
    "saved_model_half_plus_two_2_versions/00000124": "absent",
    "saved_model_half_plus_three/00000123": "absent",
    "saved_model_half_plus_two_mlmd/00000123": "absent",
}


@pytest.fixture
def model(tmp_path):
    """A sound export of our own."""
    write_weights(tmp_path / "model", tensors({"a/0/w": np.arange(6.0), "a/1/w": np.ones((2, 2)), "b": np.array(1)}))
    return tmp_path / "model"


def refused(export_dir):
    """The error code of a verification that fails."""
    with pytest.raises(DropError) as caught:
        verify(export_dir)
    return caught.value.code


def change_model(export_dir, change):
    """Edit saved_model.pb by `change(SavedModel)`; the fingerprint goes, so that only the change is wrong."""
    _, message = read_saved_model(export_dir)
    change(message)
    (export_dir / "saved_model.pb").write_bytes(deterministic(message))
    (export_dir / "fingerprint.pb").unlink()


def test_our_exports_are_sound(tmp_path):
    """Every dtype, nested, over several shards."""
    arrays = {f"{dtype}/{name}": array for dtype in VARIABLE_DTYPES for name, array in values_of(dtype).items()}
    write_weights(tmp_path / "model", tensors(arrays), shards=3)
    seen = []
    verified = verify(tmp_path / "model", seen.append)
    assert verified.tensors == len(arrays)
    assert verified.fingerprint == "matches"
    assert sum(seen) > 0


@pytest.mark.parametrize("fixture", FIXTURES)
def test_others_models_are_sound(shared, fixture):
    """Models of TensorFlow 1 and 2 pass, whatever their fingerprint's version."""
    assert verify(shared / "fixtures" / fixture).fingerprint == FIXTURES[fixture]


def test_models_that_tensorflow_saves_are_sound(tmp_path):
    """A module with functions, variables shared and nested, a table and an asset."""
    tf = pytest.importorskip("tensorflow")
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    words = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = [tf.Variable(tf.ones([2, 2])), {"x": tf.Variable(1, dtype=tf.int64)}]
            self.tied = self.weights[0]
            initializer = tf.lookup.TextFileInitializer(
                str(tmp_path / "words.txt"), tf.string, words[0], tf.int64, words[1]
            )
            self.table = tf.lookup.StaticVocabularyTable(initializer, 1)
            self.mutable = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def call(self, x):
            return x @ self.weights[0], self.table.size(), self.mutable.size()

    tf.saved_model.save(Module(), str(tmp_path / "model"))
    assert verify(tmp_path / "model").fingerprint == "matches"
    assert verify(tmp_path / "model").tensors >= 2


def test_a_checkpoint_without_variables_is_sound(tmp_path):
    """A module without anything in it."""
    tf = pytest.importorskip("tensorflow")
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    assert verify(tmp_path / "model").tensors == 0


def test_a_flipped_bit_is_found_in_every_file(model):
    """No byte of any file can change unseen."""
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for at in range(0, len(content), max(1, len(content) // 40)):
            path.write_bytes(content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :])
            if path.name == "fingerprint.pb" and read_or_none(model) is None:
                continue
            assert refused(model).startswith(("savedmodel-", "bundle-", "dtype-")), (path.name, at)
        path.write_bytes(content)
    verify(model)


def read_or_none(export_dir):
    """The fingerprint if it still is of the version that is checked, and its uuid is not what changed."""
    try:
        stored = read_fingerprint(export_dir)
    except DropError:
        return "unreadable"
    if stored.version.producer != 4:
        return None
    from smdaemon.savedmodel.fingerprint import differences
    from smdaemon.savedmodel.reader import read_index

    return differences(stored, *read_saved_model(export_dir), read_index(export_dir)) or None


def test_missing_files_are_named(model):
    """A missing shard, a missing index, a missing model."""
    (shard,) = model.glob("variables/*.data-*")
    content = shard.read_bytes()
    shard.unlink()
    assert refused(model) == "bundle-missing-shard"
    shard.write_bytes(content)
    (model / "variables" / "variables.index").unlink()
    assert refused(model) == "savedmodel-inconsistent"
    (model / "saved_model.pb").unlink()
    assert refused(model) == "savedmodel-missing"
    assert refused(model / "nowhere") == "savedmodel-missing"


@pytest.mark.parametrize("content", [b"", b"\x08\x01", b"\xff\xff\xff", b"not a model"])
def test_what_is_no_model_is_corrupt(model, content):
    """An empty, cut or foreign saved_model.pb."""
    (model / "saved_model.pb").write_bytes(content)
    assert refused(model) == "savedmodel-corrupt"


def set_dtype(message):
    """A variable of the object graph has another type."""
    next(node for node in message.meta_graphs[0].object_graph_def.nodes if node.HasField("variable")).variable.dtype = 3


def set_shape(message):
    """A variable of the object graph has another shape."""
    node = next(node for node in message.meta_graphs[0].object_graph_def.nodes if node.HasField("variable"))
    node.variable.shape.dim.add().size = 7


def set_handle_shape(message):
    """A variable of the restore graph has another shape."""
    node = next(node for node in message.meta_graphs[0].graph_def.node if node.op == "VarHandleOp")
    node.attr["shape"].shape.dim.add().size = 7


def set_restored_type(message):
    """The restore op reads another type."""
    next(n for n in message.meta_graphs[0].graph_def.node if n.op == "RestoreV2").attr["dtypes"].list.type[0] = 3


def set_restored_key(message):
    """The restore op reads a key that is not there."""
    node = next(n for n in message.meta_graphs[0].graph_def.node if n.name == "save/RestoreV2/tensor_names")
    node.attr["value"].tensor.string_val[0] = b"elsewhere"


def set_restore_op(message):
    """The saver names an op that is not there."""
    message.meta_graphs[0].saver_def.restore_op_name = "nowhere"


def set_signature(message):
    """A signature names a tensor that is not there."""
    message.meta_graphs[0].signature_def["f"].inputs["x"].name = "nowhere:0"


def set_child_name(message):
    """A variable lies under a name that the checkpoint does not have."""
    message.meta_graphs[0].object_graph_def.nodes[0].children[1].local_name = "elsewhere"
    del message.meta_graphs[0].object_graph_def.nodes[0].children[2:]


def set_child_number(message):
    """An edge of the object graph leads nowhere."""
    message.meta_graphs[0].object_graph_def.nodes[0].children[0].node_id = 4711


def set_name_twice(message):
    """A node with the name of another."""
    message.meta_graphs[0].graph_def.node.add(name="b", op="NoOp")


def set_illegal_name(message):
    """A name that TensorFlow's Python takes, and its C++ does not."""
    message.meta_graphs[0].graph_def.node.add(name="b>", op="NoOp")


def set_asset(message):
    """An asset that is not there."""
    message.meta_graphs[0].asset_file_def.add().filename = "words.txt"


@pytest.mark.parametrize(
    "change",
    [
        set_dtype,
        set_shape,
        set_handle_shape,
        set_restored_type,
        set_restored_key,
        set_restore_op,
        set_signature,
        set_child_name,
        set_child_number,
        set_name_twice,
        set_illegal_name,
        set_asset,
    ],
)
def test_graphs_that_do_not_fit_the_bundle_are_found(model, change):
    """Types, shapes, keys and references are compared both ways."""
    change_model(model, change)
    assert refused(model) == "savedmodel-inconsistent"


def test_another_bundle_is_found(model, tmp_path):
    """A bundle without the object graph, and one with a key that nothing restores."""
    for path in (model / "variables").iterdir():
        path.unlink()
    write_bundle(model / "variables" / "variables", floats(["a"]))
    assert refused(model) == "savedmodel-inconsistent"


def test_an_empty_fingerprint_is_found(model):
    """A file of no bytes parses as a message, and yet it is no fingerprint."""
    (model / "fingerprint.pb").write_bytes(b"")
    with pytest.raises(DropError, match="it is empty") as caught:
        verify(model)
    assert caught.value.code == "savedmodel-corrupt"


def test_a_stale_fingerprint_is_found(model, tmp_path):
    """The fingerprint of another model is a lie, even though TensorFlow would load it."""
    write_weights(tmp_path / "other", floats(["a"]))
    (model / "fingerprint.pb").write_bytes((tmp_path / "other" / "fingerprint.pb").read_bytes())
    assert refused(model) == "savedmodel-inconsistent"


def test_a_model_in_text_format_is_read(model):
    """saved_model.pbtxt, as TensorFlow's loaders take it."""
    from google.protobuf import text_format

    _, message = read_saved_model(model)
    (model / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    (model / "saved_model.pb").unlink()
    assert verify(model).fingerprint == "matches"
    (model / "saved_model.pbtxt").write_text("meta_graphs {")
    assert refused(model) == "savedmodel-corrupt"


def test_summary_of_our_export(model):
    """Variables with dtype, shape and bytes; files; tags; fingerprint; all of it JSON."""
    summary = summarize(model)
    assert [(v.name, v.dtype, v.shape, v.bytes) for v in summary.variables] == [
        ("a/0/w", "float64", (6,), 48),
        ("a/1/w", "float64", (2, 2), 32),
        ("b", "int64", (), 8),
    ]
    assert summary.variable_bytes == 88
    assert summary.meta_graphs[0].tags == ("serve",)
    assert summary.meta_graphs[0].signatures == {}
    assert summary.total_bytes == sum(summary.files.values()) == sum(p.stat().st_size for p in model.rglob("*.*"))
    assert summary.fingerprint is not None
    assert json.loads(json.dumps(dataclasses.asdict(summary)))["variables"][0]["shape"] == [6]


def test_a_summary_shows_paths_as_they_are(tmp_path):
    """Where the name that TensorFlow takes is only the path made legal; a name that a program gave itself is shown."""
    write_weights(tmp_path / "model", tensors({"a/b=c": np.ones(2), "_w/1.5": np.ones(2)}))
    assert [variable.name for variable in summarize(tmp_path / "model").variables] == ["_w/1.5", "a/b=c"]


def test_summary_of_others_models(shared):
    """Signatures with their inputs and outputs, devices by place, TensorFlow 1's variables by their names."""
    summary = summarize(shared / "fixtures" / "saved_model_half_plus_two_gpu" / "00000123")
    (meta_graph,) = summary.meta_graphs
    assert meta_graph.devices["graph"] == {"/device:CPU:0": 20, "/device:GPU:0": 29}
    assert meta_graph.signatures["serving_default"].inputs["x"].dtype == "float32"
    assert {variable.name for variable in summary.variables} == {"a", "b", "c"}
    assert summary.fingerprint is None
    summary = summarize(shared / "fixtures" / "saved_model_half_plus_two_tf2_cpu" / "00000123")
    assert summary.meta_graphs[0].functions > 0
    assert summary.fingerprint is not None
    assert summary.files["assets/foo.txt"] > 0
