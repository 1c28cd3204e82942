"""Partitions joined and replicas reduced, against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.savedmodel import joined
from smdaemon.savedmodel.joined import JoinedTensor, ReducedTensor, joined_axis
from smdaemon.tensorbundle import ArrayTensor


def content(tensor):
    """All bytes of a tensor, whose buffers have the lengths that it promises."""
    parts = [bytes(buffer) for buffer in tensor.buffers()]
    assert sum(map(len, parts)) == tensor.nbytes
    return b"".join(parts)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    axis=st.integers(0, 2),
    dtype=st.sampled_from(["f4", "u2", "i8"]),
    chunk=st.sampled_from([1, 8, 24, 4 << 20]),
)
def test_joined_partitions_are_the_concatenation(shape, sizes, axis, dtype, chunk):
    """Along any axis, for chunks smaller and larger than a row."""
    axis %= len(shape)
    arrays = []
    for size in sizes:
        part = (*shape[:axis], size, *shape[axis + 1 :])
        arrays.append((np.arange(np.prod(part)) + 100 * len(arrays)).astype(dtype).reshape(part))
    whole = np.concatenate(arrays, axis)
    before = joined.CHUNK_BYTES
    joined.CHUNK_BYTES = chunk
    try:
        tensor = JoinedTensor([ArrayTensor(array) for array in arrays], axis)
        assert tensor.shape == whole.shape
        assert content(tensor) == whole.tobytes()
    finally:
        joined.CHUNK_BYTES = before


@pytest.mark.parametrize(
    ("shape", "parts", "axis"),
    [
        ((5, 3), [(3, 3), (2, 3)], 0),
        ((3, 5), [(3, 3), (3, 2)], 1),
        ((-1, 3), [(3, 3), (2, 3)], 0),
        ((5, 3), [(3, 3), (3, 3)], None),
        ((5, 3), [(3, 3), (2, 2)], None),
        ((5, 3), [(5,), (3,)], None),
        ((), [(), ()], None),
    ],
)
def test_the_axis_follows_from_the_shapes(shape, parts, axis):
    """Where the partitions' sizes add up; None where they make no tensor of that shape."""
    assert joined_axis(shape, parts) == axis


def test_a_partition_that_is_short_or_long_is_refused():
    """Values would slip into the wrong rows."""

    class Lying(ArrayTensor):
        shape = (2, 2)

    for rows in (1, 3):
        liar = Lying(np.zeros((rows, 2), np.float32))
        liar.shape = (2, 2)
        tensor = JoinedTensor([ArrayTensor(np.zeros((2, 1), np.float32)), liar], 1)
        with pytest.raises(DropError) as caught:
            list(tensor.buffers())
        assert caught.value.code == "source-changed"


@pytest.mark.parametrize(("mean", "expected"), [(False, [9.0, 12.0]), (True, [3.0, 4.0])])
def test_replicas_are_summed_or_averaged(mean, expected):
    """Element by element, in the tensors' own type."""
    replicas = [ArrayTensor(np.array([1, 2], np.float32) + 2 * number) for number in range(3)]
    assert content(ReducedTensor(replicas, mean=mean)) == np.array(expected, np.float32).tobytes()


def test_the_mean_of_integers_is_an_integer():
    """Rounded down, and exact beyond what a float64 holds."""
    replicas = [ArrayTensor(np.array([value], np.int64)) for value in (2**61 + 1, 2**61 + 2)]
    assert content(ReducedTensor(replicas, mean=True)) == np.array([2**61 + 1], np.int64).tobytes()
