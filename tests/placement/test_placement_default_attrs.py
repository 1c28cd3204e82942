"""Default attrs dropped, beside TensorFlow's own function."""

import pytest

from smdaemon.placement import default_attrs, strip_default_attrs
from smdaemon.proto.tensorflow import MetaGraphDef, OpList, SavedModel

FIXTURES = (
    "saved_model_half_plus_two_gpu/00000123",
    "saved_model_half_plus_two_mlmd/00000123",
    "saved_model_half_plus_two_tf2_cpu/00000123",
)


def _stripped_by_tensorflow(content):
    pytest.importorskip("tensorflow")
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow.python.framework.meta_graph import strip_graph_default_valued_attrs

    meta_graph = meta_graph_pb2.MetaGraphDef.FromString(content)
    strip_graph_default_valued_attrs(meta_graph)
    return MetaGraphDef.FromString(meta_graph.SerializeToString())


def _of_a_function():
    """The graph of a v2 function with calls, a branch and a loop, nothing stripped."""
    tf = pytest.importorskip("tensorflow")

    @tf.function
    def inner(x):
        return tf.nn.conv2d(x, tf.ones([1, 1, 1, 1]), strides=1, padding="SAME", dilations=[1, 2, 2, 1])

    @tf.function
    def outer(x):
        x = tf.cond(tf.reduce_sum(x) > 0, lambda: inner(x), lambda: x)
        for _ in tf.range(3):
            x = tf.nn.softmax(tf.matmul(x[0, :, :, 0], x[0, :, :, 0], transpose_a=True))[None, :, :, None]
        return tf.random.uniform([2]) + tf.strings.to_number(tf.strings.as_string(tf.reduce_mean(x)))

    graph = outer.get_concrete_function(tf.TensorSpec([1, 4, 4, 1])).graph
    with graph.as_default():
        return tf.compat.v1.train.export_meta_graph(graph=graph).SerializeToString()


def _check(content, expected_at_least):
    theirs = _stripped_by_tensorflow(content)
    for carried in (True, False):
        ours = MetaGraphDef.FromString(content)
        ops = ours.meta_info_def.stripped_op_list.SerializeToString()
        if not carried:
            ours.meta_info_def.ClearField("stripped_op_list")
        assert strip_default_attrs(ours) >= expected_at_least
        assert ours.meta_info_def.stripped_default_attrs
        if carried:
            assert ours.meta_info_def.stripped_op_list.SerializeToString() == ops
        assert list(ours.graph_def.node) == list(theirs.graph_def.node)
        assert list(ours.graph_def.library.function) == list(theirs.graph_def.library.function)


def test_defaults_are_known_without_the_ops_of_the_graph():
    """By the table of TensorFlow's own; an op that it does not know, and a function of the graph's, keep their attrs."""
    meta_graph = MetaGraphDef()
    meta_graph.graph_def.library.function.add().signature.name = "MatMul2"
    for op in ("MatMul", "MatMul", "NobodysOp", "MatMul2"):
        attrs = meta_graph.graph_def.node.add(name=f"n{len(meta_graph.graph_def.node)}", op=op).attr
        attrs["transpose_a"].b, attrs["transpose_b"].b = False, True
    assert strip_default_attrs(meta_graph) == 2
    kept = [sorted(node.attr) for node in meta_graph.graph_def.node]
    assert kept == [["transpose_b"], ["transpose_b"], ["transpose_a", "transpose_b"], ["transpose_a", "transpose_b"]]
    assert meta_graph.meta_info_def.stripped_default_attrs


@pytest.mark.parametrize("name", FIXTURES)
def test_shipped_models_are_stripped_as_by_tensorflow(shared, name):
    """No node differs, by the ops that the model carries as by the table."""
    model = SavedModel.FromString((shared / "fixtures" / name / "saved_model.pb").read_bytes())
    _check(model.meta_graphs[0].SerializeToString(), 0)


@pytest.mark.parametrize("name", ["v1", "v1_cleared"])
def test_a_model_of_tensorflow_1_is_stripped_as_by_tensorflow(device_models, name):
    """With loops, branches, queues, a saver and a function."""
    model = SavedModel.FromString((device_models / name / "saved_model.pb").read_bytes())
    _check(model.meta_graphs[0].SerializeToString(), 20)


def test_functions_are_stripped_as_by_tensorflow():
    """Attrs of nodes within functions, attrs that are no defaults stay."""
    content = _of_a_function()
    _check(content, 20)
    meta_graph = MetaGraphDef.FromString(content)
    strip_default_attrs(meta_graph)
    (convolution,) = (
        node for function in meta_graph.graph_def.library.function for node in function.node_def if node.op == "Conv2D"
    )
    assert list(convolution.attr["dilations"].list.i) == [1, 2, 2, 1]
    assert "use_cudnn_on_gpu" not in convolution.attr


def test_the_ops_of_the_model_come_first():
    """An op of the model's own, or one whose default was another when the model was made."""
    meta_graph = MetaGraphDef()
    for op in ("MatMul", "Mine"):
        known = meta_graph.meta_info_def.stripped_op_list.op.add(name=op)
        known.attr.add(name="transpose_a", type="bool").default_value.b = True
        for value in (True, False):
            meta_graph.graph_def.node.add(op=op).attr["transpose_a"].b = value
    assert strip_default_attrs(meta_graph) == 2
    assert ["transpose_a" in node.attr for node in meta_graph.graph_def.node] == [False, True, False, True]


def test_calls_of_functions_and_unknown_ops_keep_their_attrs():
    """A function named like an op is not that op."""
    meta_graph = MetaGraphDef()
    meta_graph.graph_def.library.function.add().signature.name = "MatMul"
    for op in ("MatMul", "NobodysOp"):
        meta_graph.graph_def.node.add(op=op).attr["transpose_a"].b = False
    assert strip_default_attrs(meta_graph) == 0
    assert all("transpose_a" in node.attr for node in meta_graph.graph_def.node)


def test_the_table_is_tensorflows_own():
    """Every op and default of the release that is followed."""
    tf = pytest.importorskip("tensorflow")
    if not tf.__version__.startswith("2.21."):
        pytest.skip(f"the table is of 2.21, TensorFlow is {tf.__version__}")
    from tensorflow.python.client import pywrap_tf_session

    registered = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    for op in registered.op:
        theirs = {attr.name: attr.default_value for attr in op.attr if attr.HasField("default_value")}
        assert default_attrs._known(op.name) == theirs
