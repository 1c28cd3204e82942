"""Signatures beside those that TensorFlow's own functions make: byte for byte."""

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.proto.pool import deterministic
from smdaemon.proto.tensorflow import MetaGraphDef, SignatureDef, TensorInfo, TensorProto
from smdaemon.savedmodel import (
    GraphTensor,
    SparseTensor,
    build_signature_def,
    build_tensor_info,
    build_tensor_info_from_op,
    classification_signature_def,
    constants,
    get_tensor_from_tensor_info,
    is_valid_signature,
    load_op_from_signature_def,
    main_op_with_restore,
    op_signature_def,
    predict_signature_def,
    ragged_tensor,
    regression_signature_def,
    supervised_eval_signature_def,
    supervised_train_signature_def,
)
from smdaemon.savedmodel.tensor_values import array_of, tensor_proto

tf = pytest.importorskip("tensorflow")

v1 = tf.compat.v1.saved_model


@pytest.fixture
def graph():
    """A graph to make placeholders in."""
    with tf.Graph().as_default() as graph:
        yield graph


def ours(tensor):
    """The same tensor as we describe it."""
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return GraphTensor(tensor.name, tensor.dtype.name, shape)


def same(mine, theirs):
    """Both messages in one form."""
    assert deterministic(mine) == deterministic(type(mine).FromString(theirs.SerializeToString()))
    assert mine.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("shape", [None, [], [None, 3], [0], [2, None, 4]])
@pytest.mark.parametrize("dtype", ["float32", "string", "int64", "bool", "bfloat16", "resource", "variant", "qint8"])
def test_dense_tensor_infos(graph, dtype, shape):
    """Every kind of shape, dtypes that bundles do not store among them."""
    placeholder = tf.compat.v1.placeholder(tf.as_dtype(dtype), shape)
    theirs = v1.utils.build_tensor_info(placeholder)
    same(build_tensor_info(ours(placeholder)), theirs)
    same(build_tensor_info(placeholder), theirs)


def test_sparse_and_ragged_tensor_infos(graph):
    """Three names for a sparse tensor; a type with its parts for ragged ones."""
    sparse = tf.compat.v1.sparse_placeholder(tf.int32, [None, 3])
    mine = SparseTensor(ours(sparse.indices), ours(sparse.values), ours(sparse.dense_shape), (None, 3))
    same(build_tensor_info(mine), v1.utils.build_tensor_info(sparse))
    for ragged_rank, inner in [(1, []), (2, [3])]:
        ragged = tf.compat.v1.ragged.placeholder(tf.float32, ragged_rank, inner)
        splits = [ours(row_splits) for row_splits in ragged.nested_row_splits]
        same(build_tensor_info(ragged_tensor(ours(ragged.flat_values), splits)), v1.utils.build_tensor_info(ragged))


def test_signatures(graph):
    """Predict, classify, regress, training and evaluation."""
    examples = tf.compat.v1.placeholder(tf.string, [None], "examples")
    classes = tf.compat.v1.placeholder(tf.string, [None, 5], "classes")
    scores = tf.compat.v1.placeholder(tf.float32, None, "scores")
    e, c, s = ours(examples), ours(classes), ours(scores)
    same(predict_signature_def({"x": e}, {"y": s}), v1.predict_signature_def({"x": examples}, {"y": scores}))
    same(regression_signature_def(e, s), v1.regression_signature_def(examples, scores))
    same(classification_signature_def(e, c, s), v1.classification_signature_def(examples, classes, scores))
    same(classification_signature_def(e, c), v1.classification_signature_def(examples, classes, None))
    same(classification_signature_def(e, scores=s), v1.classification_signature_def(examples, None, scores))
    from tensorflow.python.saved_model import signature_def_utils_impl as impl

    arguments = ({"x": examples}, {"loss": scores}, {"y": classes}, {"m": scores})
    mine = ({"x": e}, {"loss": s}, {"y": c}, {"m": s})
    same(supervised_train_signature_def(*mine), impl.supervised_train_signature_def(*arguments))
    same(supervised_eval_signature_def(*mine), impl.supervised_eval_signature_def(*arguments))
    same(supervised_eval_signature_def({"x": e}, None), impl.supervised_eval_signature_def({"x": examples}, None))


VALUES = [
    np.float32(2.5),
    np.arange(6, dtype=np.int32).reshape(2, 3),
    np.array([b"a", b"bc"], dtype=object),
    np.array(True),
    np.zeros((0, 2), np.float64),
    np.array([1 + 2j], np.complex64),
    np.array(3 - 1j),
    np.array(7, np.uint64),
    np.array(9, np.uint32),
    np.array(1.5, np.float16),
    np.array(-1.5, tf.bfloat16.as_numpy_dtype),
    np.array(-3, np.int8),
    np.array(-(1 << 40)),
    np.array([1.5], tf.dtypes.experimental.float8_e5m2.as_numpy_dtype),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{value.dtype}{value.shape}")
def test_defaults(value):
    """Arrays become constants as `tf.make_tensor_proto` makes them, and come back."""
    theirs = tf.make_tensor_proto(value)
    same(tensor_proto(value), theirs)
    eager = tf.constant(value)
    same(build_signature_def(defaults={"x": value}), v1.build_signature_def(defaults={"x": eager}))
    back = array_of(TensorProto.FromString(theirs.SerializeToString()))
    assert back.shape == value.shape
    assert back.tolist() == value.tolist()


def test_pythons_numbers_are_tensorflows_default_types():
    """1.5 is a float32 and 1 an int32, unless it needs more."""
    for value in (1.5, 1, 1 << 40, "text", [1, 2], [[1.0], [2.0]], True):
        same(tensor_proto(value), tf.make_tensor_proto(value))


def test_op_signatures(graph):
    """An op in the place of a tensor, and back."""
    from tensorflow.python.saved_model import signature_def_utils_impl as impl

    op = tf.no_op("ready")
    key = constants.INIT_OP_SIGNATURE_KEY
    same(op_signature_def("ready", key), impl.op_signature_def(op, key))
    meta_graph = MetaGraphDef()
    meta_graph.graph_def.ParseFromString(graph.as_graph_def().SerializeToString())
    assert load_op_from_signature_def(op_signature_def("ready", key), key, meta_graph).op == "NoOp"
    for signature in (op_signature_def("gone", key), SignatureDef()):
        with pytest.raises(DropError) as caught:
            load_op_from_signature_def(signature, key, meta_graph)
        assert caught.value.code == "signature-invalid"
    assert build_tensor_info_from_op("x").tensor_shape.unknown_rank


def variations():
    """Signatures that are valid and that lack something."""
    string, number = (TensorInfo(name="n:0", dtype=dtype) for dtype in (7, 1))
    for method in (constants.PREDICT_METHOD_NAME, constants.REGRESS_METHOD_NAME, constants.CLASSIFY_METHOD_NAME, "x"):
        for inputs in ({}, {"inputs": string}, {"inputs": number}, {"inputs": string, "more": string}):
            for outputs in (
                {},
                {"outputs": number},
                {"outputs": string},
                {"classes": string},
                {"scores": number},
                {"classes": string, "scores": number},
                {"classes": number},
                {"scores": string},
                {"scores": number, "else": number},
            ):
                yield build_signature_def(inputs, outputs, method)


def test_validity_is_judged_as_by_tensorflow():
    """All combinations of methods, keys and dtypes."""
    from tensorflow.core.protobuf import meta_graph_pb2

    answers = set()
    for signature in variations():
        theirs = meta_graph_pb2.SignatureDef.FromString(signature.SerializeToString())
        assert is_valid_signature(signature) is v1.is_valid_signature(theirs), signature
        answers.add(is_valid_signature(signature))
    assert answers == {True, False}
    assert not is_valid_signature(None)


def test_tensors_are_found_again(graph):
    """Dense, sparse and ragged, in a graph and beneath a scope; what a graph knows comes from the graph."""
    x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
    _, second = tf.split(x, 2, axis=1, name="halves")
    sparse = tf.compat.v1.sparse_placeholder(tf.int32, [None, 3], "s")
    ragged = tf.compat.v1.ragged.placeholder(tf.float32, 1, [], "r")
    meta_graph = MetaGraphDef.FromString(tf.compat.v1.train.export_meta_graph(graph=graph).SerializeToString())
    found = get_tensor_from_tensor_info(TensorInfo(name=second.name), meta_graph)
    assert (found.name, found.dtype, found.shape, found.node.op) == ("halves:1", "float32", (None, 2), "Split")
    info = TensorInfo.FromString(v1.utils.build_tensor_info(sparse).SerializeToString())
    found = get_tensor_from_tensor_info(info, meta_graph)
    assert (found.values.name, found.values.dtype, found.indices.dtype, found.shape) == (
        sparse.values.name,
        "int32",
        "int64",
        (None, 3),
    )
    info = TensorInfo.FromString(v1.utils.build_tensor_info(ragged).SerializeToString())
    found = get_tensor_from_tensor_info(info, meta_graph)
    assert [part.name for part in found.components] == [ragged.flat_values.name, ragged.row_splits.name]
    same(build_tensor_info(found), v1.utils.build_tensor_info(ragged))
    scoped = tf.Graph()
    with scoped.as_default():
        tf.import_graph_def(graph.as_graph_def(), name="scope")
    meta_graph.graph_def.ParseFromString(scoped.as_graph_def().SerializeToString())
    assert get_tensor_from_tensor_info(TensorInfo(name="x:0"), meta_graph, "scope").name == "scope/x:0"
    assert get_tensor_from_tensor_info(TensorInfo(name="x:0", dtype=1), meta_graph.graph_def, "scope").shape == ()


@pytest.mark.parametrize("name", ["gone:0", "halves:2", "halves", "^halves", "", "halves:x", ":0"])
def test_tensors_that_are_not_there(graph, name):
    """Unknown nodes, outputs beyond the last, names that are no tensor's."""
    tf.split(tf.compat.v1.placeholder(tf.float32, [None, 4], "x"), 2, axis=1, name="halves")
    meta_graph = MetaGraphDef.FromString(tf.compat.v1.train.export_meta_graph(graph=graph).SerializeToString())
    with pytest.raises(DropError) as caught:
        get_tensor_from_tensor_info(TensorInfo(name=name), meta_graph)
    assert caught.value.code == "signature-invalid"


def test_main_op_with_restore_runs(graph, tmp_path):
    """The op that we add initialises variables and tables as TensorFlow's own does: same nodes, and a session runs it."""
    tf.compat.v1.get_variable("v", [], initializer=tf.compat.v1.ones_initializer(), use_resource=True)
    tf.compat.v1.get_variable("local", [], collections=["local_variables"], use_resource=True)
    initializer = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([1], tf.int64))
    tf.lookup.StaticHashTable(initializer, -1)
    restore = tf.no_op("restore")
    meta_graph = MetaGraphDef.FromString(tf.compat.v1.train.export_meta_graph(graph=graph).SerializeToString())
    name = main_op_with_restore(meta_graph, "restore")
    with tf.control_dependencies([v1.main_op.main_op()]):
        theirs = tf.group(restore)
    expected = {node.name: sorted(node.input) for node in graph.as_graph_def().node}
    assert {node.name: sorted(node.input) for node in meta_graph.graph_def.node if node.name != name} == {
        key: value for key, value in expected.items() if key != theirs.name
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph_def = tf.compat.v1.GraphDef.FromString(meta_graph.graph_def.SerializeToString())
        tf.import_graph_def(graph_def, name="")
        session.run(name)
        assert session.run("v/Read/ReadVariableOp:0") == 1
    with pytest.raises(DropError):
        main_op_with_restore(meta_graph, "gone")


def test_constants_are_tensorflows():
    """Every constant that tf.saved_model or tf.compat.v1.saved_model exports is here, with its value."""
    import smdaemon.savedmodel as package

    spaces = [v1, v1.constants, v1.signature_constants, v1.tag_constants, tf.saved_model]
    exported = {name: getattr(space, name) for space in spaces for name in dir(space) if name.isupper()}
    assert len(exported) > 25
    assert {name: getattr(package, name) for name in exported} == exported
    with pytest.raises(AttributeError):
        package.NO_SUCH_CONSTANT  # noqa: B018
    with pytest.raises(AttributeError):
        package.no_such_function  # noqa: B018
