"""Where the bytes of a tensor's parts lie among the bytes of the whole. Knows no library and no memory: only numbers."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple


class Rows(NamedTuple):
    """`rows` runs of `width` bytes; from one to the next it is `target_pitch` and `source_pitch` bytes. Offsets or addresses."""

    target: int
    target_pitch: int
    source: int
    source_pitch: int
    width: int
    rows: int

    def at(self, target: int, source: int) -> "Rows":
        """The same, that much further."""
        return self._replace(target=self.target + target, source=self.source + source)


def rows_of(shape: Sequence[int], index: Sequence[slice], itemsize: int) -> Iterator[Rows]:
    """The copies that put a row-major part at its place in a row-major tensor of `shape`; as few as there can be.

    `index` has a slice of step 1 for each dimension; with `start` or `stop` None for the tensor's own bounds.
    """
    starts = [part.indices(size)[0] for part, size in zip(index, shape, strict=True)]
    sizes = [len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True)]
    if not math.prod(sizes):
        return
    strides = [math.prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape))]
    own_strides = [math.prod(sizes[axis + 1 :]) * itemsize for axis in range(len(shape))]
    cut = [axis for axis, size in enumerate(sizes) if size != shape[axis]]
    # what lies behind the last cut dimension is one run, and so is the cut dimension itself; what lies between the last two
    # cut ones repeats at equal distances; before that, each combination is a copy of its own
    run = cut[-1] if cut else 0
    first = cut[-2] if len(cut) > 1 else 0
    width = math.prod(sizes[run:]) * itemsize
    pitch = math.prod(shape[run:]) * itemsize
    origin = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    rows = math.prod(sizes[first:run])
    for where in product(*(range(size) for size in sizes[:first])):
        target = origin + sum(item * stride for item, stride in zip(where, strides, strict=False))
        source = sum(item * stride for item, stride in zip(where, own_strides, strict=False))
        yield Rows(target, pitch, source, width, width, rows)
