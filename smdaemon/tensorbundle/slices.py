"""Slices: a partitioned tensor is several pieces, each under a key of its own that names the piece's place in the whole.

Format: `tensorflow/core/util/saved_tensor_slice_util.cc` for the keys, `tensor_slice.proto` for the extents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from smdaemon.errors import DropError
from smdaemon.tensorbundle.dtypes import DType
from smdaemon.tensorbundle.ordered import ordered_number, ordered_signed, ordered_string
from smdaemon.tensorbundle.tensors import Tensor

FULL = (0, -1)
"""The extent of a dimension that is not cut."""

Box = tuple[tuple[int, int], ...]
"""Start and length in each dimension, all known."""


@dataclass(frozen=True)
class TensorSlice:
    """A box inside a tensor: (start, length) for each dimension, `FULL` for one that is not cut."""

    extents: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, spec: str) -> Self:
        """The slice that a text like `0,4:-` means (rows 0 to 3, all columns), as TensorFlow writes it after a tensor's name."""
        try:
            return cls(tuple(FULL if part == "-" else _extent(part) for part in spec.split(":"))) if spec else cls(())
        except ValueError:
            raise DropError("bundle-invalid", f"{spec!r} is not a slice") from None

    def __str__(self) -> str:
        return ":".join("-" if extent == FULL else f"{extent[0]},{extent[1]}" for extent in self.extents)

    def box(self, shape: Sequence[int]) -> Box:
        """The slice within a tensor of `shape`; DropError `bundle-invalid` where it does not fit."""
        if len(self.extents) != len(shape):
            raise DropError("bundle-invalid", f"slice {str(self)!r} does not fit the shape {tuple(shape)}")
        box = tuple((0, size) if extent == FULL else extent for extent, size in zip(self.extents, shape, strict=True))
        if any(
            start < 0 or length < 0 or start + length > size for (start, length), size in zip(box, shape, strict=True)
        ):
            raise DropError("bundle-invalid", f"slice {str(self)!r} does not fit the shape {tuple(shape)}")
        return box

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the piece that the slice cuts from a tensor of `shape`."""
        return tuple(length for _, length in self.box(shape))


def _extent(part: str) -> tuple[int, int]:
    start, length = part.split(",")
    return int(start), int(length)


@dataclass(frozen=True)
class PartitionedTensor:
    """A tensor of `shape` in pieces, which are disjoint and together the whole.

    Raises DropError `bundle-invalid` for a dtype that TensorFlow cannot join and for pieces that do not make the whole. TensorFlow joins them when it restores; for the dtypes it cannot join, write the whole tensor.
    """

    dtype: DType
    shape: tuple[int, ...]
    parts: Sequence[tuple[TensorSlice, Tensor]]

    def __post_init__(self) -> None:
        if not self.dtype.sliceable:
            raise DropError("bundle-invalid", f"TensorFlow cannot join slices of dtype {self.dtype.name!r}")
        for part, tensor in self.parts:
            if tensor.dtype is not self.dtype:
                raise DropError("bundle-invalid", f"a slice has dtype {tensor.dtype}, the whole has {self.dtype}")
            if part.shape(self.shape) != tensor.shape:
                raise DropError(
                    "bundle-invalid", f"slice {str(part)!r} of {self.shape} holds a tensor of {tensor.shape}"
                )
        if not self.parts:
            raise DropError("bundle-invalid", "a partitioned tensor has no slices")
        check_partition(self.shape, [part for part, _ in self.parts])


def check_partition(shape: Sequence[int], slices: Sequence[TensorSlice]) -> list[Box]:
    """The boxes of `slices`, which must be disjoint and fill `shape`; DropError `bundle-invalid` otherwise."""
    boxes = [part.box(shape) for part in slices]
    covered = sum(prod(length for _, length in box) for box in boxes)
    if covered != prod(shape):
        raise DropError("bundle-invalid", f"slices of {covered} elements do not fill the shape {tuple(shape)}")
    # sorted along one dimension, a box can only meet those that begin before it ends; best along the one that is cut most
    axis = max(range(len(shape)), key=lambda axis: len({box[axis][0] for box in boxes}), default=0)
    ordered = sorted(boxes, key=lambda box: box[axis : axis + 1])
    for index, box in enumerate(ordered):
        for later in range(index + 1, len(ordered)):
            other = ordered[later]
            if box and other[axis][0] >= sum(box[axis]):
                break
            if intersection(box, other) is not None:
                raise DropError("bundle-invalid", f"two slices of the shape {tuple(shape)} overlap")
    return boxes


def intersection(box: Box, other: Box) -> Box | None:
    """What two boxes of the same rank have in common; None where that is nothing."""
    common = []
    for (start, length), (other_start, other_length) in zip(box, other, strict=True):
        begin = max(start, other_start)
        size = min(start + length, other_start + other_length) - begin
        if size <= 0:
            return None
        common.append((begin, size))
    return tuple(common)


def slice_key(name: bytes, part: TensorSlice) -> bytes:
    """The key of a piece of the tensor `name`. It begins with NUL, so that it meets no tensor's name."""
    coded = [ordered_number(0), ordered_string(name), ordered_number(len(part.extents))]
    for start, length in part.extents:
        coded += (ordered_signed(start), ordered_signed(length))
    return b"".join(coded)
