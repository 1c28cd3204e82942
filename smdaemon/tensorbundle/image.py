"""Tensors that lie in memory as they are to lie in a data file: written as one stream, past the page cache where that is possible.

A handoff segment is such an image. Written with O_DIRECT from the map it costs a twentieth of the processor time of a write through the
page cache, which would copy every byte once more.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from smdaemon.tensorbundle.dtypes import DType
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, Tensor

_WORTHWHILE = 7 / 8
"""Where less of an image than this is tensors, they are written one by one: what lies between them takes room on the disk."""


class Image(Protocol):
    """Memory that begins at a page: `buffer` is its content as far as it is used, zeros where there is no tensor."""

    @property
    def buffer(self) -> memoryview:
        """The bytes; they stay as they are while anyone has one of the image's tensors."""
        ...

    @property
    def held_bytes(self) -> int:
        """The bytes of all its tensors; what two of them share counts once."""
        ...


class MappedTensor:
    """A tensor that lies at `offset` in `image`, little-endian and row-major."""

    def __init__(self, image: Image, offset: int, dtype: DType, shape: tuple[int, ...], nbytes: int) -> None:
        self.image = image
        self.offset = offset
        self.dtype = dtype
        self.shape = shape
        self.nbytes = nbytes

    def buffers(self) -> Iterator[memoryview]:
        """See `Tensor`."""
        view = self.image.buffer[self.offset : self.offset + self.nbytes]
        for start in range(0, self.nbytes, CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


def common_image(tensors: Sequence[Tensor]) -> Image | None:
    """The image that should be written whole, since all that it holds is asked for; None where there is none."""
    held: dict[int, int] = {}
    images: dict[int, Image] = {}
    seen: set[tuple[int, int]] = set()
    for tensor in tensors:
        if isinstance(tensor, MappedTensor) and tensor.nbytes:  # one without bytes lies where another begins
            key = id(tensor.image)
            images[key] = tensor.image
            if (key, tensor.offset) not in seen:  # tied weights lie at one place
                seen.add((key, tensor.offset))
                held[key] = held.get(key, 0) + tensor.nbytes
    if not held:
        return None
    best = max(held, key=lambda key: held[key])
    image = images[best]
    # a tensor that nobody asked for must not get into the file by the way
    whole = held[best] == image.held_bytes >= _WORTHWHILE * len(image.buffer)
    return image if whole else None
