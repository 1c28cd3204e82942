"""Tensors that lie in one memory: whether it is written whole."""

from pathlib import Path

import numpy as np

from smdaemon.tensorbundle import ArrayTensor, BundleReader, write_bundle
from smdaemon.tensorbundle.dtypes import dtype_named
from smdaemon.tensorbundle.image import MappedTensor, common_image


class Memory:
    """Memory of so many bytes, of which so many are tensors'."""

    def __init__(self, nbytes: int, held_bytes: int) -> None:
        self.buffer = memoryview(np.zeros(nbytes, np.uint8)).cast("B")
        self.held_bytes = held_bytes


def tensor(image: Memory, offset: int, nbytes: int) -> MappedTensor:
    """A tensor of bytes at a place of the memory."""
    return MappedTensor(image, offset, dtype_named("uint8"), (nbytes,), nbytes)


def test_memory_that_is_asked_for_as_a_whole_is_written_whole():
    """Also where a tensor without bytes lies at the place of another."""
    image = Memory(128, 128)
    assert common_image([tensor(image, 0, 0), tensor(image, 0, 64), tensor(image, 64, 64)]) is image


def test_memory_with_a_tensor_that_nobody_asked_for_is_not_written_whole():
    """However small that tensor is."""
    image = Memory(128, 128)
    assert common_image([tensor(image, 0, 64), tensor(image, 64, 63)]) is None


def test_memory_that_is_mostly_empty_is_not_written_whole():
    """What lies between tensors would take room on the disk."""
    image = Memory(128, 68)
    assert common_image([tensor(image, 0, 4), tensor(image, 64, 64)]) is None


def test_what_lies_at_one_place_counts_once():
    """Tied weights do not make more of the memory asked for."""
    image = Memory(128, 128)
    assert common_image([tensor(image, 0, 64), tensor(image, 0, 64)]) is None


def test_tensors_without_bytes_make_no_image():
    """There is nothing to write."""
    assert common_image([tensor(Memory(128, 0), 0, 0)]) is None


def test_of_several_memories_the_fullest_is_written_whole():
    """Another's tensors, be they many, do not count for it."""
    small, large = Memory(64, 64), Memory(128, 128)
    tensors = [tensor(small, 0, 32), tensor(large, 0, 128), tensor(small, 32, 32)]
    assert common_image(tensors) is large
    assert common_image(tensors[::-1]) is large
    assert common_image([tensor(small, 0, 64), tensor(large, 0, 100)]) is None


def test_an_eighth_of_a_memory_may_be_empty():
    """And not one byte more."""
    for held_bytes, whole in ((112, True), (111, False)):
        image = Memory(128, held_bytes)
        assert (common_image([tensor(image, 0, held_bytes)]) is image) is whole


def test_memory_that_is_asked_for_as_a_whole_is_written_as_it_is(tmp_path: Path):
    """Behind it what lies elsewhere; each value reads back."""
    image = Memory(3 * 4096 + 100, 3 * 4096)
    image.buffer[:] = np.random.default_rng(0).bytes(len(image.buffer))
    mapped = {f"m{start}": tensor(image, start, 4096) for start in (0, 4096, 8192)}
    write_bundle(tmp_path / "v", {**mapped, "z": ArrayTensor(np.arange(5))}, sync=False)
    content = (tmp_path / "v.data-00000-of-00001").read_bytes()
    assert content == bytes(image.buffer) + np.arange(5).tobytes()
    with BundleReader(tmp_path / "v") as reader:
        for start in (0, 4096, 8192):
            assert reader.array(f"m{start}").tobytes() == bytes(image.buffer[start : start + 4096])
        assert reader.array("z").tolist() == list(range(5))
