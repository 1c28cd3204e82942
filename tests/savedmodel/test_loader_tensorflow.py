"""What we load beside what TensorFlow itself loads from the same model."""

import numpy as np
import pytest
from savedmodel_values import content

from smdaemon.errors import DropError
from smdaemon.savedmodel import load, load_v2
from smdaemon.savedmodel.loaded_tree import LoadedConstant, LoadedFunction, LoadedResource
from smdaemon.savedmodel.structure import TensorSpec, TypeSpec

tf = pytest.importorskip("tensorflow")

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A module with all that an object graph can hold; its directory."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "words.txt").write_text("one\ntwo\n")

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(tf.ones([2, 3]), name="weights")
            self.listed = [tf.Variable(1.0), {"k": tf.Variable(2, trainable=False)}]
            self.pair = (tf.Variable(3), tf.Variable([b"x"]))
            self.child = tf.Module()
            self.child.parent = self
            self.tied = self.w
            self.odd = {"a/b.c": tf.Variable(4.0)}
            self.constant = tf.constant([[1, 2], [3, 4]])
            self.asset = tf.saved_model.Asset(str(folder / "words.txt"))
            whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            initializer = tf.lookup.TextFileInitializer(self.asset.asset_path, tf.string, whole, tf.int64, number)
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @tf.function
        def call(self, x, training=False, mode=None):
            return x @ self.w + tf.cast(tf.reduce_sum(self.constant), tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.RaggedTensorSpec([None, None], tf.int32)])
        def ragged(self, x, rows):
            return {"y": x @ self.w, "rows": rows}

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def look(self, word):
            return self.table.lookup(word)

    made = Module()
    made.call(tf.ones([1, 2]))
    made.call(tf.ones([5, 2]), training=True, mode="fast")
    options = tf.saved_model.SaveOptions(save_debug_info=True, extra_tags=["extra"])
    signatures = {"look": made.look, "call": made.call.get_concrete_function(tf.TensorSpec([None, 2]))}
    tf.saved_model.save(made, str(folder / "model"), signatures, options)
    return folder / "model"


def test_objects_as_tensorflow_has_them(module):
    """The same paths lead to the same values."""
    with load_v2(module) as ours:
        theirs, root = tf.saved_model.load(str(module)), ours.root
        for mine, other in [
            (root.w, theirs.w),
            (root.listed[0], theirs.listed[0]),
            (root.listed[1]["k"], theirs.listed[1]["k"]),
            (root.pair[0], theirs.pair[0]),
            (root.pair[1], theirs.pair[1]),
            (root.odd["a/b.c"], theirs.odd["a/b.c"]),
            (root.child.parent.w, theirs.child.parent.w),
        ]:
            assert content(mine.read()) == content(other.numpy())
            assert mine.trainable == other.trainable
        assert root.tied is root.w
        assert root.w.full_name == "weights"
        assert set(ours.variables) == {"w", "listed/0", "listed/1/k", "pair/0", "pair/1", "odd/a/b.c"}
        assert ours.variables["weights"] is root.w
        assert isinstance(root.table, LoadedResource)
        assert root.asset.read_text() == "one\ntwo\n"
        assert list(ours.assets.values()) == [root.asset]


def test_functions_say_what_they_take(module):
    """Traces with their arguments as TensorFlow knows them, captured variables and constants, outputs."""
    ours = load_v2(module)
    theirs = tf.saved_model.load(str(module))
    call = ours.root.call
    assert isinstance(call, LoadedFunction)
    mine = sorted((function.arguments[0] for function in call.concrete_functions), key=str)
    other = sorted((function.structured_input_signature[0] for function in theirs.call.concrete_functions), key=str)
    assert len(mine) == len(other) == 3
    assert {(spec.shape, training, mode) for spec, training, mode in mine} == {
        (tuple(spec.shape), training, mode) for spec, training, mode in other
    }
    trace = call.concrete_functions[0]
    assert any(bound is ours.root.w for bound in trace.bound_inputs)
    constants = [bound for bound in trace.bound_inputs if isinstance(bound, LoadedConstant)]
    assert [constant.read().tolist() for constant in constants] in ([[[1, 2], [3, 4]]], [], [10.0])
    (ragged,) = ours.root.ragged.concrete_functions
    (x, rows), named = ragged.arguments
    assert (x, named) == (TensorSpec("x", "float32", (None, 2)), {})
    assert rows == TypeSpec("RaggedTensorSpec", ((None, None), "int32", 1, "int64"))
    assert set(ragged.outputs) == {"y", "rows"}


def test_signatures_as_tensorflow_has_them(module):
    """Keys, inputs, outputs; the object tree has them as well."""
    ours = load(module, ["serve", "extra"])
    theirs = tf.saved_model.load(str(module), tags=["serve", "extra"])
    assert set(ours.signatures) == set(theirs.signatures) == set(ours.root.signatures)
    for key, signature in ours.signatures.items():
        mine = {name: (tensor.dtype, tensor.shape) for name, tensor in signature.inputs.items()}
        specs = theirs.signatures[key].structured_input_signature[1]
        assert mine == {name: (spec.dtype.name, tuple(spec.shape)) for name, spec in specs.items()}
        assert set(signature.outputs) == set(theirs.signatures[key].structured_outputs)


def test_debug_info_and_fingerprint(module):
    """Both are read; the fingerprint is this model's."""
    ours = load_v2(module)
    assert len(ours.debug_info.files) > 0
    assert ours.check_fingerprint() == "matches"
    theirs = tf.saved_model.experimental.read_fingerprint(str(module))
    assert ours.fingerprint.graph_def_program_hash == theirs.graph_def_program_hash


def test_tags_as_tensorflow_takes_them(module):
    """What its loader refuses, ours refuses."""
    for tags in (["serve"], ["extra"], ["serve", "extra", "more"]):
        with pytest.raises((RuntimeError, ValueError)):
            tf.saved_model.load(str(module), tags=tags)
        with pytest.raises(DropError) as caught:
            load_v2(module, tags)
        assert caught.value.code == "tags-not-found"


def counting(shape, dtype=None, partition_info=None):
    """Rows of the whole variable, counted through."""
    first = partition_info.var_offset[0] * 2
    return tf.reshape(tf.range(first, first + shape[0] * 2, dtype=dtype), shape)


@pytest.fixture(scope="module")
def session_model(tmp_path_factory):
    """A model of TensorFlow 1: partitioned and plain variables of both kinds, one saved under another key, two meta graphs."""
    export_dir = str(tmp_path_factory.mktemp("v1") / "model")
    builder = v1.saved_model.Builder(export_dir)
    with tf.Graph().as_default(), v1.Session() as session:
        with v1.variable_scope("part", partitioner=v1.fixed_size_partitioner(3)):
            part = v1.get_variable("p", [7, 2], initializer=counting)
        plain = v1.get_variable("plain", initializer=[1, 2], use_resource=True, trainable=False)
        old = v1.get_variable("old", initializer=3.0, use_resource=False)
        saver = v1.train.Saver([*part, plain, old], sharded=True)
        x = v1.placeholder(tf.float32, [None, 7], "x")
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": tf.matmul(x, part.as_tensor())})
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, saver=saver)
        builder.add_meta_graph(["train"], {"other": signature}, saver=saver)
    builder.save()
    return export_dir


def test_variables_of_tensorflow_1(session_model):
    """Names are those of the graph; the parts of a variable are one again."""
    for tags in ("serve", "train"):
        ours = load(session_model, tags)
        assert {name: variable.read().tolist() for name, variable in ours.variables.items()} == {
            "part/p": np.arange(14).reshape(7, 2).tolist(),
            "plain": [1, 2],
            "old": 3.0,
        }
        assert ours.variables["plain"].trainable is False
        assert ours.variables["old"].trainable is True
        assert ours.root.plain is ours.variables["plain"]
    assert list(load(session_model, "train").signatures) == ["other"]


def test_variables_saved_under_other_keys(tmp_path):
    """A saver with a map of its own: the variable keeps its name, the key stays the bundle's."""
    builder = v1.saved_model.Builder(str(tmp_path / "model"))
    with tf.Graph().as_default(), v1.Session() as session:
        variable = v1.get_variable("mine", initializer=1.5, use_resource=True)
        saver = v1.train.Saver({"elsewhere/key": variable})
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, ["serve"], saver=saver)
    builder.save(as_text=True)
    ours = load(tmp_path / "model", "serve")
    assert {name: (found.key, found.read()) for name, found in ours.variables.items()} == {
        "mine": ("elsewhere/key", 1.5)
    }


def test_a_keras_model(tmp_path):
    """Keras models load; their values are those of the layers."""
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(2), keras.layers.Dense(1)])
    model.export(str(tmp_path / "model"), verbose=False)
    ours = load_v2(tmp_path / "model")
    values = [variable.read() for variable in ours.variables.values()]
    for weight in model.weights:
        assert any(np.array_equal(weight.numpy(), value) for value in values)
    assert list(ours.signatures) == ["serve", "serving_default"]
