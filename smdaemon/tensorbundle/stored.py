"""What lies in a data file: the open file, and a tensor in it.

Data files are read, not mapped: a file that is cut short meanwhile is an error, not the end of the process.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from smdaemon.confinement import open_regular
from smdaemon.errors import DropError
from smdaemon.tensorbundle.checksum import crc32c, mask
from smdaemon.tensorbundle.coding import corrupt
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.strings import StringElements
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, Buffer


def open_sized(path: Path) -> tuple[int, int]:
    """Descriptor and size in bytes of a regular file, opened to read; what is no such file is refused without waiting for it."""
    try:
        descriptor = open_regular(path)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise corrupt(f"{os.fspath(path)!r} is not a file") from error
        raise
    return descriptor, os.fstat(descriptor).st_size


class Shard:
    """An open data file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor, self.size = open_sized(path)
        except FileNotFoundError:
            raise DropError("bundle-missing-shard", f"there is no data file {os.fspath(path)!r}") from None

    def read_into(self, buffer: bytearray | memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on; DropError `source-changed` where the file has become shorter."""
        view = memoryview(buffer)
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise DropError("source-changed", f"{os.fspath(self.path)!r} became shorter while it was read")
            done += count

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class DirectShard(Shard):
    """A data file that is read past the page cache, in order: what is found is what the disk has, and no memory is taken for it.

    Where the page cache would have to grow, reading through it takes many times the processor's time. A file system that takes no
    direct reads is read as it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self._window = mmap.mmap(-1, CHUNK_BYTES)  # its memory begins at a page, as a direct read wants it
        self._start = -1
        self._filled = 0

    def read_into(self, buffer: bytearray | memoryview, offset: int) -> None:
        """As `Shard.read_into`; from one window of the file after the other."""
        view = memoryview(buffer)
        while view:
            start = offset - offset % CHUNK_BYTES
            if start != self._start:
                self._fill(start)
            found = memoryview(self._window)[offset - start : self._filled][: len(view)]
            if not found:
                raise DropError("source-changed", f"{os.fspath(self.path)!r} became shorter while it was read")
            view[: len(found)] = found
            view, offset = view[len(found) :], offset + len(found)

    def _fill(self, start: int) -> None:
        """Read the window that begins at `start`; a file's end, or a short read of a whole number of blocks, ends it before."""
        self._start, self._filled = start, 0
        while self._filled < CHUNK_BYTES:
            count = os.preadv(self._descriptor, [memoryview(self._window)[self._filled :]], start + self._filled)
            self._filled += count
            if count % mmap.PAGESIZE or not count:
                break


class StoredTensor:
    """A tensor in a bundle, as a Tensor. Its checksum is compared when the last buffer has been read."""

    def __init__(self, entry: BundleEntry, shard: Shard, name: str) -> None:
        self.dtype = entry.dtype
        self.shape = entry.shape
        self.entry = entry
        self._shard = shard
        self._name = name

    @property
    def nbytes(self) -> int:
        """Bytes of the value; for strings their lengths are read."""
        if self.dtype is STRING:
            with self._named():
                return sum(self.strings().lengths)
        return self.entry.size

    def buffers(self) -> Iterator[Buffer]:
        """The value; each buffer is overwritten by the next. DropError `bundle-corrupt` for a wrong checksum."""
        if self.dtype is STRING:
            with self._named():
                yield from self.strings()
            return
        entry = self.entry
        chunk = memoryview(bytearray(min(CHUNK_BYTES, entry.size)))
        running = position = 0
        while position < entry.size:
            view = chunk[: entry.size - position]
            self._shard.read_into(view, entry.offset + position)
            running = crc32c(view, running)
            position += len(view)
            yield view
        self._compare(running)

    def fill(self, buffer: memoryview) -> None:
        """Fill `buffer`, of `nbytes`, with the value of a tensor that is no string; DropError `bundle-corrupt` for a wrong checksum."""
        running = 0
        for position in range(0, len(buffer), CHUNK_BYTES):
            chunk = buffer[position : position + CHUNK_BYTES]
            self._shard.read_into(chunk, self.entry.offset + position)
            running = crc32c(chunk, running)
        self._compare(running)

    def _compare(self, checksum: int) -> None:
        if mask(checksum) != self.entry.crc:
            raise corrupt(f"the checksum of tensor {self._name!r} does not fit its content")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Put the tensor's name into what the block raises."""
        try:
            yield
        except DropError as error:
            raise DropError(error.code, f"tensor {self._name!r}: {error}") from error

    def strings(self) -> StringElements:
        """The elements of a string tensor."""
        entry = self.entry
        return StringElements(self._read, entry.size, prod(entry.shape), entry.crc)

    def _read(self, position: int, count: int) -> Buffer:
        buffer = bytearray(count)
        self._shard.read_into(buffer, self.entry.offset + position)
        return buffer

    def read_into(self, buffer: bytearray | memoryview, position: int) -> None:
        """Fill `buffer` with the bytes at `position` of the value; nothing is checked but their presence."""
        self._shard.read_into(buffer, self.entry.offset + position)
