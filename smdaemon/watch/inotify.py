"""The kernel's file events: inotify through glibc, read when trio says that the descriptor is readable.

Parsing is apart from the descriptor. Record format: inotify(7), `struct inotify_event`.
"""

import contextlib
import ctypes
import errno
import os
import struct
from enum import IntFlag
from typing import NamedTuple, Protocol

import trio


class Mask(IntFlag):
    """The event bits of <sys/inotify.h> that are asked for or answered here."""

    CLOSE_WRITE = 0x00000008
    MOVED_FROM = 0x00000040
    MOVED_TO = 0x00000080
    CREATE = 0x00000100
    DELETE = 0x00000200
    DELETE_SELF = 0x00000400
    MOVE_SELF = 0x00000800
    UNMOUNT = 0x00002000
    Q_OVERFLOW = 0x00004000
    IGNORED = 0x00008000
    ONLYDIR = 0x01000000
    EXCL_UNLINK = 0x04000000
    ISDIR = 0x40000000


# Neither OPEN nor MODIFY: our own reading would then make events, and a slow writer would fill the queue.
# CREATE is needed for directories; there is no way to ask for it without the files.
WATCHED = int(
    Mask.CLOSE_WRITE
    | Mask.MOVED_TO
    | Mask.MOVED_FROM
    | Mask.DELETE
    | Mask.CREATE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
    | Mask.EXCL_UNLINK
)

# One read takes a whole queue of the usual length (16,384 events) with short names.
_READ_BYTES = 1 << 20
# struct inotify_event: int wd; uint32_t mask, cookie, len; then `len` bytes of name, padded with NUL.
_HEADER = struct.Struct("iIII")


class Event(NamedTuple):
    """One event: the watch it came through (-1 for an overflow), its bits, and the name inside the directory."""

    watch: int
    mask: int
    name: str = ""


class Kernel(Protocol):
    """Where events come from: the kernel, or a test."""

    def add(self, directory: str) -> int:
        """Watch a directory; the number of the watch. The same directory gives the same number. OSError if refused."""
        ...

    def remove(self, watch: int) -> None:
        """End a watch; one that has ended already is no error."""
        ...

    async def wait(self) -> None:
        """Until there is something to read."""
        ...

    def read(self) -> list[Event]:
        """What is there now; empty if nothing is."""
        ...

    def close(self) -> None:
        """End every watch."""
        ...


def parse(block: bytes) -> list[Event]:
    """The events of one read: whole records only, which is what the kernel gives."""
    events = []
    at = 0
    while at < len(block):
        watch, mask, _cookie, name_bytes = _HEADER.unpack_from(block, at)
        at += _HEADER.size
        name = os.fsdecode(block[at : at + name_bytes].rstrip(b"\0"))
        at += name_bytes
        events.append(Event(watch, mask, name))
    return events


class Inotify:
    """One inotify instance. `OSError` with EMFILE where the user has no instance left."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # The flags have the values of O_NONBLOCK and O_CLOEXEC by definition: inotify_init1(2).
        self._descriptor = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), None)

    @staticmethod
    def _check(result: int, directory: str | None) -> int:
        if result >= 0:
            return result
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), directory)

    def add(self, directory: str) -> int:
        """Watch a directory; the number of the watch. OSError: ENOSPC at the limit of watches, ENOENT, EACCES, ..."""
        path = ctypes.c_char_p(os.fsencode(directory))
        return self._check(
            self._libc.inotify_add_watch(self._descriptor, path, ctypes.c_uint32(WATCHED)),
            directory,
        )

    def remove(self, watch: int) -> None:
        """End a watch; EINVAL means that the kernel ended it before us."""
        if self._libc.inotify_rm_watch(self._descriptor, watch) < 0:
            number = ctypes.get_errno()
            if number != errno.EINVAL:
                raise OSError(number, os.strerror(number))

    async def wait(self) -> None:
        """Until there is something to read."""
        await trio.lowlevel.wait_readable(self._descriptor)

    def read(self) -> list[Event]:
        """What is there now; empty if nothing is."""
        try:
            return parse(os.read(self._descriptor, _READ_BYTES))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """End every watch."""
        trio.lowlevel.notify_closing(self._descriptor)
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
