"""Data files whose content the caller chooses."""

from pathlib import Path

import numpy as np
import pytest

from smdaemon.tensorbundle import ArrayTensor, BundleReader, PartitionedTensor, TensorSlice, write_bundle

ROWS = np.arange(8, dtype=np.int32).reshape(4, 2)
FIRST, LAST = TensorSlice(((0, 2), (0, -1))), TensorSlice(((2, 2), (0, -1)))


def tensors():
    """Two whole tensors and one in two slices."""
    parts = [(FIRST, ArrayTensor(ROWS[:2])), (LAST, ArrayTensor(ROWS[2:]))]
    whole = {name: ArrayTensor(np.full(2, number, np.int32)) for number, name in enumerate("ab")}
    return whole | {"p": PartitionedTensor(parts[0][1].dtype, (4, 2), parts)}


def test_tensors_and_slices_lie_where_they_are_told(tmp_path: Path):
    """Slices of one tensor in two files; a slice that is not named goes with its tensor."""
    write_bundle(tmp_path / "x", tensors(), shards=[["b", ("p", LAST)], ["a", ("p", FIRST)]])
    with BundleReader(tmp_path / "x") as bundle:
        entries = dict(bundle.entries())
        assert (entries["a"].shard, entries["b"].shard) == (1, 0)
        bundle.verify()
        content = b"".join(bytes(buffer) for buffer in bundle.tensor("p").buffers())
    assert content == ROWS.tobytes()
    assert [path.stat().st_size for path in sorted(tmp_path.glob("x.data-*"))] == [24, 24]
    write_bundle(tmp_path / "y", tensors(), shards=[["a", "b"], ["p"], []])
    assert [path.stat().st_size for path in sorted(tmp_path.glob("y.data-*"))] == [16, 32, 0]


@pytest.mark.parametrize(
    "shards",
    [[], [["a", "b"]], [["a", "b", "p", "q"]], [["a", "b", "p"], ["a"]], [["a", "b", ("p", FIRST)]]],
)
def test_each_is_in_exactly_one_data_file(tmp_path: Path, shards: list[list[str | tuple[str, TensorSlice]]]):
    """None left out, none twice, none that is not there; nothing is written otherwise."""
    with pytest.raises(ValueError, match="shard"):
        write_bundle(tmp_path / "x", tensors(), shards=shards)
    assert list(tmp_path.iterdir()) == []
