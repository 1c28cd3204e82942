"""Saves of a trainer: what the daemon has afterwards is what was in the tree."""

import jax.numpy as jnp
import numpy as np
import pytest
from handoff_kit import PATIENCE_SECONDS, Jobs, attached, handed_over, in_thread, serving

A, B, C = (np.full(4, value, np.float32) for value in (1, 2, 3))
E = np.zeros((0, 3), np.float32)
F = np.zeros((2, 0), np.float32)

TREES = {
    "first": {"e": E, "a": A, "b": B},
    "middle": {"a": A, "e": E, "b": B},
    "last": {"a": A, "b": B, "e": E},
    "one after the other": {"e": E, "f": F, "a": A},
    "twice the same": {"e": E, "f": E, "a": A, "g": E},
    "before shared ones": {"e": E, "a": A, "b": A, "c": C},
    "alone": {"e": E},
    "nothing else": {"e": E, "f": F},
}


@pytest.mark.parametrize("mode", ["auto", "direct"])
@pytest.mark.parametrize("library", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
async def test_empty_tensors_hide_no_others(tmp_path, tree, library, mode):
    """One that has no bytes lies where the next one lies: each has its own values, and whoever waits for the copy goes on."""
    made = {}  # what is shared stays shared
    arrays = {name: made.setdefault(id(array), library(array)) for name, array in tree.items()}
    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        handle = await in_thread(sidecar.save, 1, arrays, model="m", mode=mode)
        await in_thread(handle.barrier)
        found = await handed_over(server, handle)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert handle.staged(PATIENCE_SECONDS)
