"""Data files whose content the caller chooses."""

import re
from pathlib import Path

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.tensorbundle import ArrayTensor, BundleReader, PartitionedTensor, TensorSlice, write_bundle
from smdaemon.tensorbundle.slices import check_partition

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


@pytest.mark.parametrize("extent", [(-1, 1), (0, -2), (1, 2), (3, 0), (-1, -1)])
def test_a_slice_that_does_not_fit_is_refused_by_its_name(extent: tuple[int, int]):
    """Before the beginning, of a negative length, beyond the end; also where both are wrong."""
    part = TensorSlice(((0, 1), extent))
    with pytest.raises(DropError, match=re.escape(f"slice {str(part)!r} does not fit the shape (1, 2)")):
        part.box((1, 2))


def test_a_slice_of_no_elements_fits():
    """At the beginning and at the end of a dimension."""
    assert [TensorSlice(((start, 0),)).box((2,)) for start in (0, 2)] == [((0, 0),), ((2, 0),)]


def test_slices_that_touch_are_a_partition_and_those_that_overlap_are_none():
    """Side by side in either dimension; the same number of elements is not enough."""
    rows = [TensorSlice(((row, 1), (0, -1))) for row in range(2)]
    assert check_partition((2, 2), rows) == [((0, 1), (0, 2)), ((1, 1), (0, 2))]
    overlapping = [TensorSlice(((0, 1), (0, -1))), TensorSlice(((0, -1), (1, 1)))]
    with pytest.raises(DropError, match=r"two slices of the shape \(2, 2\) overlap"):
        check_partition((2, 2), overlapping)
