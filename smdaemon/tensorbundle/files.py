"""The files of a bundle: their names, and how one is written in large pieces and made durable."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from smdaemon.tensorbundle.checksum import crc32c
from smdaemon.tensorbundle.tensors import Buffer

# Buffers up to this size are gathered: for them a call to the system costs more than a copy.
_GATHER_BYTES = 64 << 10
# What is summed and written at once: so small that the write finds it in the cache.
_PORTION_BYTES = 1 << 20
# After so many bytes the disk is set to work, so that it writes while we do.
_WRITEBACK_BYTES = 32 << 20
# Direct writes begin and end at these, in the file as in memory; disks with larger blocks are not met any more.
_DIRECT_ALIGNMENT = 4096
# One direct write: the larger the better, but progress should be told.
_DIRECT_BYTES = 32 << 20

Result = TypeVar("Result")


def index_path(prefix: str | Path) -> Path:
    """The index of the bundle of that prefix."""
    return Path(f"{os.fspath(prefix)}.index")


def data_path(prefix: str | Path, shard: int, shards: int) -> Path:
    """A data file of the bundle of that prefix."""
    return Path(f"{os.fspath(prefix)}.data-{shard:05d}-of-{shards:05d}")


class Progress:
    """Reports what is written, and after the first failure refuses everything further, in every thread."""

    def __init__(self, on_bytes: Callable[[int], None] | None) -> None:
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def add(self, count: int) -> None:
        """Report `count` bytes; raises the first failure of any thread."""
        if self.failure is not None:
            raise self.failure
        if self._on_bytes is not None:
            self._on_bytes(count)

    def fail(self, error: BaseException) -> BaseException:
        """Make `error` the failure if there is none yet; the failure that holds."""
        with self._lock:
            if self.failure is None:
                self.failure = error
            return self.failure

    def guard(self, work: Callable[..., Result], *arguments: object) -> Result:
        """The result of `work`; what it raises stops the other threads too."""
        try:
            return work(*arguments)
        except BaseException as error:
            self.fail(error)
            raise


class OutputFile:
    """A new file that is written from its start to its end. `size` counts what was appended.

    Raises FileExistsError where the file exists already, and any OSError as it comes.
    """

    def __init__(self, path: Path, progress: Progress, *, sync: bool) -> None:
        self.path = path
        self.size = 0
        self._progress = progress
        self._sync = sync
        self._pending = bytearray()
        self._written = self._started = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def append(self, buffer: Buffer, crc: int = 0) -> int:
        """Write `buffer`, which may be reused afterwards; the checksum `crc` carried on over it."""
        count = len(buffer)
        self.size += count
        if count < _GATHER_BYTES:
            self._pending += buffer
            if len(self._pending) >= _PORTION_BYTES:
                self._flush()
            return int(crc32c(buffer, crc))
        if self._pending:
            self._flush()
        view = memoryview(buffer)
        for start in range(0, count, _PORTION_BYTES):
            portion = view[start : start + _PORTION_BYTES]
            crc = crc32c(portion, crc)
            self._write(portion)
        return crc

    def append_image(self, buffer: memoryview) -> None:
        """Write `buffer`, which begins at a page of memory, as the first bytes of the file: past the page cache where that can be done."""
        assert not self.size, "an image is the first thing in its file"
        self.size = len(buffer)
        whole = len(buffer) - len(buffer) % _DIRECT_ALIGNMENT
        done = self._write_direct(buffer[:whole]) if whole else 0
        for start in range(done, len(buffer), _PORTION_BYTES):
            self._write(buffer[start : start + _PORTION_BYTES])

    def _write_direct(self, buffer: memoryview) -> int:
        """Write as much of `buffer` as the file system takes with O_DIRECT; how much that was, from its start."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        done = 0
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
            while done < len(buffer):
                count = os.write(self._descriptor, buffer[done : done + _DIRECT_BYTES])
                done += count
                self._progress.add(count)
                if count % _DIRECT_ALIGNMENT:
                    break
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system, or this place of it, takes no direct writes
                raise
        finally:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)
        self._written += done
        self._started = self._written
        return done

    def _flush(self) -> None:
        # a new one each time: the bytes may still be looked at through a view when a write fails
        pending, self._pending = self._pending, bytearray()
        self._write(pending)

    def _write(self, buffer: bytearray | memoryview) -> None:
        count = len(buffer)
        written = os.write(self._descriptor, buffer)
        while written < count:
            written += os.write(self._descriptor, memoryview(buffer)[written:])
        self._written += count
        if self._sync and self._written - self._started >= _WRITEBACK_BYTES:
            self._start_writeback()
        self._progress.add(count)

    def _start_writeback(self) -> None:
        # For pages that are still dirty this advice starts their way to the disk and keeps them in memory. With it a file and
        # its sync take little more than half the time; allocating the file first gains less, and costs where it is emulated.
        with suppress(OSError):  # advice only: a file system need not take it
            os.posix_fadvise(self._descriptor, self._started, self._written - self._started, os.POSIX_FADV_DONTNEED)
        self._started = self._written

    def finish(self, *, read_back: bool = False) -> bytes:
        """Write what is pending, sync, check the length, close; with `read_back` the content of the file."""
        if self._pending:
            self._flush()
        if self._sync:
            os.fdatasync(self._descriptor)
        found = os.fstat(self._descriptor).st_size
        if found != self.size:
            message = f"the file has {found} bytes after {self.size} were written"
            raise OSError(errno.EIO, message, os.fspath(self.path))
        content = _read(self._descriptor, found) if read_back else b""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        return content

    def discard(self) -> None:
        """Close and remove the file, which is ours: it was made exclusively."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self.path.unlink(missing_ok=True)


def _read(descriptor: int, size: int) -> bytes:
    pieces = []
    position = 0
    while position < size and (piece := os.pread(descriptor, size - position, position)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)
