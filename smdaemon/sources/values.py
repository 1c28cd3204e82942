"""Stored values as tensors: numbers in either byte order, and the fixed-width strings of numpy."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from smdaemon.errors import DropError
from smdaemon.sources.extents import Extent
from smdaemon.tensorbundle.dtypes import STRING, DType
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, Buffer

_WORDS = {2: "H", 4: "I", 8: "Q"}  # array typecodes by bytes; so they are on every Linux


@dataclass(frozen=True, slots=True)
class NumberTensor:
    """Numbers in row-major order. `swap_bytes` is the width of the big-endian words to turn, 0 for little-endian values.

    A complex number is two words.
    """

    dtype: DType
    shape: tuple[int, ...]
    extent: Extent
    swap_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return self.extent.nbytes

    @property
    def working_bytes(self) -> int:
        """Host memory that reading it takes beside its buffers."""
        return self.extent.working_bytes

    def buffers(self) -> Iterator[Buffer]:
        """The value, little-endian; each buffer is overwritten by the next."""
        chunks = self.extent.chunks(self.dtype.itemsize)
        return chunks if self.swap_bytes < 2 else map(self._swapped, chunks)

    def _swapped(self, chunk: memoryview) -> memoryview:
        words = array(_WORDS[self.swap_bytes])
        words.frombytes(chunk)
        words.byteswap()
        return memoryview(words).cast("B")


@dataclass(frozen=True)
class TextTensor:
    """Strings of fixed width, as numpy keeps them: padded with NUL, which is not part of the string.

    `encoding` is None for bytes, which stay as they are, or the UTF-32 of that byte order, which becomes UTF-8.
    """

    name: str
    shape: tuple[int, ...]
    extent: Extent
    width_bytes: int
    encoding: str | None

    dtype = STRING

    def __post_init__(self) -> None:
        if self.width_bytes > CHUNK_BYTES:
            raise DropError(
                "dtype-unsupported",
                f"the strings of {self.name!r} take {self.width_bytes} bytes each, more than the {CHUNK_BYTES} of a buffer",
            )

    @property
    def nbytes(self) -> int:
        """The sum of the elements' lengths; reads the whole value."""
        return sum(len(element) for element in self.buffers())

    @property
    def working_bytes(self) -> int:
        """Host memory that reading it takes beside its buffers."""
        return self.extent.working_bytes

    def buffers(self) -> Iterator[Buffer]:
        """One buffer an element."""
        if self.width_bytes == 0:
            count = 1
            for dimension in self.shape:
                count *= dimension
            yield from (b"" for _ in range(count))
            return
        for chunk in self.extent.chunks(self.width_bytes):
            for start in range(0, len(chunk), self.width_bytes):
                yield self._element(bytes(chunk[start : start + self.width_bytes]))

    def _element(self, raw: bytes) -> bytes:
        if self.encoding is None:
            return raw.rstrip(b"\0")
        try:
            return raw.decode(self.encoding).rstrip("\0").encode()
        except UnicodeError as error:
            raise DropError("source-corrupt", f"{self.name!r} holds a string that is not Unicode: {error}") from error
