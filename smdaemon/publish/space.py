"""Room on the file systems that versions are published to: known before an export begins, so that none begins that cannot end."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from smdaemon.errors import EnvironmentFault, fault


class Room(NamedTuple):
    """Bytes that an unprivileged user can still write, and the size of the file system; both 0 where it does not say.

    `device` tells one file system from another.
    """

    free: int
    size: int
    device: int = 0


def room_of(path: Path) -> Room:
    """The room where `path` lies, or would: its nearest parent that exists counts. EnvironmentFault where that cannot be told."""
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
        device, found = path.stat().st_dev, os.statvfs(path)
    except OSError as error:
        raise fault(error, "looking for room") from error
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, device)


def shortage(path: Path, room: Room, nbytes: int, min_free: int, promised: int = 0) -> EnvironmentFault | None:
    """Fault `disk-low`, which is tried again, where `nbytes` more would leave less than `min_free` of `room`; else None.

    `promised` are bytes that others are still to write there.
    A file system that reports no size at all (some network mounts do) is not held to it.
    """
    if not room.size or room.free - promised - nbytes >= min_free:
        return None
    others = f", {promised} more by exports under way" if promised else ""
    return EnvironmentFault(
        "disk-low",
        f"{str(path)!r} has {room.free} bytes left; {nbytes} are to be written{others}, and {min_free} are to stay free",
        retryable=True,
    )


class Promises:
    """What exports under way are still to write, so that together they leave what is to stay free. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # by who made it: the file system, the bytes in all, and how many of them are written by now
        self._made: dict[int, tuple[int, int, Callable[[], int]]] = {}

    def make(self, owner: int, path: Path, nbytes: int, min_free: int, written: Callable[[], int]) -> None:
        """Promise to write `nbytes` where `path` lies, until `release`; raises `shortage`, where there is one."""
        room = room_of(path)  # without the lock: it may hang
        with self._lock:
            others = [made for other, made in self._made.items() if other != owner and made[0] == room.device]
            promised = sum(max(total - done(), 0) for _, total, done in others)
            short = shortage(path, room, nbytes, min_free, promised)
            if short is not None:
                raise short
            self._made[owner] = room.device, nbytes, written

    def release(self, owner: int) -> None:
        """All is written, or none of it will be; nothing happens where nothing was promised."""
        with self._lock:
            self._made.pop(owner, None)
