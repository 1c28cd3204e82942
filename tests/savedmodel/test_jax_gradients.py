"""Gradients as signatures: `vjp_order=1`, for functions and for exports with their derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_kit import KEY, PARAMS, B, W, X, affine, run_everywhere, run_v2, signature

from smdaemon.errors import DropError
from smdaemon.savedmodel.jax import save, symbolic

tf = pytest.importorskip("tensorflow")
GRADIENT = f"{KEY}_gradient"
COTANGENT = np.array([[1, -2], [0.5, 3]], np.float32)


def loss(params, x):
    """Something that bends."""
    return jnp.tanh(affine(params, x))


def expected(function, cotangents, params, *args):
    """JAX's gradients of the sum of products of outputs and cotangents, for all arguments."""
    return jax.vjp(function, params, *args)[1](cotangents)


def test_the_gradient_of_a_function_is_jaxs(tmp_path, cpp_load):
    """Of all parameters and inputs, for any batch; the result says that there is one."""
    x = symbolic("batch, 3", "float32")
    saved = save(loss, PARAMS, tmp_path / "model", {"x": x}, vjp_order=1, sync=False)
    assert saved.signatures == (KEY, GRADIENT)
    assert saved.gradients == {KEY: f"signature '{GRADIENT}'"}
    feeds = {"x": X, "gradient/output_0": COTANGENT}
    found = run_everywhere(tf, cpp_load, tmp_path / "model", feeds, GRADIENT)
    in_params, in_x = expected(loss, COTANGENT, PARAMS, X)
    for name, value in {"x": in_x, "params/w": in_params["w"], "params/b": in_params["b"]}.items():
        np.testing.assert_allclose(found.pop(name), value, rtol=1e-5, atol=1e-6)
    assert not found
    of_sum = run_v2(tf, tmp_path / "model", {"x": X[:1], "gradient/output_0": np.ones((1, 2), np.float32)}, GRADIENT)
    by_grad = jax.grad(lambda params, x: loss(params, x).sum())(PARAMS, X[:1])
    np.testing.assert_allclose(of_sum["params/w"], by_grad["w"], rtol=1e-5)


def test_the_gradient_is_no_attribute_and_stores_nothing_twice(tmp_path):
    """The loaded model has the function and its variables once."""
    save({"f": loss}, PARAMS, tmp_path / "model", {"f": {"x": X}}, vjp_order=1, sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert sorted(loaded.signatures) == ["f", "f_gradient"]
    assert len(loaded.variables) == 2
    assert not hasattr(loaded, "f_gradient")


def test_operations_along_a_symbolic_size_have_gradients(tmp_path):
    """Cumulative sums and the best of a batch of any size."""

    def function(params, x):
        return {"sums": jnp.cumsum(x * params, axis=0), "best": jax.lax.top_k(x, 2)[0]}

    save(function, np.float32(2), tmp_path / "model", {"x": symbolic("batch, 3", "float32")}, vjp_order=1, sync=False)
    cotangents = {"sums": X, "best": COTANGENT}
    feeds = {"x": X} | {f"gradient/{name}": value for name, value in cotangents.items()}
    found = run_v2(tf, tmp_path / "model", feeds, GRADIENT)
    in_params, in_x = expected(function, cotangents, np.float32(2), X)
    np.testing.assert_allclose(found["x"], in_x, rtol=1e-6)
    np.testing.assert_allclose(found["params/params"], in_params, rtol=1e-6)


def test_nested_and_whole_numbers_take_part(tmp_path):
    """Outputs and inputs of ints have no gradient; nested ones go by their paths; unused ones have zeros."""
    params = {"layer": [W, np.int32(3)], "unused": B}

    def function(params, obs, times):
        found = jnp.sin(obs["x"] @ params["layer"][0]) * times * params["layer"][1]
        return {"y": (found, times + 1), "sum": found.sum()}

    inputs = {"obs": {"x": X, "y": B}, "times": np.int32(2)}
    saved = save(function, params, tmp_path / "model", inputs, vjp_order=1, sync=False)
    assert saved.gradients[KEY].startswith("signature")
    info = signature(tmp_path / "model", GRADIENT)
    assert sorted(info.inputs) == ["gradient/sum", "gradient/y/0", "obs/x", "obs/y", "times"]
    assert sorted(info.outputs) == ["obs/x", "obs/y", "params/layer/0", "params/unused"]
    feeds = {"obs/x": X, "obs/y": B, "times": np.int32(2), "gradient/y/0": COTANGENT, "gradient/sum": np.float32(0.5)}
    found = run_v2(tf, tmp_path / "model", feeds, GRADIENT)

    def floats(w, x):
        result = function({"layer": [w, 3]}, {"x": x}, 2)
        return result["y"][0], result["sum"]

    in_w, in_x = expected(floats, (COTANGENT, np.float32(0.5)), W, X)
    np.testing.assert_allclose(found["params/layer/0"], in_w, rtol=1e-5)
    np.testing.assert_allclose(found["obs/x"], in_x, rtol=1e-5)
    assert not found["obs/y"].any()
    assert not found["params/unused"].any()


def test_an_export_has_a_gradient_where_it_was_kept(tmp_path):
    """Fresh exports and bytes with vjp_order=1 do, on their own platforms; bytes without do not, and the result says so."""
    fresh = jax.export.export(jax.jit(loss))(PARAMS, symbolic("batch, 3", "float32"))
    functions = {"fresh": fresh, "with": fresh.serialize(vjp_order=1), "without": fresh.serialize()}
    saved = save(functions, PARAMS, tmp_path / "model", vjp_order=1, sync=False)
    assert saved.signatures == ("fresh", "fresh_gradient", "with", "with_gradient", "without")
    assert saved.gradients["without"] == "none: the function 'without' was exported without its derivative"
    in_params, in_x = expected(loss, COTANGENT, PARAMS, X)
    for key in ("fresh_gradient", "with_gradient"):
        found = run_v2(tf, tmp_path / "model", {"input_0": X, "gradient/output_0": COTANGENT}, key)
        np.testing.assert_allclose(found["input_0"], in_x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["params/w"], in_params["w"], rtol=1e-5, atol=1e-6)


def doubled_until_large(params, x):
    """A loop that ends nobody knows when."""
    return jax.lax.while_loop(lambda x: x.max() < 100, lambda x: x * 2, x * params)


@pytest.mark.parametrize(
    ("function", "params", "inputs", "why"),
    [
        (lambda p, x: x + p, np.arange(3), {"x": np.arange(3)}, "no parameter or input of the function"),
        (lambda p, x: (x + p).astype("int32"), B, {"x": B}, "no output of the function"),
        (lambda p, x: None, B, {"x": B}, "no output of the function"),
        (doubled_until_large, B, {"x": B}, "JAX cannot differentiate the function 'serving_default': Reverse-mode"),
        (lambda p, gradient: p * gradient, B, {"gradient": B}, "has an input called 'gradient'"),
        (lambda p, params: p["x"] * params["x"], {"x": B}, {"params": {"x": B}}, "both have the gradient 'params/x'"),
    ],
)
def test_where_there_is_no_gradient_the_result_says_why(tmp_path, function, params, inputs, why):
    """The function itself is saved all the same."""
    saved = save(function, params, tmp_path / "model", inputs, vjp_order=1, sync=False)
    assert saved.signatures == (KEY,)
    assert saved.gradients[KEY].startswith("none: ")
    assert why in saved.gradients[KEY]


def test_a_function_that_is_called_like_a_gradient_is_refused(tmp_path):
    """One of both would be lost; without gradients the name is free."""
    functions, inputs = {"f": affine, "f_gradient": loss}, {"f": {"x": X}, "f_gradient": {"x": X}}
    with pytest.raises(DropError, match="'f_gradient' is a function and the gradient of 'f'") as caught:
        save(functions, PARAMS, tmp_path / "model", inputs, vjp_order=1)
    assert caught.value.code == "name-clash"
    assert save(functions, PARAMS, tmp_path / "model", inputs, sync=False).signatures == ("f", "f_gradient")


def test_no_gradient_is_made_unless_it_is_asked_for(tmp_path):
    """The result says how to ask."""
    saved = save(affine, PARAMS, tmp_path / "model", {"x": X}, sync=False)
    assert (saved.signatures, saved.gradients) == ((KEY,), {KEY: "none: not asked for (vjp_order=1)"})


def test_rules_of_the_functions_own_are_kept(tmp_path):
    """A custom_vjp decides the gradient of the saved function."""

    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -1, 1),))
    save(lambda p, x: clipped(x * p), np.float32(2), tmp_path / "model", {"x": B}, vjp_order=1, sync=False)
    found = run_v2(tf, tmp_path / "model", {"x": B, "gradient/output_0": np.array([9, 0.25], np.float32)}, GRADIENT)
    np.testing.assert_array_equal(found["x"], [2, 0.5])
