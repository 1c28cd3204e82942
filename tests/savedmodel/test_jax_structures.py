"""Nested inputs, outputs and parameters: by the names of a signature, and by calling the loaded model."""

from collections import OrderedDict
from types import SimpleNamespace
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from jax_kit import KEY, PARAMS, B, W, X, affine, run_everywhere, run_v2, signature

from smdaemon.errors import DropError
from smdaemon.savedmodel.jax import save, symbolic

tf = pytest.importorskip("tensorflow")
F32 = jax.ShapeDtypeStruct((), "float32")
ONE = jax.ShapeDtypeStruct((1,), "float32")


class Pair(NamedTuple):
    """Two arrays in an order that is not that of their names."""

    z: object
    a: object


@flax.struct.dataclass
class Observation:
    """Two arrays, and a text that JAX does not see."""

    speed: object
    image: object
    camera: str = flax.struct.field(pytree_node=False, default="front")


def number(value):
    """A tensor."""
    return tf.constant(value, tf.float32)


def item(tensor):
    """The only element of a tensor."""
    return tensor.numpy().item()


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """A function whose inputs and outputs are of every kind of container."""

    def rearrange(params, obs, pair, items):
        scaled = Observation(obs.speed * params["scale"], obs.image)
        return {"z": [items[0], (items[1]["q"], None)], "obs": scaled, "pair": Pair(pair.a, pair.z), "none": None}

    inputs = {
        "obs": Observation(ONE, ONE),
        "pair": Pair(ONE, ONE),
        "items": [ONE, {"q": ONE, "absent": None}],
    }
    path = tmp_path_factory.mktemp("nested") / "model"
    save(rearrange, {"scale": jnp.float32(10)}, path, inputs, sync=False)
    return path


def test_nested_tensors_have_their_paths_as_names(nested, cpp_load):
    """A signature has "obs/image", a list's items numbers, a tuple's fields their names."""
    given = {"obs/speed": 2, "obs/image": 1, "pair/z": 3, "pair/a": 4, "items/0": 5, "items/1/q": 6}
    found = run_everywhere(tf, cpp_load, nested, {name: np.full(1, value, np.float32) for name, value in given.items()})
    assert found == {"z/0": 5, "z/1/0": 6, "obs/speed": 20, "obs/image": 1, "pair/z": 4, "pair/a": 3}


def test_a_call_takes_and_gives_nested_structures(nested):
    """By position, by name or mixed; lists, tuples, named tuples and None stay what they are, a dataclass is a dict."""
    loaded = tf.saved_model.load(str(nested))
    obs = {"image": tf.ones(1), "speed": number([2])}
    pair, items = Pair(number([3]), number([4])), [number([5]), {"q": number([6]), "absent": None}]
    for found in (
        loaded(obs, pair, items),
        loaded(items=items, pair=pair, obs=obs),
        loaded(obs, items=items, pair=pair),
    ):
        assert found.keys() == {"z", "obs", "pair", "none"}
        assert found["none"] is None
        assert found["obs"].keys() == {"image", "speed"}
        assert item(found["obs"]["speed"]) == 20
        assert isinstance(found["z"], list)
        assert (item(found["z"][0]), item(found["z"][1][0]), found["z"][1][1]) == (5, 6, None)
        assert found["pair"]._fields == ("z", "a")
        assert (item(found["pair"].z), item(found["pair"].a)) == (4, 3)


def test_several_functions_are_signatures_and_attributes(tmp_path, cpp_load):
    """A mapping gives each its key; one whose key can be no attribute is a signature alone."""
    functions = {
        "encode": lambda params, x: {"code": x * params},
        "decode": lambda params, code: code / params,
        "a b:ü/é": lambda params, **given: given["x y/ü:0"] + params,
    }
    x = np.array([1, 2], np.float32)
    inputs = {"encode": {"x": x}, "decode": {"code": x}, "a b:ü/é": {"x y/ü:0": x}}
    saved = save(functions, np.float32(4), tmp_path / "model", inputs, sync=False)
    assert saved.signatures == tuple(functions)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert sorted(loaded.signatures) == sorted(functions)
    np.testing.assert_array_equal(loaded.decode(loaded.encode(tf.constant(x))["code"]), x)
    strange = run_everywhere(tf, cpp_load, tmp_path / "model", {"x y/ü:0": x}, "a b:ü/é")
    np.testing.assert_array_equal(strange["output_0"], x + 4)


def test_positional_inputs_take_the_names_of_the_arguments(tmp_path):
    """`inputs` may be a sequence; arguments without a name of their own are numbered."""
    save({"f": affine, "g": jax.jit(affine)}, PARAMS, tmp_path / "named", {"f": [X], "g": (X,)}, sync=False)
    assert [*signature(tmp_path / "named", "f").inputs] == [*signature(tmp_path / "named", "g").inputs] == ["x"]
    layer = SimpleNamespace(apply=lambda params, *inputs, rngs=None: inputs[0] - inputs[1])
    save(layer.apply, PARAMS, tmp_path / "numbered", [F32, F32], sync=False)
    found = run_v2(tf, tmp_path / "numbered", {"input_0": np.float32(5), "input_1": np.float32(3)})
    assert found == {"output_0": 2}
    assert float(tf.saved_model.load(str(tmp_path / "numbered"))(number(1), number(2))) == -1


def test_an_input_may_have_any_name(tmp_path):
    """Also those that the parameters or the function's own wrapper might have."""
    names = ["params", "args", "kwargs", "function", "key"]
    function = lambda state, /, **given: {name: given[name] * state for name in names}  # noqa: E731
    save(function, np.float32(2), tmp_path / "model", dict.fromkeys(names, F32), sync=False)
    found = run_v2(tf, tmp_path / "model", {name: np.float32(at) for at, name in enumerate(names)})
    assert found == {name: 2 * at for at, name in enumerate(names)}


@pytest.mark.parametrize("params", [{}, None, (), {"empty": {}}])
def test_a_model_may_have_no_parameters(tmp_path, cpp_load, params):
    """Then it has no variables."""
    save(lambda _params, x: x * 2, params, tmp_path / "model", {"x": ONE}, sync=False)
    assert run_everywhere(tf, cpp_load, tmp_path / "model", {"x": np.full(1, 4, np.float32)}) == {"output_0": 8}


def test_a_model_may_have_no_inputs(tmp_path, cpp_load):
    """It is called with nothing, and gives what its parameters say."""
    save(lambda params: params * 2, W, tmp_path / "model", {}, sync=False)
    np.testing.assert_array_equal(run_everywhere(tf, cpp_load, tmp_path / "model", {})["output_0"], W * 2)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded(), W * 2)
    np.testing.assert_array_equal(loaded.params, W)  # what a single array is called


@pytest.mark.parametrize("kind", [dict, OrderedDict, FrozenDict])
def test_any_mapping_holds_parameters_and_inputs(tmp_path, kind):
    """JAX takes some in the order of their keys and some as they were filled; names decide."""
    params = kind([("w", W), ("b", B)])
    given = kind([("y", np.float32(2)), ("x", X)])
    save(
        lambda params, obs: affine(params, obs["x"]) * obs["y"], params, tmp_path / "model", {"obs": given}, sync=False
    )
    found = run_v2(tf, tmp_path / "model", {"obs/x": X, "obs/y": np.float32(2)})
    np.testing.assert_allclose(found["output_0"], (X @ W + B) * 2, rtol=1e-6)
    called = tf.saved_model.load(str(tmp_path / "model"))({"x": tf.constant(X), "y": number(2)})
    np.testing.assert_allclose(called, (X @ W + B) * 2, rtol=1e-6)


def test_parameters_may_be_a_list(tmp_path):
    """Its items are attributes of the model by their numbers."""
    save(lambda params, x: x @ params[0] + params[1][0], [W, (B,)], tmp_path / "model", [X], sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded(tf.constant(X)), X @ W + B, rtol=1e-6)
    assert [variable.name for variable in loaded.variables] == ["0:0", "1/0:0"]
    np.testing.assert_array_equal(getattr(loaded, "0"), W)


def test_keys_may_be_numbers(tmp_path):
    """They are written in digits: 10 sorts before 9 there, and after it in JAX."""
    params = {9: jnp.float32(9), 10: jnp.float32(10)}
    function = lambda params, x: {2: x[10] * params[9], 10: x[9] * params[10]}  # noqa: E731
    save(function, params, tmp_path / "model", {"x": {9: F32, 10: F32}}, sync=False)
    assert run_v2(tf, tmp_path / "model", {"x/9": np.float32(2), "x/10": np.float32(3)}) == {"2": 27, "10": 20}
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    called = loaded({"9": number(2), "10": number(3)})
    assert {key: float(value) for key, value in called.items()} == {"2": 27, "10": 20}


def test_keys_may_hold_slashes(tmp_path):
    """Haiku's names of layers are paths themselves; its parameters become a tree."""
    params = {"mlp/~/linear_0": {"w": W}, "mlp/~/linear_0/inner": {"b": B}}

    def predict(params, x):
        return x @ params["mlp/~/linear_0"]["w"] + params["mlp/~/linear_0/inner"]["b"]

    save(predict, params, tmp_path / "model", {"x": symbolic("n, 3", "float32")}, sync=False)
    np.testing.assert_allclose(run_v2(tf, tmp_path / "model", {"x": X})["output_0"], X @ W + B, rtol=1e-6)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.mlp["~"].linear_0.inner.b, B)


def test_a_train_state_is_parameters(tmp_path):
    """Flax's TrainState with optax's states: numbers of Python, named tuples, empty states, functions beside them."""
    import optax
    from flax.training.train_state import TrainState

    optimizer = optax.chain(optax.clip(1), optax.adam(0.1))
    state = TrainState.create(apply_fn=affine, params=PARAMS, tx=optimizer)
    save(lambda state, x: state.apply_fn(state.params, x) + state.step, state, tmp_path / "model", {"x": X}, sync=False)
    np.testing.assert_allclose(run_v2(tf, tmp_path / "model", {"x": X})["output_0"], X @ W + B, rtol=1e-6)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    names = [variable.name.removesuffix(":0") for variable in loaded.variables]
    moments = [f"opt_state/1/0/{moment}/{name}" for moment in ("mu", "nu") for name in ("b", "w")]
    assert names == ["step", "params/b", "params/w", "opt_state/1/0/count", *moments]
    assert loaded.step.dtype == tf.int32  # as JAX takes a number of Python
    assert not any(
        name in ("step", "opt_state/1/0/count") for name in (v.name[:-2] for v in loaded.trainable_variables)
    )


def test_numbers_of_python_and_64_bits_become_what_jax_computes_with(tmp_path):
    """Without x64, float64 becomes float32 and int64 int32, as in a call of the function."""
    params = {"count": 3, "rate": 0.5, "on": True, "phase": 1j, "wide": np.arange(2), "double": np.ones(2)}

    def function(params, x):
        return x * params["rate"] + params["count"] + params["wide"] + params["double"] * params["on"]

    save(function, params, tmp_path / "model", {"x": np.ones(2)}, sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = {name: getattr(loaded, name).dtype.name for name in params}
    floats, ints = dict.fromkeys(("rate", "double"), "float32"), dict.fromkeys(("count", "wide"), "int32")
    assert found == floats | ints | {"on": "bool", "phase": "complex64"}
    np.testing.assert_array_equal(run_v2(tf, tmp_path / "model", {"x": np.ones(2, np.float32)})["output_0"], [4.5, 5.5])


def test_a_result_may_hold_nothing(tmp_path, cpp_load):
    """A function without outputs is called for nothing."""
    save(lambda _params, _x: None, W, tmp_path / "model", {"_x": F32}, sync=False)
    assert run_v2(tf, tmp_path / "model", {"_x": np.float32(1)}) == {}
    cpp_load.load(tmp_path / "model")


def test_static_arguments_are_compiled_in(tmp_path):
    """What has no shape is a value of Python, also for a jitted function that says so; it is no input of the model."""

    def scaled(params, x, mode, times=2, extra=None):
        assert extra is None
        return x * params * times if mode == "times" else x

    for name, function in {"plain": scaled, "jit": jax.jit(scaled, static_argnames=("mode", "times"))}.items():
        inputs = {"x": F32, "mode": "times", "times": 3, "extra": None}
        save(function, np.float32(5), tmp_path / name, inputs, sync=False)
        assert run_v2(tf, tmp_path / name, {"x": np.float32(2)}) == {"output_0": 30}


@pytest.mark.parametrize(
    ("params", "inputs", "code", "says"),
    [
        ({"a/b": W, "a": {"b": W}}, {"x": X}, "name-clash", "'a/b'"),
        ({"a/b": W, "a": W}, {"x": X}, "name-clash", "'a/b'"),
        ({"variables": W}, {"x": X}, "name-clash", "variables"),
        ({"": {"": W}}, {"x": X}, "name-invalid", "empty"),
        ({"w": "text"}, {"x": X}, "dtype-unsupported", "'w'"),
        ({"w": F32}, {"x": X}, "dtype-unsupported", "ShapeDtypeStruct"),
        ({"n": 2**40}, {"x": X}, "dtype-unsupported", "'n' holds whole numbers that int32 does not"),
        ({"n": np.array([1, -(2**31) - 1])}, {"x": X}, "dtype-unsupported", "int32"),
        (W, {"x/y": X, "x": {"y": X}}, "signature-invalid", "x/y"),
        (W, {"x": {"a": X, "b": 2.0}}, "function-invalid", "2.0"),
        (W, [X, 2.0], "function-invalid", "2.0"),
    ],
)
def test_names_and_values_that_make_no_model_are_refused(tmp_path, params, inputs, code, says):
    """Each with its code and the name in question; nothing is written."""
    with pytest.raises(DropError) as caught:
        save(lambda *_args, **_given: W, params, tmp_path / "model", inputs)
    assert caught.value.code == code
    assert says in caught.value.message
    assert not (tmp_path / "model").exists()


def test_a_parameter_and_a_function_of_one_name_are_refused(tmp_path):
    """The loaded model could have only one of them."""
    with pytest.raises(DropError, match="'w' is the name of a function and of a parameter") as caught:
        save({"w": affine}, PARAMS, tmp_path / "model", {"w": {"x": X}})
    assert caught.value.code == "name-clash"
    save({KEY: affine, "w w": affine}, PARAMS, tmp_path / "model", {KEY: {"x": X}, "w w": {"x": X}}, sync=False)


def test_names_that_no_graph_can_have_are_signatures_and_paths_all_the_same(tmp_path, cpp_load):
    """Parameters, functions and inputs keep their names; what stands for them in the graph is loaded everywhere."""

    def scale(params, obs):
        return {"<y>": params["<pad>"] * obs["<a>"]}

    params = {"<pad>": jnp.float32(3)}
    save(scale, params, tmp_path / "model", {"obs": {"<a>": ONE}}, sync=False)
    assert run_everywhere(tf, cpp_load, tmp_path / "model", {"obs/<a>": np.full(1, 2, np.float32)}) == {"<y>": 6}
