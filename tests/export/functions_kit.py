"""A JAX function, its function bundle, and checkpoints of its parameters in several formats."""

from pathlib import Path

import numpy as np
import pytest

from smdaemon.sources.formats import FORMATS

KERNEL = np.arange(6, dtype=np.float32).reshape(3, 2) / 4
BIAS = np.array([10, 20], np.float32)
PARAMS = {"dense": {"kernel": KERNEL, "bias": BIAS}, "scale": np.full(2, 3, np.float32)}
X = np.array([[1, 2, 3], [-4, 5, 0.5]], np.float32)
Y = (X @ KERNEL + BIAS) * 3


def predict(params, x):
    """A layer that is scaled."""
    return {"y": (x @ params["dense"]["kernel"] + params["dense"]["bias"]) * params["scale"]}


def write_bundle(path: Path, **options) -> Path:
    """The function bundle of `predict`, for any batch."""
    from smdaemon.savedmodel.jax import describe, symbolic

    path.write_bytes(describe(predict, PARAMS, {"x": symbolic("batch, 3", "float32")}, **options))
    return path


def flat(separator="/", prefix="", factor=1):
    """The parameters by their names, times a factor."""
    names = {"dense/kernel": KERNEL, "dense/bias": BIAS, "scale": PARAMS["scale"]}
    return {prefix + name.replace("/", separator): value * np.float32(factor) for name, value in names.items()}


def served(tf, path, x=X):
    """What TensorFlow's v2 loader computes by the default signature."""
    return tf.saved_model.load(str(path)).signatures["serving_default"](x=tf.constant(x))["y"].numpy()


def write_npz(path):
    """Numpy's."""
    np.savez(path.with_suffix(".npz"), **flat(), **{"opt/step": np.int64(7)})
    return path.with_suffix(".npz")


def write_safetensors(path):
    """Hugging Face's, with dots between the parts of a name."""
    from safetensors.numpy import save_file

    save_file(flat("."), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def write_msgpack(path):
    """What flax serialises."""
    from flax.serialization import to_bytes

    path.with_suffix(".msgpack").write_bytes(to_bytes(PARAMS))
    return path.with_suffix(".msgpack")


def write_orbax(path):
    """A directory that Orbax saves."""
    from orbax.checkpoint import StandardCheckpointer

    with StandardCheckpointer() as checkpointer:
        checkpointer.save(path, PARAMS)
    return path


def writer(write, name):
    """A case of CHECKPOINTS; it is skipped where smdaemon does not read the format."""
    unread = name not in {known.name for known in FORMATS}
    return pytest.param(write, id=name, marks=pytest.mark.skipif(unread, reason=f"{name} is not read yet"))


CHECKPOINTS = [
    writer(write_npz, "npz"),
    writer(write_safetensors, "safetensors"),
    writer(write_msgpack, "flax-msgpack"),
    writer(write_orbax, "orbax"),
]
