"""What no served model can do is refused by name, before anything is written, with what to do about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from jax_kit import PARAMS, W, X, affine

from smdaemon.errors import DropError
from smdaemon.savedmodel.jax import describe, save, symbolic
from smdaemon.savedmodel.options import SaveOptions
from smdaemon.savedmodel.reader import read_saved_model

SQUARE = jax.ShapeDtypeStruct((3, 3), "float32")


def refused(code, function, params=W, inputs=None, **options):
    """The DropError of that code that describing raises."""
    with pytest.raises(DropError) as caught:
        describe(function, params, {"x": X} if inputs is None else inputs, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def prints(w, x):
    """A function that prints."""
    jax.debug.print("{}", x)
    return x @ w


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (prints, "Debug"),
        (jax.jit(prints), "Debug"),
        (lambda w, x: io_callback(np.asarray, x, x) @ w, "IO"),
        (lambda w, x: io_callback(np.asarray, x, x, ordered=True) @ w, "OrderedIO"),
        (lambda w, x: jax.pure_callback(np.asarray, x, x) @ w, "callback"),
    ],
)
def test_effects_are_refused(function, says):
    """Prints and callbacks need the trainer's Python; the error names the kind and says to remove it."""
    error = refused("function-unsupported", function)
    assert says in error.message
    assert "'serving_default'" in error.message
    assert "remove" in error.remedy
    assert "callback" in error.remedy


@pytest.mark.parametrize(
    ("function", "platforms", "says"),
    [
        (lambda _, x: jnp.linalg.cholesky(x), ("cpu",), "'lapack_spotrf_ffi'"),
        (lambda _, x: jnp.linalg.eigh(x)[0], ("cpu",), "'lapack_ssyevd_ffi'"),
        (lambda _, x: jnp.linalg.qr(x)[1], ("cpu", "cuda"), "'cusolver_geqrf_ffi', "),
    ],
)
def test_lapack_is_refused(function, platforms, says):
    """TensorFlow has none of the kernels of jaxlib; the error names the calls and offers a way round."""
    error = refused("function-unsupported", function, inputs={"x": SQUARE}, platforms=platforms)
    assert says in error.message
    assert "matrix decompositions" in error.remedy


def test_custom_calls_can_be_allowed(tmp_path):
    """A server that has the kernel runs it; each name has to be given, JAX's own list of unstable ones included."""
    functions = {
        "known": lambda w, x: jnp.linalg.cholesky(x @ w),
        "own": lambda w, x: jax.ffi.ffi_call("my_kernel", SQUARE)(x @ w),
    }
    inputs = {key: {"x": SQUARE} for key in functions}
    assert "my_kernel" in refused("function-unsupported", functions["own"], SQUARE, {"x": SQUARE}).message
    calls = ("lapack_spotrf_ffi", "my_kernel")
    params = np.eye(3, dtype=np.float32)
    options = {"platforms": ("cpu",), "sync": False}
    save(functions, params, tmp_path / "model", inputs, allow_custom_calls=calls, **options)
    _, model = read_saved_model(tmp_path / "model")
    (own,) = [node for node in nodes_of(model) if b"my_kernel" in node.attr["module"].s]
    assert b"my_kernel" in b" ".join(own.attr["disabled_checks"].list.s)
    with pytest.raises(DropError, match="'lapack_spotrf_ffi'"):
        save(functions, params, tmp_path / "other", inputs, allow_custom_calls=calls[1:], **options)
    assert not (tmp_path / "other").exists()


def nodes_of(model):
    """The nodes of a model that call modules."""
    functions = model.meta_graphs[0].graph_def.library.function
    return [node for function in functions for node in function.node_def if node.op == "XlaCallModule"]


@pytest.mark.parametrize("text", [np.array(["a"]), np.array([b"a"]), np.array(["a"], object)])
def test_text_inputs_are_refused(text):
    """They would need ops of TensorFlow's; the error names the input."""
    error = refused("function-unsupported", lambda w, x, words: x @ w, inputs={"x": X, "words": text})
    assert "'words'" in error.message
    assert "turn text into numbers" in error.remedy


def test_functions_of_tensorflow_are_refused():
    """A tf.function is told apart from a JAX function that merely fails."""
    tf = pytest.importorskip("tensorflow")
    error = refused("function-unsupported", tf.function(lambda w, x: x @ w))
    assert "TensorFlow's" in error.message
    assert "give a JAX function" in error.remedy


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "float4_e2m1fn"])
@pytest.mark.parametrize("place", ["x", "output_0", "w"])
def test_dtypes_that_are_packed_differently_are_refused(dtype, place):
    """TensorFlow gives a byte for each element, XLA expects several in one: as input, output or parameter."""
    given = {"x": "float32", "output_0": "float32", "w": "float32", place: dtype}
    params, inputs = {"w": jnp.zeros(4, given["w"])}, {"x": jax.ShapeDtypeStruct((4,), given["x"])}

    def function(params, x):
        return (x.astype("float32") + params["w"].astype("float32")).astype(given["output_0"])

    with pytest.raises(DropError) as caught:
        save(function, params, "nowhere", inputs)
    assert caught.value.code == "dtype-unsupported"
    assert repr(place) in caught.value.message
    assert dtype in caught.value.message
    assert "cast it inside the JAX function" in caught.value.remedy


def test_dtypes_without_variables_are_refused():
    """TensorFlow cannot assign some kinds of float8, and does not know others."""
    for dtype in ("float8_e4m3fnuz", "float8_e8m0fnu"):
        with pytest.raises(DropError, match=dtype) as caught:
            save(lambda w, x: x @ w.astype("float32"), jnp.zeros((3, 2), dtype), "nowhere", {"x": X})
        assert caught.value.code == "dtype-unsupported"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"platforms": ("gpu",)}, "option-refused", "'gpu'"),
        ({"platforms": ("CPU",)}, "option-refused", "'CPU'"),
        ({"platforms": ()}, "option-refused", "cpu, cuda, rocm, tpu"),
        ({"platforms": ("cpu", "cpu")}, "option-refused", "named once"),
        ({"platforms": "cpu"}, "option-refused", "'cpu'"),
        ({"allow_custom_calls": "lapack"}, "option-refused", "'lapack'"),
        ({"vjp_order": 2}, "option-refused", "2"),
        ({"serving_tensorflow": "2.18"}, "function-target-unknown", "'2.18'"),
        ({"serving_tensorflow": "2.18.1"}, "function-target-unknown", "'2.18.1'"),
        ({"serving_tensorflow": "3"}, "function-target-unknown", "'3'"),
        ({"serving_tensorflow": ""}, "function-target-unknown", "''"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(options, code, says):
    """None is corrected silently."""
    assert says in refused(code, affine, PARAMS, **options).message


@pytest.mark.parametrize(
    ("functions", "inputs", "code", "says"),
    [
        ({}, {}, "function-invalid", "no function"),
        (affine, None, "function-invalid", "nothing tells the inputs"),
        (affine, X, "function-invalid", "ndarray is neither a mapping nor a list"),
        (affine, SQUARE, "function-invalid", "ShapeDtypeStruct is neither"),
        (affine, "x", "function-invalid", "str is neither"),
        ({"a": affine}, [X], "function-invalid", "the inputs of several functions are a list"),
        ("affine", {}, "function-invalid", "cannot be called"),
        ({"a": affine}, {"b": {"x": X}}, "function-invalid", "'b'"),
        ({1: affine}, {1: {"x": X}}, "signature-invalid", "1"),
    ],
)
def test_what_is_no_function_is_refused(functions, inputs, code, says):
    """Nor functions without inputs, or inputs of others."""
    with pytest.raises(DropError) as caught:
        describe(functions, PARAMS, inputs)
    assert caught.value.code == code
    assert says in caught.value.message


@pytest.mark.parametrize("key", ["", "__saved_model_init_op", "__saved_model_train_op"])
def test_reserved_signature_keys_are_refused(tmp_path, key):
    """TensorFlow's loaders have a meaning of their own for them."""
    with pytest.raises(DropError) as caught:
        save({key: affine}, PARAMS, tmp_path / "model", {key: {"x": X}})
    assert caught.value.code == "signature-invalid"


ONES = jnp.ones(3)


def plus(params, x):
    """A function that uses a parameter."""
    return x + jax.tree.leaves(params)[0].astype("float32")


UNSAVABLE = {
    "a dtype without variables": ("f", {"w": jnp.zeros(3, "float8_e4m3b11fnuz")}),
    "a packed dtype": ("f", {"w": jnp.zeros(3, "int4")}),
    "a name of the root's own": ("f", {"variables": ONES}),
    "a tensor beneath a tensor": ("f", {"a": ONES, "a/b": ONES}),
    "an empty part": ("f", {"a//b": ONES}),
    "the end of a key": ("f", {"a.ATTRIBUTES": ONES}),
    "a function of a parameter's name": ("embed", {"embed": ONES}),
    "a reserved key": ("__saved_model_init_op", {"w": ONES}),
}


@pytest.mark.parametrize(("key", "params"), UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_cannot_be_saved_is_not_described_either(key, params):
    """A trainer is told before its first checkpoint, and in the same words."""
    functions, inputs = {key: plus}, {key: {"x": ONES}}
    with pytest.raises(DropError) as of_save:
        save(functions, params, "nowhere", inputs)
    with pytest.raises(DropError) as of_describe:
        describe(functions, jax.eval_shape(lambda: params), inputs)
    assert (of_describe.value.code, of_describe.value.message) == (of_save.value.code, of_save.value.message)


def test_what_the_function_raises_comes_as_it_is():
    """A bug of the function is the trainer's to see, with its own traceback."""
    with pytest.raises(TypeError, match="dot_general"):
        describe(lambda w, x: x.T @ w, W, {"x": symbolic("b, 3", "float32")})
    with pytest.raises(ZeroDivisionError):
        describe(lambda w, x: 1 / 0, W, {"x": X})


def test_options_of_saving_are_followed_or_refused(tmp_path):
    """Tags, data files and policies of sharding reach the files; a string is no list of tags."""
    from smdaemon.savedmodel import MaxShardSizePolicy, summarize, verify

    with pytest.raises(DropError, match="'serve' is a string"):
        save(affine, PARAMS, tmp_path / "none", {"x": X}, tags="serve")
    told = []
    options = SaveOptions(extra_tags=["v7"])
    save(affine, PARAMS, tmp_path / "two", {"x": X}, tags=["gpu"], options=options, shards=2, on_bytes=told.append)
    assert [graph.tags for graph in summarize(tmp_path / "two").meta_graphs] == [("gpu", "v7")]
    assert len([*(tmp_path / "two" / "variables").glob("variables.data-*")]) == 2
    assert sum(told) >= sum(value.nbytes for value in PARAMS.values())
    policy = SaveOptions(experimental_sharding_callback=MaxShardSizePolicy(16))
    save(affine, PARAMS, tmp_path / "many", {"x": X}, options=policy, sync=False)
    assert len([*(tmp_path / "many" / "variables").glob("variables.data-*")]) > 2
    assert verify(tmp_path / "many").tensors == 2
