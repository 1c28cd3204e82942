"""Our files against TensorFlow's: the golden bundles were made by make_golden.py beside this file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from bundle_cases import GOLDEN, LARGE, SMALL, rows, tensors

from smdaemon.tensorbundle import BundleReader, write_bundle

SUFFIXES = (".index", ".data-00000-of-00001")


def first_difference(ours: bytes, theirs: bytes) -> str:
    """Both contents from their first differing byte on; empty where they are the same."""
    if ours == theirs:
        return ""
    pairs = zip(ours, theirs, strict=False)
    at = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    return f"from byte {at} of {len(ours)}/{len(theirs)}: ours {ours[at : at + 32].hex(' ')}, TensorFlow's {theirs[at : at + 32].hex(' ')}"


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("sync", [False, True])
def test_small_bundles_are_tensorflows_byte_for_byte(case: str, sync: bool, tmp_path: Path):
    """Every dtype, strings, slices and empty tensors give TensorFlow's bytes in both files."""
    files = write_bundle(tmp_path / case, tensors(case), sync=sync)
    for suffix in SUFFIXES:
        difference = first_difference(
            Path(f"{tmp_path / case}{suffix}").read_bytes(), Path(f"{GOLDEN / case}{suffix}").read_bytes()
        )
        assert not difference, difference
    assert files.index == Path(f"{GOLDEN / case}.index").read_bytes()
    assert files.bytes_written == sum(path.stat().st_size for path in files.paths)


@pytest.mark.parametrize("case", LARGE)
def test_large_bundles_have_tensorflows_digests(case: str, tmp_path: Path):
    """100,000 keys, keys beyond the size of a block and tensors beyond a chunk give TensorFlow's bytes in both files."""
    digests = json.loads((GOLDEN / "digests.json").read_text())
    write_bundle(tmp_path / case, tensors(case), sync=False)
    for suffix in SUFFIXES:
        content = Path(f"{tmp_path / case}{suffix}").read_bytes()
        assert len(content) == digests[case + suffix]["bytes"]
        assert hashlib.sha256(content).hexdigest() == digests[case + suffix]["sha256"]


def test_what_tensorflow_wrote_reads_back_equal():
    """Every tensor of the golden bundles reads as the value TensorFlow was given."""
    for case in SMALL:
        with BundleReader(GOLDEN / case) as reader:
            reader.verify()
            saved = rows(case)
            assert reader.keys() == list(dict.fromkeys(row.name for row in saved))
            for name, spec, shape, value in saved:
                array = reader.array(name)
                assert array.shape == shape
                if not spec:
                    assert array.dtype == value.dtype
                    np.testing.assert_array_equal(array.astype(object), value.astype(object))


def test_slices_that_tensorflow_wrote_join():
    """Partitioned tensors come back whole, numbers and strings alike."""
    with BundleReader(GOLDEN / "slices") as reader:
        for name, spec, _, value in rows("slices"):
            whole = reader.array(name)
            box = tuple(
                slice(None) if part == "-" else slice(int(part.split(",")[0]), sum(map(int, part.split(","))))
                for part in spec.split(":")
            )
            np.testing.assert_array_equal(whole[box], value)
