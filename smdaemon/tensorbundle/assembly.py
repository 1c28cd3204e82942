"""Puts the slices of a partitioned tensor together, a chunk at a time and in row-major order."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from smdaemon.tensorbundle.dtypes import STRING, DType
from smdaemon.tensorbundle.slices import Box, intersection
from smdaemon.tensorbundle.stored import StoredTensor
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, Buffer

if TYPE_CHECKING:
    import numpy as np


class StoredSlice(NamedTuple):
    """A slice: its box within the whole, and where its bytes lie."""

    box: Box
    tensor: StoredTensor


class SlicedTensor:
    """A partitioned tensor in a bundle, as a Tensor. Its slices are disjoint and fill the shape.

    The checksum of every slice is compared before the first buffer is given, so that the slices are read twice.
    """

    def __init__(self, dtype: DType, shape: tuple[int, ...], slices: Sequence[StoredSlice]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._slices = slices

    @property
    def nbytes(self) -> int:
        """Bytes of the value; for strings the lengths of all elements are read."""
        if self.dtype is STRING:
            return sum(part.tensor.nbytes for part in self._slices)
        return prod(self.shape) * self.dtype.itemsize

    def buffers(self) -> Iterator[Buffer]:
        """The value; DropError `bundle-corrupt` for a wrong checksum."""
        if self.dtype is STRING:
            yield from self._strings()
            return
        for part in self._slices:
            for _ in part.tensor.buffers():
                pass
        if prod(self.shape):
            for box in chunk_boxes(self.shape, CHUNK_BYTES // self.dtype.itemsize):
                yield memoryview(self._chunk(box).reshape(-1))  # type: ignore[arg-type]

    def _chunk(self, box: Box) -> "np.ndarray[Any, Any]":
        """The bytes of one box of the whole, elements as its last dimension."""
        import numpy as np

        itemsize = self.dtype.itemsize
        chunk = np.empty((*(length for _, length in box), itemsize), dtype=np.uint8)
        for part in self._slices:
            common = intersection(box, part.box)
            if common is None:
                continue
            # what a chunk's box has in common with a slice is one run of the slice's bytes
            piece = np.empty((*(length for _, length in common), itemsize), dtype=np.uint8)
            part.tensor.read_into(memoryview(piece.reshape(-1)), _offset(common, part.box) * itemsize)  # type: ignore[arg-type]
            chunk[_within(common, box)] = piece
        return chunk

    def _strings(self) -> Iterator[bytes]:
        import numpy as np

        # every string takes at least a byte of a slice: once these are read, the whole is known to be no larger
        elements = [[bytes(element) for element in tensor.buffers()] for _, tensor in self._slices]
        whole = np.empty(self.shape, dtype=object)
        for (box, tensor), strings in zip(self._slices, elements, strict=True):
            part = np.empty(len(strings), dtype=object)
            part[:] = strings
            whole[tuple(slice(start, start + length) for start, length in box)] = part.reshape(tensor.shape)
        yield from whole.flat


def chunk_boxes(shape: Sequence[int], elements: int) -> Iterator[Box]:
    """Boxes of at most `elements` elements that together are `shape`, each one run in row-major order."""
    axis = 0
    while axis < len(shape) and prod(shape[axis + 1 :]) > elements:
        axis += 1
    if axis == len(shape):
        yield ((0, 1),) * 0
        return
    step = max(1, elements // max(1, prod(shape[axis + 1 :])))
    rest = tuple((0, size) for size in shape[axis + 1 :])
    for leading in _indices(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield (*leading, (start, min(step, shape[axis] - start)), *rest)


def _indices(shape: Sequence[int]) -> Iterator[Box]:
    """Every index into `shape`, as a box of one element."""
    if not shape:
        yield ()
        return
    for start in range(shape[0]):
        for rest in _indices(shape[1:]):
            yield ((start, 1), *rest)


def _offset(common: Box, box: Box) -> int:
    """How many elements of `box` lie before the first one of `common`, which is inside it."""
    offset = 0
    for (start, _), (box_start, box_length) in zip(common, box, strict=True):
        offset = offset * box_length + start - box_start
    return offset


def _within(common: Box, box: Box) -> tuple[slice, ...]:
    """`common` as an index into an array of the content of `box`."""
    return tuple(
        slice(start - box_start, start - box_start + length)
        for (start, length), (box_start, _) in zip(common, box, strict=True)
    )
