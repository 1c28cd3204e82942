"""TensorFlow reads what we wrote: the real reader is the judge."""

import os
from pathlib import Path

import numpy as np
import pytest
from bundle_cases import SMALL, rows, tensors

from smdaemon.tensorbundle import ArrayTensor, PartitionedTensor, TensorSlice, dtype_named, write_bundle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")


def restored(prefix: Path, name: str, dtype, spec: str = ""):
    """The tensor that TensorFlow restores."""
    (value,) = tf.raw_ops.RestoreV2(prefix=str(prefix), tensor_names=[name], shape_and_slices=[spec], dtypes=[dtype])
    return value.numpy()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("case", SMALL)
def test_tensorflow_restores_every_dtype_and_shape(case: str, shards: int, tmp_path: Path):
    """Every tensor of the golden cases, slices cut out again as they were given."""
    write_bundle(tmp_path / case, tensors(case), shards=shards)
    for name, spec, shape, value in rows(case):
        dtype = tf.dtypes.as_dtype(ArrayTensor(value).dtype.enum)
        found = restored(tmp_path / case, name, dtype, " ".join((*map(str, shape), spec)) if spec else "")
        assert np.shape(found) == value.shape
        np.testing.assert_array_equal(np.asarray(found).astype(object), value.astype(object))


def test_the_checkpoint_reader_lists_names_shapes_and_dtypes(tmp_path: Path):
    """tf.train.load_checkpoint sees the whole tensors, and joins the partitioned ones."""
    write_bundle(tmp_path / "slices", tensors("slices"), shards=2)
    reader = tf.train.load_checkpoint(str(tmp_path / "slices"))
    assert reader.get_variable_to_shape_map() == {row.name: list(row.shape) for row in rows("slices")}
    np.testing.assert_array_equal(reader.get_tensor("part"), np.arange(24, dtype=np.float32).reshape(8, 3))


def test_tensorflow_cuts_our_slices_anew(tmp_path: Path):
    """A box that lies across the slices we wrote, over three data files."""
    whole = np.arange(30 * 40, dtype=np.int64).reshape(30, 40)
    parts = [(TensorSlice(((row, 10), (0, -1))), ArrayTensor(whole[row : row + 10])) for row in (0, 10, 20)]
    write_bundle(tmp_path / "v", {"x": PartitionedTensor(dtype_named("int64"), whole.shape, parts)}, shards=3)
    np.testing.assert_array_equal(restored(tmp_path / "v", "x", tf.int64), whole)
    np.testing.assert_array_equal(restored(tmp_path / "v", "x", tf.int64, "30 40 5,20:3,7"), whole[5:25, 3:10])


def test_tensorflow_finds_keys_in_every_block(tmp_path: Path):
    """Names beyond the size of a block and many small ones are found."""
    write_bundle(tmp_path / "v", tensors("blocks"), sync=False)
    saved = rows("blocks")
    for row in (*saved[::40], *saved[-4:]):
        assert restored(tmp_path / "v", row.name, tf.float32) == row.value
