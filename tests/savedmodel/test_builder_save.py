"""Object trees with functions, saved by us, loaded and run by TensorFlow."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builder_functions import KERNEL, affine_function, read_file, unary
from builder_graphs import VALUES, X, Y, affine, read_model

from smdaemon.errors import DropError
from smdaemon.savedmodel import verify
from smdaemon.savedmodel.functions import GraphFunction
from smdaemon.savedmodel.saving import save, simple_save
from smdaemon.savedmodel.structure import TensorSpec
from smdaemon.savedmodel.trackable import FileAsset, Variable

Z = np.array([[1, 2], [3, 4]], np.float32)
A = np.float32(100)


@pytest.fixture
def tf():
    """TensorFlow."""
    return pytest.importorskip("tensorflow")


def refused(code, *arguments, **options):
    """The message of the DropError of that code that saving raises."""
    with pytest.raises(DropError) as caught:
        save(*arguments, **options)
    assert caught.value.code == code
    return caught.value.message


def test_a_signature_takes_and_gives_by_name(tmp_path, tf, cpp_load):
    """Whatever the order of the function's own inputs and outputs, in every loader."""
    save(SimpleNamespace(kernel=KERNEL), tmp_path / "model", affine_function())
    assert verify(tmp_path / "model").fingerprint == "matches"
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = loaded.signatures["serving_default"](a=tf.constant(A), z=tf.constant(Z))
    np.testing.assert_allclose(found["output_2"], Z @ KERNEL + A)
    np.testing.assert_allclose(found["output_10"], -A)
    signature = read_model(tmp_path / "model").meta_graphs[0].signature_def["serving_default"]
    feeds = {signature.inputs["z"].name: (Z, 1), signature.inputs["a"].name: (A, 1)}
    outputs = [(signature.outputs[name].name, np.float32) for name in ("output_2", "output_10")]
    second, tenth = cpp_load.run(cpp_load.load(tmp_path / "model"), feeds, outputs)
    np.testing.assert_allclose(second, Z @ KERNEL + A)
    np.testing.assert_allclose(tenth, -A)
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "model"))
        result = session.run(outputs[0][0], {name: value for name, (value, _) in feeds.items()})
    np.testing.assert_allclose(result, Z @ KERNEL + A)


@pytest.mark.parametrize("returns", ["dict", "tuple"])
def test_a_function_is_called_by_position_or_name(tmp_path, tf, returns):
    """In the order of its declaration, and returns what it was said to return."""
    model = SimpleNamespace(kernel=KERNEL, call=affine_function(returns=returns))
    save(model, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for found in (loaded.call(tf.constant(Z), tf.constant(A)), loaded.call(a=tf.constant(A), z=tf.constant(Z))):
        by_name = found if returns == "dict" else dict(zip(("output_2", "output_10"), found, strict=True))
        np.testing.assert_allclose(by_name["output_2"], Z @ KERNEL + A)
        np.testing.assert_allclose(by_name["output_10"], -A)
    loaded.kernel.assign(KERNEL * 0)
    changed = loaded.call(tf.constant(Z), tf.constant(A))
    np.testing.assert_allclose(changed["output_2"] if returns == "dict" else changed[0], np.full((2, 3), A))


def test_a_tree_of_objects_comes_back(tmp_path, tf):
    """Dicts, lists, tuples, attributes; tied weights stay one variable; plain values are left out."""
    shared = np.ones(3, np.float32)
    model = SimpleNamespace(
        layers=[{"w": shared, "b": np.zeros(2, np.int64)}, SimpleNamespace(pair=(shared, np.float64(3)))],
        name="not saved",
        steps=7,
        frozen=Variable(np.full(2, 5, np.float32), name="my name", trainable=False),
    )
    model.self = model
    save(model, tmp_path / "model")
    verify(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.layers[0]["w"] is loaded.layers[1].pair[0]
    assert loaded.self is loaded
    np.testing.assert_array_equal(loaded.layers[0]["w"], shared)
    np.testing.assert_array_equal(loaded.layers[0]["b"], [0, 0])
    assert loaded.layers[1].pair[1].numpy() == 3
    assert loaded.frozen.name == "my_name:0"
    assert not loaded.frozen.trainable
    assert not hasattr(loaded, "steps")
    assert len(loaded.variables) == 4
    tf.saved_model.save(loaded, str(tmp_path / "again"))


class Layer:
    """An object that can be called, with values among other things."""

    def __init__(self):
        self.kernel = KERNEL
        self.activation = abs
        self.build = lambda: None
        self.path = Path("somewhere")
        self.kind = Layer

    def __call__(self):
        """Nothing: that it can be called is enough."""


def test_objects_that_can_be_called_are_saved_and_functions_passed_over(tmp_path):
    """A layer is an object whatever else it is."""
    save({"layer": Layer()}, tmp_path / "model")
    objects = read_model(tmp_path / "model").meta_graphs[0].object_graph_def
    assert [child.local_name for child in objects.nodes[1].children] == ["kernel"]


def test_a_dict_is_a_root_too(tmp_path, tf):
    """Its keys become attributes; arrays, Tensors and anything with an array's interface are values."""
    tensor = tf.constant([1.0, 2.0])
    save({"a": tensor, "b": {"c": np.arange(3)}}, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.a, [1, 2])
    np.testing.assert_array_equal(loaded.b["c"], [0, 1, 2])


def test_a_captured_file_is_found_where_the_model_lies(tmp_path, tf, cpp_load):
    """By functions and by signatures, also after the model has moved; the graph does not know where it came from."""
    source = tmp_path / "words.txt"
    source.write_text("the words")
    words = FileAsset(source)
    model = SimpleNamespace(words=words, read=read_file(words))
    save(model, tmp_path / "first", signatures=model.read)
    source.unlink()
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    verify(moved)
    loaded = tf.saved_model.load(str(moved))
    assert loaded.read().numpy() == b"the words"
    assert loaded.signatures["serving_default"]()["content"].numpy() == b"the words"
    assert str(source).encode() not in (moved / "saved_model.pb").read_bytes()
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        meta_graph = v1.saved_model.loader.load(session, ["serve"], str(moved))
        name = meta_graph.signature_def["serving_default"].outputs["content"].name
        assert session.run(name) == b"the words"


def test_functions_call_functions_of_their_library(tmp_path, tf):
    """A definition that stands in two libraries is kept once; two that differ under one name are refused."""
    helper = unary("Neg", "helper").definition()
    outer = unary("Identity", "outer", library=[helper])
    outer.function_def.node_def[0].op = helper.signature.name
    outer.function_def.node_def[0].ClearField("attr")
    outer.function_def.node_def[1].input[0] = "op:y:0"
    model = SimpleNamespace(outer=outer, direct=unary("Neg", "helper"))
    save(model, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.outer(tf.constant([1.0]))["y"], [-1])
    np.testing.assert_array_equal(loaded.direct(tf.constant([1.0]))["y"], [-1])
    refused("name-clash", SimpleNamespace(a=outer, b=unary("Abs", "helper")), tmp_path / "other")


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    """Captures outside the tree, reserved keys and names, values in lists that are none."""
    path = tmp_path / "model"
    outside = affine_function(np.zeros((2, 3), np.float32))
    assert "captures a ndarray" in refused("savedmodel-inconsistent", SimpleNamespace(f=outside), path)
    assert "'lost'" in refused("savedmodel-inconsistent", SimpleNamespace(), path, affine_function("lost"))
    model = SimpleNamespace(kernel=KERNEL)
    refused("signature-invalid", model, path, {"__saved_model_init_op": affine_function()})
    refused("signature-invalid", model, path, {"f": abs})
    refused("name-clash", {"signatures": KERNEL}, path)
    refused("name-invalid", {"a": {3: KERNEL}}, path)
    refused("name-invalid", {"a": {"": KERNEL}}, path)
    refused("name-invalid", {"a": {"b.ATTRIBUTES": [KERNEL]}}, path)
    refused("dtype-unsupported", {"a": [KERNEL, "text"]}, path)
    refused("dtype-unsupported", KERNEL, path)
    refused("dtype-unsupported", "text", path)
    refused("dtype-unsupported", {"a": np.array([object()])}, path)
    assert not path.exists()
    path.mkdir()
    (path / "other").touch()
    refused("export-dir-exists", model, path)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [TensorSpec("z", "float32", None)]},
        {"inputs": [TensorSpec("z", "int32", None), TensorSpec("a", "float32", None)]},
        {"inputs": [TensorSpec("a", "float32", None), TensorSpec("a", "float32", None)]},
        {"outputs": []},
        {"returns": "tensor"},
        {"captures": []},
    ],
)
def test_a_function_that_is_not_as_described_is_refused(change):
    """Numbers and types of inputs, outputs and captures, and names that are given twice."""
    function = affine_function()
    fields = {name: getattr(function, name) for name in ("name", "function_def", "inputs", "outputs", "captures")}
    with pytest.raises(DropError) as caught:
        GraphFunction(**(fields | change))
    assert caught.value.code == "signature-invalid"


def test_the_same_tree_gives_the_same_bytes(tmp_path):
    """Nothing depends on addresses or on the clock."""
    for name in ("a", "b"):
        save(SimpleNamespace(kernel=KERNEL.copy(), call=affine_function()), tmp_path / name, affine_function())
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_deep_tree_is_walked_without_recursion(tmp_path):
    """A chain of 3,000 dicts."""
    chain = {"w": KERNEL}
    for _ in range(3000):
        chain = {"d": chain}
    save(chain, tmp_path / "model", sync=False)
    assert verify(tmp_path / "model").tensors == 1


def test_simple_save_finds_the_tensors_by_name(tmp_path, tf):
    """Types and shapes of the signature come from the graph."""
    path = simple_save(tmp_path / "model", affine(device="/device:GPU:7"), VALUES, {"x": "x:0"}, {"y": "y"})
    assert path == tmp_path / "model/saved_model.pb"
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.signatures["serving_default"](x=tf.constant(X))["y"], Y)
