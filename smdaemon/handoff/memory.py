"""Segments: shared memory that the daemon makes, seals and fills with pages, and that the trainer maps.

A memfd has no name, so nothing is left behind, and it is not charged to /dev/shm. It is sealed so that it cannot be cut short under a
reader. Its pages are there before it is leased: the first copy into fresh pages costs ten times the later ones, and a machine
that is out of memory says so here rather than by a signal in the middle of a copy.
"""

import fcntl
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass, field

from smdaemon.errors import DropError, EnvironmentFault, fault
from smdaemon.handoff.available import available_bytes

PAGE_BYTES = mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_PLAN_SEALS = _SEALS | fcntl.F_SEAL_WRITE
_MADV_POPULATE_WRITE = 23
"""Since Linux 5.14; Python has no name for it yet."""

_POPULATE_BYTES = 256 << 20
"""So much is populated at once: between two, whoever waits can be told to stop."""


@dataclass(eq=False)
class Segment:
    """A segment: its descriptor, how many bytes it has, and its map in this process while it is wanted."""

    fd: int
    nbytes: int
    _map: mmap.mmap | None = field(default=None, repr=False)

    @property
    def buffer(self) -> memoryview:
        """The segment's bytes, mapped for reading and writing at first use."""
        if self._map is None:
            self._map = mmap.mmap(self.fd, self.nbytes)
        return memoryview(self._map)

    def populate(self) -> None:
        """Have every page there, and in this process' tables; EnvironmentFault where there is no memory for them."""
        try:
            view = self.buffer
        except OSError as error:
            raise fault(error, "mapping a segment") from error
        assert self._map is not None
        for start in range(0, self.nbytes, _POPULATE_BYTES):
            length = min(_POPULATE_BYTES, self.nbytes - start)
            try:
                self._map.madvise(_MADV_POPULATE_WRITE, start, length)
            except OSError as error:
                if error.errno != 22:  # an older kernel: touch them by hand
                    raise fault(error, "filling a segment with memory") from error
                view[start : start + length : PAGE_BYTES] = bytes(len(range(0, length, PAGE_BYTES)))

    def close(self) -> None:
        """Give the memory back, as far as this process holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.unmap()

    def unmap(self) -> None:
        """Take the bytes out of this process' map; views of the buffer keep it until they go."""
        if self._map is not None:
            mapped, self._map = self._map, None
            with suppress(BufferError):  # somebody has a view: the map goes with it
                mapped.close()


def make_segment(nbytes: int) -> Segment:
    """A sealed segment of at least `nbytes`, whole pages, whose memory is there. Slow: call it in a thread.

    Raises EnvironmentFault `handoff-memory` where the machine has not so much memory left.
    """
    size = max(PAGE_BYTES, nbytes + -nbytes % PAGE_BYTES)
    free = available_bytes()
    if size > free:
        raise EnvironmentFault(
            "handoff-memory",
            f"a segment of {size} bytes is asked for, machine and container have {free} left",
            retryable=True,
        )
    try:
        fd = os.memfd_create("smdaemon-handoff", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise fault(error, "making a segment") from error
    segment = Segment(fd, size)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        segment.populate()
    except OSError as error:
        segment.close()
        raise fault(error, "making a segment") from error
    except BaseException:
        segment.close()
        raise
    return segment


def adopted_segment(fd: int, nbytes: int) -> Segment:
    """A segment that came over the socket; it owns `fd`. DropError `handoff-protocol` unless it is sealed and has `nbytes`."""
    try:
        _check_sealed(fd, _SEALS)
        found = os.fstat(fd).st_size
        if not 0 < nbytes <= found or found % PAGE_BYTES:
            raise DropError("handoff-protocol", f"a segment has {found} bytes and is said to have {nbytes}")
    except BaseException:
        os.close(fd)
        raise
    return Segment(fd, found)


def make_plan(content: bytes) -> int:
    """The descriptor of a memory that holds `content` and that nobody can change any more."""
    fd = os.memfd_create("smdaemon-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _PLAN_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_plan(fd: int, limit: int) -> bytes:
    """What a plan says; DropError `handoff-protocol` where it could still be changed or has more than `limit` bytes."""
    _check_sealed(fd, _PLAN_SEALS)
    size = os.fstat(fd).st_size
    if size > limit:
        raise DropError("handoff-protocol", f"a plan has {size} bytes, over {limit}")
    content = b""
    while len(content) < size and (part := os.pread(fd, size - len(content), len(content))):
        content += part
    return content


def _check_sealed(fd: int, wanted: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise DropError("handoff-protocol", f"a descriptor is not that of a memory: {error.strerror}") from error
    if seals & wanted != wanted:
        raise DropError("handoff-protocol", "a memory is not sealed: it could be cut short under its reader")
