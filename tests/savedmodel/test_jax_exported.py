"""Functions that were exported or jitted before: donations, shardings, random keys, several functions of different making."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builder_graphs import read_model
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax_kit import KEY, PARAMS, B, W, X, affine, run_everywhere, run_v2, signature

from smdaemon.errors import DropError
from smdaemon.savedmodel.jax import describe, save, symbolic

tf = pytest.importorskip("tensorflow")
Y = X @ W + B


def exported(function, *args, **options):
    """A `jax.export.Exported` for the CPU."""
    return jax.export.export(function if hasattr(function, "lower") else jax.jit(function), **options)(*args)


@pytest.fixture
def mesh():
    """A mesh of one device."""
    return Mesh(np.array(jax.devices()[:1]), ("data",))


def test_an_export_is_saved_as_it_is(tmp_path, cpp_load):
    """An `Exported` or its bytes; positional inputs are numbered, or take the names of `inputs`."""
    made = exported(affine, PARAMS, symbolic("batch, 3", "float32"))
    functions = {KEY: made, "bytes": made.serialize(), "named": bytes(made.serialize())}
    saved = save(functions, PARAMS, tmp_path / "model", {"named": {"obs": None}}, sync=False)
    assert saved.signatures == (KEY, "bytes", "named")
    for key, name in ((KEY, "input_0"), ("bytes", "input_0"), ("named", "obs")):
        assert [*signature(tmp_path / "model", key).inputs] == [name]
        found = run_v2(tf, tmp_path / "model", {name: X}, key)
        np.testing.assert_allclose(found["output_0"], Y, rtol=1e-6)
    run_everywhere(tf, cpp_load, tmp_path / "model", {"input_0": X})
    assert platforms(tmp_path / "model") == {(b"CPU",)}


def platforms(path):
    """The platforms of the modules in a model."""
    functions = read_model(path).meta_graphs[0].graph_def.library.function
    nodes = (node for function in functions for node in function.node_def if node.op == "XlaCallModule")
    return {tuple(node.attr["platforms"].list.s) for node in nodes}


def test_an_export_with_keywords_keeps_their_names(tmp_path):
    """Arguments that were given by name when it was exported are inputs of that name, beside numbered ones."""
    made = jax.export.export(jax.jit(lambda params, x, *, shift: affine(params, x) + shift))(PARAMS, X, shift=B)
    save(made, PARAMS, tmp_path / "model", sync=False)
    found = run_v2(tf, tmp_path / "model", {"input_0": X, "shift": B})
    np.testing.assert_allclose(found["output_0"], Y + B, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda jitted: jitted, lambda jitted: exported(jitted, W, X), "serialized"])
def test_what_is_donated_survives(tmp_path, make):
    """A function may overwrite its arguments in training; a variable has its value after any number of calls."""
    jitted = jax.jit(lambda w, x: (w + 1, x * 2, (w * 2).sum()), donate_argnums=(0, 1))
    function = exported(jitted, W, X).serialize() if make == "serialized" else make(jitted)
    save(function, W, tmp_path / "model", None if function is not jitted else [X], sync=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    given = tf.constant(X)
    for _ in range(3):
        first, second, _ = loaded(given)
        np.testing.assert_array_equal(first, W + 1)
        np.testing.assert_array_equal(second, X * 2)
    np.testing.assert_array_equal(loaded.params, W)
    np.testing.assert_array_equal(given, X)
    content = (tmp_path / "model" / "saved_model.pb").read_bytes()
    assert b"aliasing_output" not in content
    assert b"buffer_donor" not in content


def test_shardings_over_one_device_are_dropped(tmp_path, mesh):
    """Constraints inside of the function and annotations of its arguments and results, by Shardy."""
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def constrained(params, x):
        return jax.lax.with_sharding_constraint(x @ params["w"], rows) + params["b"]

    made = exported(jax.jit(constrained, in_shardings=(None, rows), out_shardings=rows), PARAMS, X)
    assert "sdy.sharding" in made.mlir_module()
    mapped = jax.shard_map(affine, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=rows.spec)
    functions = {KEY: constrained, "exported": made, "mapped": mapped}
    inputs = {KEY: {"x": symbolic("b, 3", "float32")}, "mapped": [X]}
    save(functions, PARAMS, tmp_path / "model", inputs, sync=False)
    for key, name in ((KEY, "x"), ("exported", "input_0"), ("mapped", "x")):
        np.testing.assert_allclose(run_v2(tf, tmp_path / "model", {name: X}, key)["output_0"], Y, rtol=1e-6)


def test_shardings_from_before_shardy_are_dropped(tmp_path, mesh):
    """An export may hold custom calls that only annotate."""
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        rows = NamedSharding(mesh, PartitionSpec("data"))
        made = exported(lambda w, x: jax.lax.with_sharding_constraint(x @ w, rows) * 2, W, X)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)
    assert "@Sharding" in made.mlir_module()
    save(made, W, tmp_path / "model", sync=False)
    np.testing.assert_allclose(run_v2(tf, tmp_path / "model", {"input_0": X})["output_0"], X @ W * 2, rtol=1e-6)


def test_random_keys_are_parameters_inputs_and_outputs(tmp_path):
    """They are kept as their data, uint32; the numbers drawn are JAX's."""
    params = {"key": jax.random.key(7), "raw": jax.random.PRNGKey(3), "rbg": jax.random.key(1, impl="unsafe_rbg")}

    def draw(params, key):
        keys = (params["key"], params["raw"], params["rbg"], key)
        return {"drawn": jnp.stack([jax.random.uniform(each, (2,)) for each in keys]), "next": jax.random.split(key)}

    key = jax.random.key(5)
    save(draw, params, tmp_path / "model", {"key": key}, sync=False)
    found = run_v2(tf, tmp_path / "model", {"key": np.asarray(jax.random.key_data(key))})
    wanted = jax.jit(draw)(params, key)
    np.testing.assert_array_equal(found["next"], jax.random.key_data(wanted["next"]))
    np.testing.assert_array_equal(found["drawn"], wanted["drawn"])
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert (loaded.key.dtype, loaded.key.shape, loaded.rbg.shape) == (tf.uint32, (2,), (4,))


@pytest.mark.parametrize(
    ("function", "params", "code", "says"),
    [
        (b"", PARAMS, "function-invalid", "0 bytes"),
        (b"no export at all, but long enough", PARAMS, "function-invalid", "33 bytes"),
        (lambda: exported(lambda: W), PARAMS, "function-invalid", "takes no parameters"),
        (lambda: exported(affine, PARAMS, X), {"w": W.T, "b": B}, "parameters-mismatch", "'w'"),
        (lambda: exported(affine, PARAMS, X), {"w": W}, "parameters-mismatch", "'b', which is not among them"),
        (lambda: exported(affine, PARAMS, X), {"w": W.astype("int32"), "b": B}, "parameters-mismatch", "int32"),
        (lambda: exported(lambda p, x, *, input_0: x, W, X, input_0=X), W, "name-clash", "input_0"),
    ],
)
def test_an_export_that_fits_nothing_is_refused(function, params, code, says):
    """Bytes that are none, one without parameters or of other ones."""
    if callable(function):
        made = jax.jit(lambda p, x, input_0: x)
        function = jax.export.export(made)(W, X, input_0=X) if code == "name-clash" else function()
    with pytest.raises(DropError) as caught:
        describe(function, params)
    assert caught.value.code == code
    assert says in caught.value.message


def test_an_export_may_need_fewer_parameters_than_there_are(tmp_path):
    """What it does not take is a variable nevertheless."""
    made = exported(lambda params, x: x @ params["w"], {"w": W}, X)
    save(made, PARAMS, tmp_path / "model", sync=False)
    np.testing.assert_allclose(run_v2(tf, tmp_path / "model", {"input_0": X})["output_0"], X @ W, rtol=1e-6)
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "model")).b, B)
