"""Inputs, outputs and parameters whose names sort differently from their order, and what is stored how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builder_graphs import read_model
from jax_kit import KEY, B, run_cpp, run_everywhere, run_v2

from smdaemon.savedmodel import summarize
from smdaemon.savedmodel.jax import save
from smdaemon.savedmodel.reader import read_saved_model

tf = pytest.importorskip("tensorflow")
COUNT = 12
INPUTS = {f"x{number}": np.array([number, number / 8], np.float32) for number in reversed(range(COUNT))}


def variables(path):
    """The names of the variables, as they are stored."""
    return sorted(variable.name for variable in summarize(path).variables)


def test_many_inputs_and_outputs_keep_their_places(tmp_path, cpp_load):
    """x10 sorts before x2 and output_10 before output_2; nothing is swapped, by name or by position."""

    def cascade(params, **inputs):
        return [(number + 1) * inputs[f"x{number}"] + params for number in range(COUNT)]

    save(cascade, np.float32(100), tmp_path / "model", INPUTS, sync=False)
    found = run_everywhere(tf, cpp_load, tmp_path / "model", INPUTS)
    assert len(found) == COUNT
    wanted = cascade(100, **INPUTS)
    for number in range(COUNT):
        np.testing.assert_array_equal(found[f"output_{number}"], wanted[number])
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    by_position = loaded(*(tf.constant(value) for value in INPUTS.values()))  # in the order of `inputs`
    by_name = loaded(**{name: tf.constant(INPUTS[name]) for name in sorted(INPUTS)})
    for ours, theirs, expected in zip(by_position, by_name, wanted, strict=True):
        np.testing.assert_array_equal(ours, expected)
        np.testing.assert_array_equal(theirs, expected)


def test_parameters_are_not_mixed_up(tmp_path, cpp_load):
    """Dicts that were filled in another order than the sorted one, lists of more than ten, equal shapes everywhere."""
    params = {"z": jnp.float32(2), "a": jnp.float32(3), "m": {"y": jnp.float32(5), "b": jnp.float32(7)}}
    params["list"] = [jnp.float32(number) for number in range(COUNT)]

    def polynomial(params, x):
        powers = sum(each * x**number for number, each in enumerate(params["list"]))
        return params["z"] * x - params["a"] + params["m"]["y"] / params["m"]["b"] + powers

    save(polynomial, params, tmp_path / "model", {"x": jnp.zeros(1)}, sync=False)
    found = run_everywhere(tf, cpp_load, tmp_path / "model", {"x": np.full(1, 0.5, np.float32)})
    np.testing.assert_allclose(found["output_0"], jax.jit(polynomial)(params, 0.5), rtol=1e-6)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert [float(each) for each in loaded.list] == list(range(COUNT))
    assert (float(loaded.z), float(loaded.a), float(loaded.m.y), float(loaded.m.b)) == (2, 3, 5, 7)


def test_unused_inputs_and_parameters_are_there_and_change_nothing(tmp_path, cpp_load):
    """XLA drops what it does not need; the signature and the variables keep it."""
    params = {"a": np.float32(1), "b": np.float32(2), "c": np.float32(3)}

    def middle(params, p, q, r):
        return {"first": q * params["b"], "constant": np.float32(9)}

    inputs = dict.fromkeys("pqr", np.zeros(2, np.float32))
    save(middle, params, tmp_path / "model", inputs, sync=False)
    assert variables(tmp_path / "model") == ["a", "b", "c"]
    given = {name: np.full(2, number, np.float32) for number, name in enumerate("pqr", 5)}
    found = run_everywhere(tf, cpp_load, tmp_path / "model", given)
    np.testing.assert_array_equal(found["first"], [12, 12])
    assert found["constant"] == 9


def test_parameters_of_several_functions_are_stored_once(tmp_path, cpp_load):
    """Each function uses some of them; the bundle has every value once, the graph none."""
    params = {name: np.full((64, 256), number, np.float32) for number, name in enumerate(("used", "shared", "rest"))}
    functions = {
        KEY: lambda params, x: x + params["used"][0] + params["shared"][0],
        "other": lambda params, x: x - params["shared"][0],
        "third": lambda params, x: x * params["shared"][1] * params["rest"][2],
    }
    inputs = {key: {"x": np.zeros(256, np.float32)} for key in functions}
    save(functions, params, tmp_path / "model", inputs, sync=False)
    (data,) = (tmp_path / "model" / "variables").glob("variables.data-*")
    values_bytes = sum(value.nbytes for value in params.values())
    assert values_bytes < data.stat().st_size < values_bytes + 4096  # besides them the object graph
    assert (tmp_path / "model" / "saved_model.pb").stat().st_size < 32_000
    x = np.ones(256, np.float32)
    wanted = {KEY: x + 1, "other": x - 1, "third": x * 2}
    for key, expected in wanted.items():
        np.testing.assert_array_equal(run_cpp(cpp_load, tmp_path / "model", {"x": x}, key)["output_0"], expected)
        np.testing.assert_array_equal(run_v2(tf, tmp_path / "model", {"x": x}, key)["output_0"], expected)
    assert [len(found) for found in handles(tmp_path / "model")] == [3, 3]


def handles(path):
    """The names of the graph's variables, and those that they share their resources by."""
    nodes = [node for node in read_model(path).meta_graphs[0].graph_def.node if node.op == "VarHandleOp"]
    return {node.name for node in nodes}, {node.attr["shared_name"].s for node in nodes}


def test_tied_weights_are_one_variable(tmp_path, cpp_load):
    """An array at two places of the tree is stored once, and changed at both; two equal numbers are two variables."""
    table = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    params = {"embed": table, "head": {"kernel": table}, "step": 3, "warmup": 3}

    def predict(params, x):
        return (x @ params["embed"]) @ params["head"]["kernel"].T + params["step"] - params["warmup"]

    save(predict, params, tmp_path / "model", {"x": np.zeros((1, 2), np.float32)}, sync=False)
    assert variables(tmp_path / "model") == ["embed", "step", "warmup"]
    x = np.array([[1, 2]], np.float32)
    found = run_everywhere(tf, cpp_load, tmp_path / "model", {"x": x})
    np.testing.assert_array_equal(found["output_0"], x @ table @ table.T)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.head.kernel is loaded.embed
    loaded.embed.assign(table * 2)
    np.testing.assert_array_equal(loaded(tf.constant(x)), x @ table @ table.T * 4)


def test_results_that_are_arguments_are_copies(tmp_path):
    """An input or a parameter that is given back, also twice, does not change with the variable."""
    save(lambda params, x: (x, params, x, params), B, tmp_path / "model", {"x": B}, sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    x = np.array([3, 4], np.float32)
    before = loaded(tf.constant(x))
    loaded.params.assign(B * 5)
    after = loaded(tf.constant(x))
    for found, params in ((before, B), (after, B * 5)):
        for value, wanted in zip(found, (x, params, x, params), strict=True):
            np.testing.assert_array_equal(value, wanted)


def test_no_parameter_is_a_constant_of_the_module(tmp_path):
    """None of the bytes of a value are in the graph."""
    params = {"w": np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)}
    save(
        lambda params, x: x @ params["w"], params, tmp_path / "model", {"x": np.zeros((1, 50), np.float32)}, sync=False
    )
    content = (tmp_path / "model" / "saved_model.pb").read_bytes()
    assert not any(row.tobytes() in content for row in params["w"])
    _, model = read_saved_model(tmp_path / "model")
    (module,) = [
        node.attr["module"].s
        for function in model.meta_graphs[0].graph_def.library.function
        for node in function.node_def
        if node.op == "XlaCallModule"
    ][:1]
    assert len(module) < params["w"].nbytes
