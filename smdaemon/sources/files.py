"""Regular files, read by position: what every file format stands on.

Values are read with preadv into one reused buffer instead of through a memory map. Measured on 1 GiB in the page cache with
the checksum and the write that follow: a map costs a third of the speed on tmpfs (page faults; populating ahead is no better)
and gains nothing on ext4. And a file that is cut short under a map kills the process with SIGBUS, where a read comes back short.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smdaemon.confinement import open_regular, status_of
from smdaemon.errors import DropError, SmdaemonError, fault
from smdaemon.sources.base import Identity

READ_BYTES = 1 << 20
"""One read: it stays in the second-level cache until it is written. Larger reads measured no faster."""


class SourceFile:
    """One regular file of a source, open until `close`.

    With `transient` it is opened anew for each reading, so that a source of many files holds few descriptors; a file that
    was replaced in between is reported. Several threads may read at once. `follow` says whether `path` may be a symbolic link.
    """

    def __init__(self, path: Path, *, follow: bool = True, transient: bool = False) -> None:
        self.path = path
        self._follow = follow
        descriptor = _open_regular(path, follow=follow)
        self.identity = Identity.of(os.fstat(descriptor))
        self._descriptor: int | None = descriptor
        if transient:
            self.close()

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self.identity.size

    def close(self) -> None:
        """Release the descriptor; a transient file can still be read."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self, offset: int, nbytes: int) -> bytes:
        """Exactly `nbytes` from `offset`; DropError `source-truncated` where the file ends before."""
        if self._descriptor is not None:  # without the context manager: this is done for each of many small tensors
            return self._read(self._descriptor, offset, nbytes)
        with self._opened() as descriptor:
            return self._read(descriptor, offset, nbytes)

    def chunks(self, offset: int, nbytes: int, unit: int = 1) -> Iterator[memoryview]:
        """`nbytes` from `offset` in chunks of at most READ_BYTES, each a multiple of `unit` bytes; the buffer is reused."""
        if nbytes <= READ_BYTES:
            if nbytes:
                yield memoryview(self.read(offset, nbytes))
            return
        step = max(READ_BYTES // unit, 1) * unit
        buffer = memoryview(bytearray(step))
        with self._opened() as descriptor:
            for start in range(offset, offset + nbytes, step):
                part = buffer[: min(step, offset + nbytes - start)]
                self._fill(descriptor, start, part)
                yield part

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        with self._opened() as descriptor:
            self._fill(descriptor, offset, buffer)

    def check_unchanged(self) -> None:
        """DropError `source-changed` unless the path still names the file that was opened, untouched."""
        try:
            now = Identity.of(stat_of(self.path, follow=self._follow))
        except DropError:
            raise DropError("source-changed", f"{str(self.path)!r} was removed while it was read") from None
        if now != self.identity:
            raise _changed(self.path, self.identity, now)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        if self._descriptor is not None:
            yield self._descriptor
            return
        descriptor = _open_regular(self.path, follow=self._follow)
        try:
            now = Identity.of(os.fstat(descriptor))
            if now != self.identity:
                raise _changed(self.path, self.identity, now)
            yield descriptor
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, offset: int, nbytes: int) -> bytes:
        data = b""
        while len(data) < nbytes:
            try:
                part = os.pread(descriptor, nbytes - len(data), offset + len(data))
            except OSError as error:
                raise source_fault(error, self.path) from error
            if not part:
                raise self._cut_short(offset + nbytes, offset + len(data))
            data = data + part if data else part
        return data

    def _fill(self, descriptor: int, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise source_fault(error, self.path) from error
            if count == 0:
                raise self._cut_short(offset + len(buffer), offset + done)
            done += count

    def _cut_short(self, wanted: int, end: int) -> DropError:
        if end < self.size:  # it was longer when it was opened: someone cut it under us
            return DropError(
                "source-changed", f"{str(self.path)!r} shrank from {self.size} to {end} bytes while it was read"
            )
        return DropError(
            "source-truncated", f"{str(self.path)!r} ends at byte {end}, but its content reaches to {wanted}"
        )


def read_whole(path: Path) -> bytes:
    """The content of a regular file; DropError or EnvironmentFault where it cannot be read."""
    file = SourceFile(path)
    try:
        return file.read(0, file.size)
    finally:
        file.close()


def stat_of(path: Path, *, follow: bool = True) -> os.stat_result:
    """The status of a path of the source; DropError or EnvironmentFault where it has none."""
    try:
        return status_of(path, follow=follow)
    except OSError as error:
        raise source_fault(error, path) from error
    except ValueError:
        raise DropError("source-missing", f"{str(path)!r} is not a path: it holds NUL") from None


def source_fault(error: OSError, path: Path) -> SmdaemonError:
    """What a refused operation on a file of the source means, by who must act."""
    if error.errno in _OF_THE_DROP:
        code, text = _OF_THE_DROP[error.errno]
        return DropError(code, f"{str(path)!r} {text}")
    return fault(error, "reading" if error.filename else f"reading {str(path)!r}")


_OF_THE_DROP = {
    errno.ENOENT: ("source-missing", "does not exist"),
    errno.ENOTDIR: ("source-missing", "does not exist"),
    errno.ENAMETOOLONG: ("source-missing", "is too long a path to exist"),
    errno.ELOOP: ("source-not-regular", "is a symbolic link inside the source, or one that leads to itself"),
    errno.ENXIO: ("source-not-regular", "is not a regular file"),
    errno.EISDIR: ("source-not-regular", "is not a regular file"),
    errno.ESTALE: ("source-changed", "was replaced while it was read"),
}


def _open_regular(path: Path, *, follow: bool) -> int:
    """A descriptor of a regular file; never waits, whatever stands at the path."""
    try:
        return open_regular(path, follow=follow)
    except OSError as error:
        raise source_fault(error, path) from error
    except ValueError:
        raise DropError("source-missing", f"{str(path)!r} is not a path: it holds NUL") from None


def _changed(path: Path, was: Identity, now: Identity) -> DropError:
    return DropError(
        "source-changed", f"{str(path)!r} was {was} (inode-size-mtime) when it was opened and is {now} now"
    )
