"""Debug info and warm-up requests: what is made, and that TensorFlow reads it."""

import struct

import numpy as np
import pytest
from builder_graphs import VALUES, X, affine, info, read_model, signature

from smdaemon.errors import DropError
from smdaemon.proto.serving import PredictionLog
from smdaemon.proto.tensorflow import GraphDebugInfo, MetaGraphDef, SavedModel, SignatureDef
from smdaemon.savedmodel import verify
from smdaemon.savedmodel.builder import Builder
from smdaemon.savedmodel.debug_info import Frame, make_debug_info, prune_debug_info
from smdaemon.savedmodel.tensor_values import array_of
from smdaemon.savedmodel.warmup import REQUESTS_LIMIT, warmup_requests

STACK = [Frame("/a/train.py", 10, "main", "y = model(x)"), Frame("/a/model.py", 20, "call", "x @ kernel", 4)]


def model_of(*nodes, functions=()):
    """A SavedModel with these nodes, and with functions as pairs of name and nodes."""
    meta_graph = MetaGraphDef()
    for name in nodes:
        meta_graph.graph_def.node.add(name=name, op="NoOp")
    for function, names in functions:
        made = meta_graph.graph_def.library.function.add()
        made.signature.name = function
        for name in names:
            made.node_def.add(name=name, op="NoOp")
    return SavedModel(meta_graphs=[meta_graph])


def stack_of(debug_info, name):
    """The files and lines of a node's stack."""
    frames = [
        debug_info.frames_by_id[number]
        for number in debug_info.traces_by_id[debug_info.name_to_trace_id[name]].frame_id
    ]
    return [(debug_info.files[frame.file_index], frame.line) for frame in frames]


def test_debug_info_keeps_each_frame_and_stack_once():
    """Nodes of graphs and functions; the order in which they are given does not matter."""
    traces = {"a": STACK, "b@f": STACK, "c": STACK[:1]}
    made = make_debug_info(traces)
    assert set(made.name_to_trace_id) == {"a@", "b@f", "c@"}
    assert (len(made.traces_by_id), len(made.frames_by_id)) == (2, 2)
    assert stack_of(made, "b@f") == [("/a/train.py", 10), ("/a/model.py", 20)]
    assert make_debug_info(dict(reversed(traces.items()))) == made


def test_pruned_debug_info_has_what_the_model_has():
    """Nodes that are gone lose their stacks, and what only those needed goes too."""
    made = make_debug_info({"a": STACK[:1], "gone": STACK, "b@f": STACK[1:], "b@other": STACK})
    pruned = prune_debug_info(made, model_of("a", functions=[("f", ["b"])]))
    assert set(pruned.name_to_trace_id) == {"a@", "b@f"}
    assert stack_of(pruned, "a@") == [("/a/train.py", 10)]
    assert stack_of(pruned, "b@f") == [("/a/model.py", 20)]
    assert len(pruned.traces_by_id) == 2
    only = prune_debug_info(pruned.SerializeToString(), model_of("a"))
    assert list(only.files) == ["/a/train.py"]


def test_the_older_layout_is_pruned_as_it_is():
    """Stacks that are written out stay so, with their files renumbered."""
    old = GraphDebugInfo(files=["/x.py", "/y.py"])
    old.traces["gone@"].file_line_cols.add(file_index=0, line=1)
    old.traces["a@"].file_line_cols.add(file_index=1, line=2)
    old.traces["a@"].file_line_cols.add(file_index=7, line=3)
    pruned = prune_debug_info(old, model_of("a"))
    assert list(pruned.files) == ["/y.py"]
    assert [(frame.file_index, frame.line) for frame in pruned.traces["a@"].file_line_cols] == [(0, 2), (0, 3)]


def test_tensorflows_debug_info_survives_pruning_whole(tmp_path):
    """Of the same model every trace stays, and the model loads with what is left."""
    tf = pytest.importorskip("tensorflow")

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
        def double(self, x):
            return x + x

    options = tf.saved_model.SaveOptions(save_debug_info=True)
    tf.saved_model.save(Model(), str(tmp_path / "model"), options=options)
    path = tmp_path / "model/debug/saved_model_debug_info.pb"
    theirs = GraphDebugInfo.FromString(path.read_bytes())
    pruned = prune_debug_info(theirs, read_model(tmp_path / "model"))
    assert any(name.startswith("add@") for name in pruned.name_to_trace_id)
    for name in pruned.name_to_trace_id:
        assert stack_of(pruned, name) == stack_of(theirs, name)
    path.write_bytes(pruned.SerializeToString())
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.double(tf.constant(2.0)).numpy() == 4


def test_the_builder_keeps_debug_info_of_the_nodes_it_has(tmp_path, cpp_load):
    """It is written before the model, pruned, and the C++ loader reads it."""
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(affine(), VALUES, ["serve"])
    builder.set_debug_info(make_debug_info({"product": STACK, "gone": STACK[:1]}))
    builder.save()
    verify(tmp_path / "model")
    written = GraphDebugInfo.FromString((tmp_path / "model/debug/saved_model_debug_info.pb").read_bytes())
    assert list(written.name_to_trace_id) == ["product@"]
    cpp_load.load(tmp_path / "model")


def test_warmup_requests_are_records_of_prediction_logs(tmp_path):
    """TensorFlow's own reader checks the frames; the inputs are the samples."""
    tf = pytest.importorskip("tensorflow")
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(affine(), VALUES, ["serve"], {"serving_default": signature()})
    samples = [{"x": X}, {"x": [[1, 2]]}]
    builder.add_warmup_requests(warmup_requests("affine", samples, signature=signature()))
    builder.save()
    path = tmp_path / "model/assets.extra/tf_serving_warmup_requests"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    requests = [PredictionLog.FromString(record).predict_log.request for record in records]
    assert [request.model_spec.name for request in requests] == ["affine", "affine"]
    assert requests[0].model_spec.signature_name == "serving_default"
    for request, sample in zip(requests, samples, strict=True):
        np.testing.assert_array_equal(array_of(request.inputs["x"]), sample["x"])
        theirs = tf.make_ndarray(theirs_tensor(request.inputs["x"]))
        assert theirs.dtype == np.float32
        np.testing.assert_array_equal(theirs, sample["x"])


def theirs_tensor(proto):
    """A TensorProto as TensorFlow's own message."""
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    return TensorProto.FromString(proto.SerializeToString())


def test_a_prediction_log_has_tensorflow_servings_field_numbers():
    """Field 6 of PredictionLog, 1 of PredictLog, then model_spec 1 (name 1, signature_name 3) and inputs 2."""
    content = warmup_requests("m", [{"x": np.float32(1)}], signature_name="s")
    (length,) = struct.unpack("<Q", content[:8])
    payload = content[12 : 12 + length]
    request = b"\x0a\x06\x0a\x01m\x1a\x01s\x12\x0f\x0a\x01x\x12\x0a\x08\x01\x12\x00\x2a\x04" + struct.pack("<f", 1)
    assert payload == b"\x32" + bytes([len(request) + 2]) + b"\x0a" + bytes([len(request)]) + request


@pytest.mark.parametrize(
    ("sample", "word"),
    [
        ({}, "has the inputs []"),
        ({"y": X}, "'y'"),
        ({"x": X.astype(np.float64)}, "float64"),
        ({"x": X[0]}, "(2,)"),
        ({"x": np.zeros((1, 3), np.float32)}, "(1, 3)"),
        ({"x": "text"}, "float32"),
    ],
)
def test_samples_must_fit_the_signature(sample, word):
    """Names, dtypes and shapes; a size that the signature leaves open may be any."""
    with pytest.raises(DropError) as caught:
        warmup_requests("m", [sample], signature=signature())
    assert caught.value.code == "signature-invalid"
    assert word in caught.value.message


def test_strings_are_samples_too():
    """Text becomes UTF-8."""
    wanted = SignatureDef(inputs={"t": info("t:0", -1, dtype="string")})
    content = warmup_requests("m", [{"t": ["é", b"b"]}], signature=wanted)
    assert "é".encode() in content


def test_there_are_no_more_warmup_requests_than_serving_takes():
    """1,000 are written, 1,001 refused."""
    assert warmup_requests("m", [{}] * REQUESTS_LIMIT)
    with pytest.raises(DropError):
        warmup_requests("m", [{}] * (REQUESTS_LIMIT + 1))
