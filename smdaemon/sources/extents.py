"""Runs of bytes inside files, as streams of bounded chunks: plain, deflated, and from column-major to row-major order."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import prod
from typing import Protocol

from smdaemon.errors import DropError, fault
from smdaemon.sources.files import READ_BYTES, SourceFile

try:  # ten times zlib's speed, where it is installed
    from isal.isal_zlib import crc32  # type: ignore[import-not-found,unused-ignore]  # not a dependency
except ImportError:
    from zlib import crc32

BAND_BYTES = 32 << 20
"""What a column-major value may take of host memory while it is put in row-major order."""


class Extent(Protocol):
    """A run of `nbytes` bytes that can be streamed any number of times."""

    @property
    def nbytes(self) -> int:
        """Bytes that `chunks` gives in all."""
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

    A band is a range of the first axis: in each column its rows lie together, so every column gives one read. A value that
    cannot be read by position (it is deflated) is unpacked first, beyond BAND_BYTES into an unnamed temporary file.
    """

    def __init__(self, extent: StoredExtent | DeflatedExtent, shape: tuple[int, ...], itemsize: int) -> None:
        self._extent = extent
        self._shape = shape
        self._itemsize = itemsize
        self.nbytes = extent.nbytes

    def chunks(self, unit: int) -> Iterator[memoryview]:
        """See `Extent`; `unit` must be the size of an element."""
        import numpy as np

        item = np.dtype((np.void, self._itemsize))
        rows = self._shape[0]
        columns = prod(self._shape[1:])
        rows_in_band = max(BAND_BYTES // (columns * self._itemsize), 1)
        step = max(READ_BYTES // unit, 1)
        with ExitStack() as stack:
            read_into = self._random_access(stack)
            for first in range(0, rows, rows_in_band):
                count = min(rows_in_band, rows - first)
                band = np.empty((*reversed(self._shape[1:]), count), item)
                view = memoryview(band.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy is a buffer
                run = count * self._itemsize
                if count == rows:
                    read_into(0, view)
                else:
                    for column in range(columns):
                        start = (column * rows + first) * self._itemsize
                        read_into(start, view[column * run : (column + 1) * run])
                turned = band.transpose()
                for start in range(0, band.size, step):
                    yield memoryview(turned.flat[start : start + step].view(np.uint8))  # type: ignore[arg-type]  # as above

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
