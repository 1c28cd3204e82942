"""Sharding policies on whatever tensors there are."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.savedmodel.sharding import MaxShardSizePolicy, ShardableTensor, ShardByTaskPolicy
from smdaemon.tensorbundle.dtypes import dtype_named

dtypes = st.sampled_from(["float32", "float16", "int8", "string", "float64"]).map(dtype_named)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@st.composite
def tensors(draw):
    """Tensors of distinct keys."""
    made = []
    for number in range(draw(st.integers(0, 8))):
        dtype, shape = draw(dtypes), draw(shapes)
        size = dtype.itemsize or 3
        for dim in shape:
            size *= dim
        device = draw(st.sampled_from(["", "/job:a/task:1", "/job:a/task:0/device:GPU:1"]))
        made.append(ShardableTensor(f"k{number}", dtype, shape, size, device))
    return made


@settings(max_examples=150, deadline=None)
@given(tensors(), st.integers(1, 200))
def test_files_of_limited_size_hold_every_row_once(given_tensors, limit):
    """Files are no larger than the limit, unless a single piece is; pieces are whole or fill their tensor in order."""
    by_key = {tensor.key: tensor for tensor in given_tensors}
    rows = {key: [] for key in by_key}
    for shard in MaxShardSizePolicy(limit)(given_tensors):
        assert shard
        size = 0
        for piece in shard:
            tensor = by_key[piece.key]
            start, stop = piece.rows or (0, tensor.shape[0] if tensor.shape else 1)
            rows[piece.key].append((start, stop) if piece.rows else None)
            part = (stop - start) / tensor.shape[0] if piece.rows else 1
            size += round(tensor.nbytes * part)
        assert size <= limit or len(shard) == 1
    for key, pieces in rows.items():
        if pieces == [None]:
            continue
        ends = [stop for _, stop in sorted(pieces)]
        assert [start for start, _ in sorted(pieces)] == [0, *ends[:-1]]
        assert ends[-1] == by_key[key].shape[0]


@settings(max_examples=50, deadline=None)
@given(tensors())
def test_files_by_task_hold_every_tensor_once(given_tensors):
    """Tensors of one task lie together."""
    shards = ShardByTaskPolicy()(given_tensors)
    assert Counter(piece.key for shard in shards for piece in shard) == Counter(tensor.key for tensor in given_tensors)
    tasks = {tensor.key: tensor.device.removesuffix("/device:GPU:1") for tensor in given_tensors}
    assert all(len({tasks[piece.key] for piece in shard}) == 1 for shard in shards)
    assert len(shards) == len(set(tasks.values()))
