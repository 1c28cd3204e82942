# ruff: noqa: T201 - printing is how it tells
"""Runs with JAX and without TensorFlow: exports every model for every target, with the answers that JAX gives.

    python exporting.py smdaemon FOLDER      # needs smdaemon
    python exporting.py probes FOLDER        # one small function for releases that there are not, to see what is too new
    python exporting.py jax2tf FOLDER        # needs TensorFlow

Below FOLDER: `MODEL/inputs.npz`, `MODEL/answers.npz`, and the SavedModels `MODEL/BATCH/TARGET`. The last line printed is JSON: the
versions that took part, and the error of each export that was refused.
"""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax_models
import numpy as np

BATCHES = ("one batch", "any batch")
FUTURE = "99.0.0"
Export = Callable[[jax_models.Model, str, Path], None]
Way = tuple[dict[str, Export], dict[str, Any]]

PROBE = {
    "probe": jax_models.Model(
        lambda params, x: jnp.exp(x * params) + jnp.cos(x), np.ones(4, np.float32), np.ones((2, 4), np.float32)
    )
}
"""A function of which nearly every minor version of StableHLO writes something in its own way."""


def main() -> None:
    """Export with the way and into the folder of the command line."""
    way, folder = sys.argv[1], Path(sys.argv[2])
    exports, told = WAYS[way]()
    refused = {}
    for name, model in (PROBE if way == "probes" else jax_models.models()).items():
        place = folder / name
        place.mkdir(parents=True)
        _save_values(place, model)
        for batch in BATCHES:
            for target, export in exports.items():
                try:
                    export(model, batch, place / batch / target)
                except Exception as error:  # noqa: BLE001 - whatever an exporter says of a model is what the table is for
                    refused[f"{name}/{batch}/{target}"] = f"{type(error).__name__}: {error}"
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("jax", "flax")}
    print(json.dumps({"versions": versions, "refused": refused, **told}))


def _save_values(place: Path, model: jax_models.Model) -> None:
    """Inputs of the batch that the model is exported for and of a larger one, and what JAX makes of them."""
    inputs = {"one batch": model.x, "any batch": np.concatenate([model.x, model.x[:1]])}
    np.savez(place / "inputs.npz", **{batch: _plain(x) for batch, x in inputs.items()})
    answers = {}
    for batch, x in inputs.items():
        result = jax.jit(model.function)(model.params, x)
        for output, value in _outputs(result).items():
            answers[f"{batch}/{output}"] = _plain(value)
    np.savez(place / "answers.npz", **answers)
    (place / "dtype").write_text(str(model.x.dtype))


def _outputs(result: Any) -> dict[str, Any]:
    """What the outputs of a signature are called."""
    if isinstance(result, dict):
        return result
    return {
        f"output_{index}": value
        for index, value in enumerate(result if isinstance(result, (list, tuple)) else [result])
    }


def _plain(value: Any) -> "np.ndarray[Any, Any]":
    """The value in a type that numpy can save; bfloat16 fits into float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _by_smdaemon() -> Way:
    """An export for each target that smdaemon knows."""
    from smdaemon.savedmodel.serving_target import TARGETS

    return {target: partial(_save, target) for target in TARGETS}, {}


def _probes() -> Way:
    """Exports for releases that would know every StableHLO of this JAX, or a calling convention of the far future."""
    from jaxlib.mlir.dialects import stablehlo

    from smdaemon.savedmodel.serving_target import DEFAULT_SERVING, TARGETS, ServingTarget

    known = dict(TARGETS)
    newest = int(stablehlo.get_current_version().split(".")[1])
    versions = [*(f"1.{minor}.0" for minor in range(5, newest)), *(target.stablehlo for target in known.values())]
    oldest = min(target.calling_convention for target in known.values())
    for number, each in enumerate((*versions, FUTURE)):
        convention, stablehlo_version = (99, "1.5.0") if each == FUTURE else (oldest, each)
        TARGETS[f"probe-{number}"] = ServingTarget(each, convention, stablehlo_version)
    exports: dict[str, Export] = {
        target.tensorflow: partial(_save, name) for name, target in TARGETS.items() if name not in known
    }
    return exports, {"targets": [asdict(target) for target in known.values()], "default": DEFAULT_SERVING}


def _save(target: str, model: jax_models.Model, batch: str, path: Path) -> None:
    from smdaemon.savedmodel.jax import save, symbolic

    shape = jax.ShapeDtypeStruct(model.x.shape, model.x.dtype)
    if batch == "any batch":
        shape = symbolic(", ".join(["b", *map(str, model.x.shape[1:])]), model.x.dtype)
    save(model.function, model.params, path, {"x": shape}, serving_tensorflow=target, sync=False)


def _by_jax2tf() -> Way:
    """One export, as TensorFlow saves it."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    def saved(model: jax_models.Model, batch: str, path: Path) -> None:
        any_batch = batch == "any batch"
        converted = jax2tf.convert(model.function, polymorphic_shapes=[None, "b, ..." if any_batch else None])
        module = tf.Module()
        module.params = jax.tree.map(tf.Variable, model.params)
        shape = [None, *model.x.shape[1:]] if any_batch else model.x.shape
        module.call = tf.function(
            lambda x: _outputs(converted(module.params, x)),
            autograph=False,
            input_signature=[tf.TensorSpec(shape, model.x.dtype, name="x")],
        )
        tf.saved_model.save(module, str(path), signatures=module.call)

    return {"itself": saved}, {}


WAYS: dict[str, Callable[[], Way]] = {"smdaemon": _by_smdaemon, "probes": _probes, "jax2tf": _by_jax2tf}

if __name__ == "__main__":
    main()
