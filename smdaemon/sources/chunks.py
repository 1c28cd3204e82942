"""How an array that is cut into chunks is read in row-major order: pure geometry.

A *box* is a part of an array, one slice an axis. A *band* is the smallest box of whole chunks that runs through the array in
row-major order without coming back to a chunk: some places of the first axes, up to the first along which a chunk is longer than
one, and everything of the axes behind it.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

Box = tuple[slice, ...]


class Grid(NamedTuple):
    """An array's shape, that of its chunks (those at the far ends reach over it), and the bytes of an element."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    itemsize: int

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk; decoding takes all of them, also of one at the far end."""
        return prod(self.chunk) * self.itemsize

    @property
    def band_chunks(self) -> int:
        """Chunks of a band."""
        behind = slice(self._axis + 1, None)
        return prod(-(-length // size) for length, size in zip(self.shape[behind], self.chunk[behind], strict=True))

    def bands(self) -> Iterator[Box]:
        """The bands in row-major order."""
        behind = tuple(slice(0, length) for length in self.shape[self._axis + 1 :])
        axes = slice(0, self._axis + 1)
        for box in _cut(tuple(slice(0, length) for length in self.shape[axes]), self.chunk[axes]):
            yield (*box, *behind)

    def chunks_in(self, band: Box) -> Iterator[Box]:
        """The chunks of a band, each cut at the array's ends."""
        return _cut(band, self.chunk)

    @property
    def _axis(self) -> int:
        last = max(len(self.chunk) - 1, 0)
        return next((axis for axis, size in enumerate(self.chunk) if size > 1), last)


def boxes(shape: tuple[int, ...], elements: int) -> Iterator[Box]:
    """Boxes of at most so many elements that follow each other in row-major order and make up the array."""
    axis = 0
    while axis + 1 < len(shape) and prod(shape[axis + 1 :]) > elements:
        axis += 1
    step = max(elements // max(prod(shape[axis + 1 :]), 1), 1)
    steps = (*(1 for _ in shape[:axis]), step, *(max(length, 1) for length in shape[axis + 1 :]))[: len(shape)]
    return _cut(tuple(slice(0, length) for length in shape), steps)


def _cut(box: Box, steps: tuple[int, ...]) -> Iterator[Box]:
    """A box cut along each axis; the order is row-major. Lazily: an array may claim any number of chunks."""
    if not box:
        yield ()
        return
    part, step = box[0], steps[0]
    for start in range(part.start, part.stop, step):
        for behind in _cut(box[1:], steps[1:]):
            yield (slice(start, min(start + step, part.stop)), *behind)
