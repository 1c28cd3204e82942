"""Releases of TensorFlow: which StableHLO and calling convention they are given, and operations newer than these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_kit import KEY, PARAMS, X, affine, run_cpp, run_v2

from smdaemon.errors import CODES, DropError
from smdaemon.savedmodel.function_bundle import decode_functions
from smdaemon.savedmodel.jax import describe, save, symbolic
from smdaemon.savedmodel.serving_target import (
    DEFAULT_SERVING,
    TARGETS,
    check_runs,
    serving_target,
    stablehlo_version,
)

RELEASES = {"2.19": (9, (1, 9, 1)), "2.20": (10, (1, 12, 1)), "2.21": (10, (1, 13, 7))}


@pytest.fixture(scope="module")
def bundles():
    """A function bundle for each release."""
    return {release: describe(affine, PARAMS, {"x": X}, serving_tensorflow=release) for release in RELEASES}


@pytest.mark.parametrize("release", RELEASES)
def test_a_module_is_written_for_its_release(bundles, release):
    """With the calling convention and the StableHLO that the table says; the bundle names the release."""
    bundle = decode_functions(bundles[release], "it")
    function = bundle.functions[KEY]
    assert bundle.serving_tensorflow == release
    assert (function.version, stablehlo_version(function.module)) == RELEASES[release]
    target = TARGETS[release]
    assert (target.calling_convention, target.stablehlo) == (function.version, ".".join(map(str, RELEASES[release][1])))


def test_the_default_is_the_oldest_release():
    """It runs on all; a patch release is its minor one."""
    assert min(TARGETS) == DEFAULT_SERVING
    assert serving_target("2.21.4") is TARGETS["2.21"]
    assert all(release in CODES["function-target-unknown"].remedy for release in TARGETS)


def test_an_operation_that_a_release_does_not_know_is_refused(capfd):
    """The error names it, and the operations that there are; MLIR prints nothing by itself."""

    def accurate(params, x):
        return jax.lax.tanh(x, accuracy=jax.lax.AccuracyMode.HIGHEST) @ params["w"]

    with pytest.raises(DropError, match=r"TensorFlow 2\.19, .*'vhlo.tanh_v2'.* are .*dot_general, .*tanh$") as caught:
        describe(accurate, PARAMS, {"x": X}, serving_tensorflow="2.19")
    assert caught.value.code == "function-unsupported"
    assert "later release" in caught.value.remedy
    assert capfd.readouterr().err == ""
    describe(accurate, PARAMS, {"x": X}, serving_tensorflow="2.20")


@pytest.mark.parametrize("made", RELEASES)
@pytest.mark.parametrize("serving", RELEASES)
def test_a_bundle_for_a_later_release_is_refused(bundles, made, serving):
    """An earlier release is told which function is too new, and what it knows at most; a later one runs it."""
    bundle = decode_functions(bundles[made], "it")
    bundle.check()
    if made <= serving:
        bundle.check(serving)
        return
    with pytest.raises(DropError, match=f"'{KEY}' .* TensorFlow {serving} knows") as caught:
        bundle.check(serving)
    assert caught.value.code == "function-too-new"
    assert "serving_tensorflow" in caught.value.remedy


@pytest.mark.parametrize("module", [b"", b"ML\xefR", b"ML\xefR\x0dStableHLO_v1.x.1\0", b"junk" * 20])
def test_what_is_no_portable_artifact_is_refused(module):
    """Its version cannot be told."""
    with pytest.raises(DropError) as caught:
        check_runs("f", module, 9, TARGETS["2.19"])
    assert caught.value.code == "function-invalid"


def newer(params, x):
    """Operations that JAX writes as composites, or of CHLO, for any batch."""
    scores = x @ params["w"] + params["b"]
    best, places = jax.lax.top_k(scores, 2)
    return {
        "best": best,
        "places": places,
        "erf_inv": jax.lax.erf_inv(x / 10),
        "asinh": jnp.arcsinh(x) + jnp.tan(x) + jax.lax.lgamma(jnp.abs(x)),
        "sorted": jnp.sort(x, axis=1),
        "rows": jnp.cumsum(jnp.ones(x.shape[0])),
    }


@pytest.mark.parametrize("release", RELEASES)
def test_new_operations_run_for_any_batch(tmp_path, cpp_load, release):
    """Composites are written out: top_k of a symbolic batch runs whatever release it is written for."""
    tf = pytest.importorskip("tensorflow")
    inputs = {"x": symbolic("batch, 3", "float32")}
    save(newer, PARAMS, tmp_path / "model", inputs, serving_tensorflow=release, sync=False)
    found = run_v2(tf, tmp_path / "model", {"x": X})
    wanted = jax.jit(newer)(PARAMS, X)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6)
    served = run_cpp(cpp_load, tmp_path / "model", {"x": X[:1]})
    np.testing.assert_allclose(served["best"], wanted["best"][:1], rtol=1e-6)
    np.testing.assert_array_equal(served["rows"], [1])


def test_sizes_may_depend_on_one_another(tmp_path, cpp_load):
    """Two inputs made like one another share a size; what does not fit is refused by TensorFlow in the call."""
    tf = pytest.importorskip("tensorflow")
    x = symbolic("batch, 2*width", "float32")
    inputs = {"x": x, "y": symbolic("batch", "float32", like=x)}
    save(
        lambda w, x, y: x.reshape(x.shape[0], 2, -1).sum(1) * y[:, None] * w,
        np.float32(2),
        tmp_path / "model",
        inputs,
        sync=False,
    )
    given = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.array([1, 2, 3], np.float32)}
    wanted = given["x"].reshape(3, 2, 2).sum(1) * given["y"][:, None] * 2
    np.testing.assert_array_equal(run_v2(tf, tmp_path / "model", given)["output_0"], wanted)
    np.testing.assert_array_equal(run_cpp(cpp_load, tmp_path / "model", given)["output_0"], wanted)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?i)shape"):
        run_v2(tf, tmp_path / "model", {**given, "y": given["y"][:2]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape refinement"):
        run_v2(tf, tmp_path / "model", {**given, "x": given["x"][:, :3]})
