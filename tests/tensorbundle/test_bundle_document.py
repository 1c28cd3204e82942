"""The worked bytes of docs/format-tensorbundle.md are those that we write."""

import re
from pathlib import Path

import numpy as np

from smdaemon.tensorbundle import ArrayTensor, TensorSlice, write_bundle
from smdaemon.tensorbundle.slices import slice_key

PAGE = Path(__file__).parents[2] / "docs" / "format-tensorbundle.md"


def worked_bytes(label: str) -> bytes:
    """The bytes of the page's block of that label: what stands before two spaces in each line."""
    (block,) = re.findall(rf"```{label}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()))


def test_the_pages_bundle_is_what_we_write(tmp_path: Path):
    """Data file and index of the page's two tensors."""
    word = ArrayTensor(np.array(b"hi", dtype=object))
    files = write_bundle(tmp_path / "variables", {"a/w": ArrayTensor(np.array([1, 2], np.float32)), "a/word": word})
    assert files.paths[0].read_bytes() == worked_bytes("data")
    assert files.index == worked_bytes("index")


def test_the_pages_slice_key_is_ours():
    """The key of a slice."""
    assert slice_key(b"part", TensorSlice.parse("0,4:-")) == worked_bytes("key")
