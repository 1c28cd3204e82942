"""What a trainer hands over in tests, and whether a version has it to the bit."""

from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import trio

from smdaemon.savedmodel.verify import verify
from smdaemon.tensorbundle import BundleReader

HANDOFF = 'handoff_socket = "handoff.sock"'
PATIENCE_SECONDS = 60
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def read(version: Path) -> dict[str, np.ndarray]:
    """The tensors of a version by their names."""
    verify(version)
    with BundleReader(version / "variables" / "variables") as bundle:
        return {key.removesuffix(SUFFIX): bundle.array(key) for key, _ in bundle.entries() if key.endswith(SUFFIX)}


def params(step: int) -> dict:
    """A tree of a few tensors of several kinds, none like that of another step."""
    rng = np.random.default_rng(step)
    kernel = rng.standard_normal((64, 33)).astype(np.float32)
    return {
        "nothing": np.zeros((0, 3), np.float16),
        "layer": [{"kernel": kernel, "bias": np.full(33, step, ml_dtypes.bfloat16)}],
        "tied": kernel,
        "count": step,
        "transposed": rng.standard_normal((5, 7)).T,
        "big_endian": np.arange(6, dtype=">i8"),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float16),
    }


def assert_saved(version: Path, tree: dict) -> None:
    """Every tensor of `tree` is in the version, to the bit."""
    found = read(version)
    expected = {
        "layer/0/kernel": tree["layer"][0]["kernel"],
        "layer/0/bias": tree["layer"][0]["bias"],
        **{name: np.asarray(value) for name, value in tree.items() if name != "layer"},
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype.newbyteorder("=")


async def in_thread(function, *args, **kwargs):
    """The trainer's code is plain and synchronous: it runs in a thread."""
    return await trio.to_thread.run_sync(partial(function, *args, **kwargs))
