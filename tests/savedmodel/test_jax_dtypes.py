"""Every dtype that TensorFlow and XLA hold alike, through parameters, inputs and outputs, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_kit import numpy_dtype, run_everywhere, run_v1, run_v2, signature

from smdaemon.savedmodel import verify
from smdaemon.savedmodel.function_bundle import decode_functions
from smdaemon.savedmodel.function_model import function_contents
from smdaemon.savedmodel.jax import describe, save
from smdaemon.savedmodel.values import tensors_of
from smdaemon.savedmodel.writer import write_saved_model

tf = pytest.importorskip("tensorflow")
FLOATS = ["bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2"]
OTHERS = ["bool", "complex64", "int8", "int16", "int32", "uint8", "uint16", "uint32"]
WIDE = ["int64", "uint64", "float64", "complex128"]


def chosen(params, **inputs):
    """Of each input and the parameter of its name, the input where it is not zero."""
    return {name: jnp.where(given != jnp.zeros((), given.dtype), given, params[name]) for name, given in inputs.items()}


def numbers(dtype, *values):
    """An array of that dtype, of JAX's kinds too."""
    return np.array(values).astype(jnp.dtype(dtype))


def test_every_dtype_passes_through_unchanged(tmp_path, cpp_load):
    """One signature with an input, a parameter and an output of each."""
    dtypes = FLOATS + OTHERS
    params, inputs = ({name: numbers(name, *values) for name in dtypes} for values in ((5, 1, 3), (0, 2, 1)))
    save(chosen, params, tmp_path / "model", inputs, sync=False)
    verify(tmp_path / "model")
    found = run_everywhere(tf, cpp_load, tmp_path / "model", inputs)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for name in dtypes:
        wanted = numbers(name, 5, 2, 1)
        assert found[name].dtype == wanted.dtype
        assert found[name].tobytes() == wanted.tobytes()
        assert getattr(loaded, name).numpy().tobytes() == params[name].tobytes()
        assert numpy_dtype(signature(tmp_path / "model").inputs[name]) == wanted.dtype


def test_64_bits_stay_64_where_jax_has_them(tmp_path, cpp_load):
    """With x64, also for numbers of Python."""
    params, inputs = ({name: numbers(name, *values) for name in WIDE} for values in ((2**40, 1), (0, 2**41)))
    with jax.enable_x64(True):
        save(
            lambda params, **inputs: chosen(params, **inputs) | {"python": params["n"] + params["f"]},
            params | {"n": 2**40, "f": 0.1},
            tmp_path / "model",
            inputs,
            sync=False,
        )
    found = run_everywhere(tf, cpp_load, tmp_path / "model", inputs)
    assert found["python"] == np.float64(2**40 + 0.1)
    for name in WIDE:
        assert found[name].tobytes() == numbers(name, 2**40, 2**41).tobytes()


WEAK = {"f": 1.5, "i": 3, "c": 2j, "b": True, "a": jnp.asarray(1.5), "s": jnp.float32(1.5), "n": np.float64(1.5)}


@pytest.mark.parametrize("how", ["save", "exported", "bundle"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_numbers_of_python_change_no_dtype_that_they_change_in_jax_neither(tmp_path, dtype, how):
    """Their types are weak, as those of arrays that jax made of such numbers; in a function bundle, too."""

    def function(params, x):
        return {name: x * value for name, value in params.items()}

    x = numbers(dtype, 1, 2, 3)
    wanted = jax.jit(function)(WEAK, x)
    assert wanted["i"].dtype == x.dtype
    model = tmp_path / "model"
    if how == "bundle":
        params = jax.tree_util.tree_map(jnp.asarray, WEAK)
        functions = decode_functions(describe(function, WEAK, {"x": x}), "it")
        tensors = {name: np.asarray(value) for name, value in params.items()}
        write_saved_model(model, function_contents(functions, tensors_of(tensors)), sync=False)
    else:
        made = jax.export.export(jax.jit(function))(WEAK, x).serialize() if how == "exported" else function
        save(made, WEAK, model, {"x": x}, platforms=["cpu"], sync=False)
    found = run_v2(tf, model, {"x": x})
    assert {name: value.dtype for name, value in found.items()} == {name: wanted[name].dtype for name in WEAK}
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name])


def test_the_gradient_of_a_number_of_python_has_the_dtypes_of_jax(tmp_path):
    """Of the weak parameter, and of an input of fewer bits."""
    x = numbers("float16", 1, 2, 3)
    saved = save(lambda p, x: x * p["f"], {"f": 1.5}, tmp_path / "model", {"x": x}, vjp_order=1, sync=False)
    assert saved.gradients["serving_default"].startswith("signature")
    found = run_v2(tf, tmp_path / "model", {"x": x, "gradient/output_0": x}, "serving_default_gradient")
    in_f, in_x = jax.vjp(lambda f, x: x * f, 1.5, jnp.asarray(x))[1](jnp.asarray(x))
    assert (found["params/f"].dtype, found["x"].dtype) == (in_f.dtype, in_x.dtype)
    np.testing.assert_array_equal(found["x"], in_x)
    assert found["params/f"] == in_f


def test_int4_may_be_computed_with(tmp_path):
    """Inside of the function it is XLA's alone."""

    def function(params, x):
        return (x.astype("int4") * params["w"].astype("int4")).astype("int8")

    save(function, {"w": numbers("int8", 3, 2, -1)}, tmp_path / "model", {"x": numbers("int8", 1, 1, 1)}, sync=False)
    found = run_v2(tf, tmp_path / "model", {"x": numbers("int8", 2, -4, 7)})
    np.testing.assert_array_equal(found["output_0"], [6, -8, -7])


def test_scalars_and_arrays_without_elements(tmp_path):
    """As parameters, inputs and outputs."""
    params = {"scalar": jnp.float32(2), "none": jnp.zeros((0, 3)), "vector": jnp.zeros((4, 0))}
    inputs = {"x": jnp.float32(0), "empty": jnp.zeros((0, 4))}

    def function(params, x, empty):
        return {
            "y": x * params["scalar"],
            "product": empty @ params["vector"],
            "sum": params["none"].sum() + empty.sum(),
        }

    save(function, params, tmp_path / "model", inputs, sync=False)
    feeds = {"x": np.float32(3), "empty": np.zeros((0, 4), np.float32)}
    for run in (run_v2, run_v1):
        found = run(tf, tmp_path / "model", feeds)
        assert (found["y"], found["sum"], found["product"].shape) == (6, 0, (0, 0))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert (loaded.none.shape, loaded.vector.shape, loaded.scalar.shape) == ((0, 3), (4, 0), ())


def test_parameters_of_any_layout_keep_their_values(tmp_path):
    """Transposed, strided and big-endian arrays of numpy, and numbers of numpy."""
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    params = {"t": whole.T, "s": whole[::2, ::-1], "b": whole.astype(">f4"), "n": np.float32(7)}
    save(lambda params, x: params["t"] @ x, params, tmp_path / "model", {"x": np.ones(3, np.float32)}, sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for name, value in params.items():
        np.testing.assert_array_equal(getattr(loaded, name), value)
    np.testing.assert_array_equal(loaded(tf.ones(3)), whole.T.sum(1))
