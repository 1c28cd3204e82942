"""Runs of bytes inside files, as streams of bounded chunks: plain, deflated, and from column-major to row-major order."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from isal.isal_zlib import crc32  # zlib's own would take half of the time of an export

from smdaemon.errors import DropError, fault
from smdaemon.sources.files import READ_BYTES, SourceFile

if TYPE_CHECKING:
    import numpy as np

BAND_BYTES = 32 << 20
"""What a column-major value may take of host memory while it is put in row-major order."""

_SHORT_COLUMN_BYTES = 16 << 10
"""Columns up to this size are read many at once and picked from: as dear as a read of a part of each."""


class Extent(Protocol):
    """A run of `nbytes` bytes that can be streamed any number of times."""

    @property
    def nbytes(self) -> int:
        """Bytes that `chunks` gives in all."""
        ...

    @property
    def working_bytes(self) -> int:
        """Host memory that `chunks` takes beside the chunk that it gives."""
        ...

    def chunks(self, unit: int) -> Iterator[memoryview]:
        """The bytes in order, in chunks that are multiples of `unit`; a chunk is overwritten by the next."""
        ...


class Checksum:
    """The CRC-32 that a run of bytes must have; `head` was read before the run and belongs to it."""

    def __init__(self, expected: int, head: bytes, what: str) -> None:
        self._expected = expected
        self._start = crc32(head)
        self._what = what

    def checked(self, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        """The chunks; after the last, DropError `source-corrupt` unless the checksum is right."""
        value = self._start
        for chunk in chunks:
            value = crc32(chunk, value)
            yield chunk
        if value != self._expected:
            raise DropError(
                "source-corrupt",
                f"{self._what} has the checksum {value:#010x}, but {self._expected:#010x} was recorded",
            )


class StoredExtent:
    """Bytes that lie in a file as they are."""

    __slots__ = ("_checksum", "_file", "_offset", "nbytes")
    working_bytes = 0

    def __init__(self, file: SourceFile, offset: int, nbytes: int, checksum: Checksum | None = None) -> None:
        self._file = file
        self._offset = offset
        self.nbytes = nbytes
        self._checksum = checksum

    def chunks(self, unit: int) -> Iterator[memoryview]:
        """See `Extent`."""
        chunks = self._file.chunks(self._offset, self.nbytes, unit)
        return chunks if self._checksum is None else self._checksum.checked(chunks)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on."""
        self._file.read_into(self._offset + offset, buffer)


class DeflatedExtent:
    """Bytes behind a raw deflate stream that starts at `offset` and takes `packed_bytes` of the file.

    The first `skip` bytes of what it unpacks to are left out. Memory stays bounded whatever the stream claims or holds.
    """

    working_bytes = 0

    def __init__(
        self,
        file: SourceFile,
        offset: int,
        packed_bytes: int,
        *,
        skip: int,
        nbytes: int,
        checksum: Checksum,
        what: str,
    ) -> None:
        self._file = file
        self._offset = offset
        self._packed_bytes = packed_bytes
        self._skip = skip
        self.nbytes = nbytes
        self._checksum = checksum
        self._what = what

    def chunks(self, unit: int) -> Iterator[memoryview]:
        """See `Extent`."""
        return self._checksum.checked(self._exact(unit))

    def _exact(self, unit: int) -> Iterator[memoryview]:
        packed = self._file.chunks(self._offset, self._packed_bytes)
        reader = _Inflater(packed, self._what)
        reader.read(self._skip)
        step = max(READ_BYTES // unit, 1) * unit
        for start in range(0, self.nbytes, step):
            wanted = min(step, self.nbytes - start)
            data = reader.read(wanted)
            if len(data) != wanted:
                raise DropError(
                    "source-corrupt",
                    f"{self._what} unpacks to {start + len(data)} bytes, but {self.nbytes} were recorded",
                )
            yield memoryview(data)
        if reader.read(1):
            raise DropError(
                "source-corrupt", f"{self._what} unpacks to more than the {self.nbytes} bytes that were recorded"
            )


def inflate_start(packed: Iterator[memoryview], nbytes: int, what: str) -> bytearray:
    """The first `nbytes` of what a raw deflate stream unpacks to; fewer where the stream is shorter or cut."""
    return _Inflater(packed, what).read(nbytes)


class _Inflater:
    """Reads counted bytes out of a raw deflate stream that comes in chunks."""

    def __init__(self, packed: Iterator[memoryview], what: str) -> None:
        self._packed = packed
        self._engine = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        self._what = what

    def read(self, nbytes: int) -> bytearray:
        """Up to `nbytes`; fewer only at the end of the stream."""
        out = bytearray()
        while len(out) < nbytes and not self._engine.eof:
            # what the engine has not taken yet comes first; the tail is a copy, so the reused buffer is free again
            packed = self._engine.unconsumed_tail or next(self._packed, None)
            try:
                part = self._engine.decompress(packed or b"", nbytes - len(out))
            except zlib.error as error:
                raise DropError("source-corrupt", f"{self._what} cannot be unpacked: {error}") from error
            out += part
            if packed is None and not part:
                break
        return out


class RowMajorExtent:
    """A column-major (Fortran-order) value as a row-major stream, band by band with bounded memory.

    A band is a range of one axis with all of the axes after it and one place of the axes before it. It is a range of the
    first axis, unless a single row exceeds BAND_BYTES: then each place of the axes before costs one more pass of the value.
    A value that cannot be read by position (it is deflated) is unpacked first, beyond BAND_BYTES into a temporary file.
    """

    def __init__(self, extent: StoredExtent | DeflatedExtent, shape: tuple[int, ...], itemsize: int) -> None:
        self._extent = extent
        self._shape = shape
        self._itemsize = itemsize
        self.nbytes = extent.nbytes
        unpacked = isinstance(extent, DeflatedExtent)
        self.working_bytes = min(self.nbytes, BAND_BYTES) * (2 if unpacked else 1)

    def chunks(self, unit: int) -> Iterator[memoryview]:
        """See `Extent`; `unit` must be the size of an element."""
        axis = 0
        while axis + 1 < len(self._shape) and prod(self._shape[axis + 1 :]) * self._itemsize > BAND_BYTES:
            axis += 1
        before, length, after = self._shape[:axis], self._shape[axis], self._shape[axis + 1 :]
        count = max(1, BAND_BYTES // (max(prod(before), prod(after)) * self._itemsize))
        step = max(READ_BYTES // unit, 1)
        with ExitStack() as stack:
            read_into = self._random_access(stack)
            for indices in product(*map(range, before)):
                place = sum(index * prod(before[:position]) for position, index in enumerate(indices))
                for first in range(0, length, count):
                    band = self._band(read_into, axis, place, range(first, min(first + count, length)))
                    turned = band.reshape(*reversed(after), -1).transpose()
                    for start in range(0, turned.size, step):
                        yield _bytes_of(turned.flat[start : start + step])

    def _band(
        self, read_into: Callable[[int, memoryview], None], axis: int, place: int, along: range
    ) -> "np.ndarray[Any, Any]":
        """The elements of a band, [columns, along]: a column is what lies together in the file up to the band's axis."""
        import numpy as np

        # numpy moves whole words faster than opaque bytes
        item = f"u{self._itemsize}" if self._itemsize in {1, 2, 4, 8} else f"V{self._itemsize}"
        inner, length, columns = prod(self._shape[:axis]), self._shape[axis], prod(self._shape[axis + 1 :])
        column_bytes = length * inner * self._itemsize
        band = np.empty((columns, len(along)), item)
        if column_bytes <= _SHORT_COLUMN_BYTES:
            block = READ_BYTES // column_bytes or 1
            for column in range(0, columns, block):
                whole = np.empty((min(block, columns - column), length, inner), item)
                read_into(column * column_bytes, _bytes_of(whole))
                band[column : column + block] = whole[:, along.start : along.stop, place]
            return band
        # of a single element along the axis its neighbours, which may be many, are not read
        low, width = (place, 1) if len(along) == 1 else (0, inner)
        part = np.empty((len(along), width), item)
        for column in range(columns):
            read_into(column * column_bytes + (along.start * inner + low) * self._itemsize, _bytes_of(part))
            band[column] = part[:, place - low]
        return band

    def _random_access(self, stack: ExitStack) -> Callable[[int, memoryview], None]:
        """A function that reads any part of the value; its checksum has been compared by then."""
        import tempfile

        chunks = self._extent.chunks(1)
        if isinstance(self._extent, StoredExtent):
            for _ in chunks:
                pass
            return self._extent.read_into
        try:
            spool = tempfile.SpooledTemporaryFile(max_size=BAND_BYTES)  # noqa: SIM115 - the stack closes it
            stack.enter_context(spool)
            for chunk in chunks:
                spool.write(chunk)
        except OSError as error:
            raise fault(error, "unpacking a column-major array into a temporary file") from error

        def read_into(offset: int, buffer: memoryview) -> None:
            spool.seek(offset)
            spool.readinto(buffer)

        return read_into


def _bytes_of(array: "np.ndarray[Any, Any]") -> memoryview:
    return memoryview(array.reshape(-1).view("u1"))  # type: ignore[arg-type]  # numpy arrays are buffers
