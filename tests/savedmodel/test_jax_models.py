"""Whole networks in JAX, saved and run by each of TensorFlow's loaders."""

import jax
import jax_models
import numpy as np
import pytest
from jax_kit import PARAMS, B, W, X, affine, run_everywhere, run_v2
from jax_models import VOCABULARY

from smdaemon.savedmodel import verify
from smdaemon.savedmodel.jax import save, symbolic

tf = pytest.importorskip("tensorflow")
NETWORKS = {
    "mlp": ("x", "batch, 5", "float32"),
    "conv": ("image", "batch, 8, 8, 2", "float32"),
    "linen_transformer": ("tokens", "batch, 6", "int32"),
    "nnx_transformer": ("tokens", "batch, 6", "int32"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_gives_jaxs_numbers_in_every_loader(tmp_path, cpp_load, network):
    """For any batch, by the v2, v1 and C++ loaders."""
    name, shape, dtype = NETWORKS[network]
    predict, params = getattr(jax_models, network)()
    saved = save(predict, params, tmp_path / "model", {name: symbolic(shape, dtype)}, sync=False)
    assert saved.signatures == ("serving_default",)
    assert verify(tmp_path / "model").tensors == len(jax.tree.leaves(params))
    sizes = [int(size) for size in shape.split(",")[1:]]
    given = jax_models.values(9, 3, *sizes) if dtype == "float32" else np.arange(18).reshape(3, 6) % VOCABULARY
    given = given.astype(dtype)
    found = run_everywhere(tf, cpp_load, tmp_path / "model", {name: given})
    (found,) = found.values()
    (wanted,) = jax.tree.leaves(jax.jit(predict)(params, **{name: given}))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if dtype == "float32":  # a transformer takes seconds to compile
        (alone,) = run_v2(tf, tmp_path / "model", {name: given[:1]}).values()
        np.testing.assert_allclose(alone, wanted[:1], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of one layer for every platform."""
    path = tmp_path_factory.mktemp("jax") / "model"
    save(affine, PARAMS, path, {"x": symbolic("batch, 3", "float32")}, platforms=("tpu", "rocm", "cpu", "cuda"))
    return path


def test_one_export_serves_several_platforms(cpp_load, model):
    """A module for four platforms, whatever their order, runs on the one there is."""
    found = run_everywhere(tf, cpp_load, model, {"x": X})
    np.testing.assert_allclose(found["output_0"], X @ W + B, rtol=1e-6)


def test_an_export_without_cpu_is_refused_when_it_is_called_there(tmp_path):
    """It loads on a machine with a CPU alone, where TensorFlow tells which platforms it was made for."""
    save(affine, PARAMS, tmp_path / "model", {"x": X}, platforms=("cuda", "tpu"), sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    with pytest.raises(tf.errors.NotFoundError, match=r"CPU is not among the platforms .*CUDA, TPU"):
        loaded.signatures["serving_default"](x=tf.constant(X))


def test_tensorflows_tool_shows_and_describes_it(capsys, model):
    """`saved_model_cli show --all` tells the signature, and how the model is called."""
    from tensorflow.python.tools import saved_model_cli

    saved_model_cli._show_all(str(model))
    shown = capsys.readouterr().out
    assert "inputs['x'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 3)" in shown
    assert "outputs['output_0'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 2)" in shown
    assert "Method name is: tensorflow/serving/predict" in shown
    assert "Function Name: '__call__'" in shown
    assert "x: TensorSpec(shape=(None, 3), dtype=tf.float32, name='x')" in shown


def test_the_loaded_model_computes_with_variables_that_can_be_changed(model):
    """The signature and the call read the same variables."""
    loaded = tf.saved_model.load(str(model))
    loaded.w.assign(W * 0)
    np.testing.assert_allclose(loaded(tf.constant(X)), np.broadcast_to(B, (2, 2)))
    np.testing.assert_allclose(loaded.signatures["serving_default"](x=tf.constant(X))["output_0"][0], B)
    assert [variable.name for variable in loaded.trainable_variables] == ["b:0", "w:0"]


def test_a_signature_of_one_input_takes_it_by_position(model):
    """As TensorFlow's own signatures do, so that Keras can have one as a layer."""
    found = tf.saved_model.load(str(model)).signatures["serving_default"](tf.constant(X))
    np.testing.assert_allclose(found["output_0"], X @ W + B, rtol=1e-6)
    layer = tf.keras.layers.TFSMLayer(str(model), call_endpoint="serving_default")
    np.testing.assert_allclose(layer(tf.constant(X))["output_0"], X @ W + B, rtol=1e-6)


def test_it_runs_within_functions_of_tensorflow(model):
    """Its call and its signature, compiled by XLA or not, for sizes that are not known yet."""
    loaded = tf.saved_model.load(str(model))
    signature = tf.TensorSpec([None, 3])
    for compiled in (False, True):
        double = tf.function(
            lambda x: loaded(x) + loaded.signatures["serving_default"](x=x)["output_0"],
            input_signature=[signature],
            jit_compile=compiled,
        )
        np.testing.assert_allclose(double(tf.constant(X)), 2 * (X @ W + B), rtol=1e-6)


def test_tensorflow_saves_it_again(tmp_path, model):
    """A loaded model, changed and saved by TensorFlow, still runs."""
    loaded = tf.saved_model.load(str(model))
    loaded.b.assign(B * 2)
    tf.saved_model.save(loaded, str(tmp_path / "again"), signatures=dict(loaded.signatures))
    found = run_v2(tf, tmp_path / "again", {"x": X})
    np.testing.assert_allclose(found["output_0"], X @ W + B * 2, rtol=1e-6)
    again = tf.saved_model.load(str(tmp_path / "again"))
    np.testing.assert_allclose(again(tf.constant(X)), X @ W + B * 2, rtol=1e-6)


def test_tensorflow_differentiates_nothing_through_it(model):
    """The op has no gradient in TensorFlow, which says so in the call; gradients are asked for when a model is saved."""
    loaded = tf.saved_model.load(str(model))
    with tf.GradientTape(), pytest.raises(LookupError, match="XlaCallModule"):
        loaded(tf.constant(X))
    with tf.GradientTape(watch_accessed_variables=False):
        np.testing.assert_allclose(loaded(tf.constant(X)), X @ W + B, rtol=1e-6)
