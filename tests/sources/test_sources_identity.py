"""Which content lies at a path: what a job is about, and what its export compares."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from smdaemon.errors import DropError
from smdaemon.sources.base import Identity
from smdaemon.sources.formats import identity_of


@pytest.fixture
def sharded(tmp_path):
    """An index and its two shards."""
    for number in (1, 2):
        save_file({f"w{number}": np.ones(2, np.float32)}, tmp_path / f"m-0000{number}-of-00002.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"w1": "m-00001-of-00002.safetensors", "w2": "m-00002-of-00002.safetensors"}}')
    return index


def test_a_file_is_told_by_its_own_status(tmp_path):
    """Inode, size and time."""
    np.savez(tmp_path / "a.npz", w=np.ones(2))
    assert identity_of(tmp_path / "a.npz") == Identity.of((tmp_path / "a.npz").stat())


def test_a_shard_that_changes_changes_the_drop(sharded):
    """And so does one that goes."""
    before = identity_of(sharded)
    shard = sharded.with_name("m-00002-of-00002.safetensors")
    os.utime(shard, (1, 1))
    changed = identity_of(sharded)
    shard.unlink()
    assert len({before, changed, identity_of(sharded)}) == 3


def test_an_array_in_a_directory_changes_the_directory(tmp_path):
    """Also where only its name does."""
    folder = tmp_path / "41"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones(2))
    before = identity_of(folder)
    (folder / "a.npy").rename(folder / "b.npy")
    assert identity_of(folder) != before


def test_what_is_not_there_has_none(tmp_path):
    """It is missing, whatever its format."""
    for name in ("a.npz", "m.safetensors.index.json", "step_1"):
        with pytest.raises(DropError) as caught:
            identity_of(tmp_path / name)
        assert caught.value.code == "source-missing"
