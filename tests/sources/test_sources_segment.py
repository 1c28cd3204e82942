"""A segment of a handoff: what a data file takes of it."""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from smdaemon.handoff.memory import make_plan, make_segment
from smdaemon.sources.segment import open_segment
from smdaemon.staging.base import Spec
from smdaemon.staging.layout import encode_layout, laid_out
from smdaemon.tensorbundle.files import data_path
from smdaemon.tensorbundle.reader import BundleReader
from smdaemon.tensorbundle.tensors import array_of
from smdaemon.tensorbundle.writer import write_bundle

EARLIER = b"earlier "
"""What an earlier save has left, all over the segment."""

TREE = {
    "a": np.arange(1, 251, dtype=np.float32),
    "b": np.array([7, 8, 9], np.uint8),
    "c": np.arange(700, dtype=np.int16),
    "e": np.zeros((0, 3), np.float32),
}


@contextmanager
def segment_of(tree: dict[str, np.ndarray], nbytes: int):
    """The tensors in a segment that was full of an earlier save, opened as a source."""
    segment = make_segment(nbytes)
    layout = laid_out({name: Spec(array.dtype.name, array.shape, array.nbytes) for name, array in tree.items()})
    plan = make_plan(encode_layout(layout))
    try:
        segment.buffer[:] = EARLIER * (segment.nbytes // len(EARLIER))
        for row in layout.rows:
            segment.buffer[row.offset : row.offset + row.nbytes] = tree[row.name].tobytes()
        with open_segment(*(Path(f"/proc/self/fd/{fd}") for fd in (segment.fd, plan))) as source:
            yield source
    finally:
        os.close(plan)
        segment.close()


def written(tmp_path: Path, names, nbytes: int = 4096) -> bytes:
    """The data file of some tensors of TREE that lie in a segment of so many bytes; they read back."""
    prefix = tmp_path / f"of_{nbytes}"
    with segment_of(TREE, nbytes) as source:
        write_bundle(prefix, {name: source.tensors[name] for name in names})
    with BundleReader(prefix) as bundle:
        for name in names:
            np.testing.assert_array_equal(array_of(bundle.tensor(name)), TREE[name])
    return data_path(prefix, 0, 1).read_bytes()


def test_what_an_earlier_save_left_in_a_segment_is_not_written(tmp_path):
    """Neither behind the tensors nor between them; so the same tensors give the same bytes in a larger segment."""
    content = written(tmp_path, TREE)
    assert EARLIER not in content
    assert content == written(tmp_path, TREE, 1 << 20)


@pytest.mark.parametrize("left_out", ["a", "b", "c"])
def test_a_tensor_that_is_left_out_of_a_segment_is_not_written(tmp_path, left_out):
    """However little of the segment it is."""
    content = written(tmp_path, [name for name in TREE if name != left_out])
    assert len(content) == sum(array.nbytes for name, array in TREE.items() if name != left_out)


def test_a_segment_is_one_stream(tmp_path):
    """Its tensors lie in the data file as they do in memory, zeros between them."""
    content = written(tmp_path, TREE)
    assert len(content) > sum(array.nbytes for array in TREE.values())
    assert content.startswith(TREE["a"].tobytes() + bytes(-TREE["a"].nbytes % 64) + TREE["b"].tobytes() + bytes(61))
