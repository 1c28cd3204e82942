"""Room on the file systems that versions are published to: known before an export begins, so that none begins that cannot end."""

import os
from pathlib import Path
from typing import NamedTuple

from smdaemon.errors import EnvironmentFault, fault


class Room(NamedTuple):
    """Bytes that an unprivileged user can still write, and the size of the file system; both 0 where it does not say."""

    free: int
    size: int


def room_of(path: Path) -> Room:
    """The room where `path` lies, or would: its nearest parent that exists counts. EnvironmentFault where that cannot be told."""
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
        found = os.statvfs(path)
    except OSError as error:
        raise fault(error, "looking for room") from error
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def shortage(path: Path, room: Room, nbytes: int, min_free: int) -> EnvironmentFault | None:
    """Fault `disk-low`, which is tried again, where `nbytes` more would leave less than `min_free` of `room`; else None.

    A file system that reports no size at all (some network mounts do) is not held to it.
    """
    if not room.size or room.free - nbytes >= min_free:
        return None
    return EnvironmentFault(
        "disk-low",
        f"{str(path)!r} has {room.free} bytes left; {nbytes} are to be written, and {min_free} are to stay free",
        retryable=True,
    )


def check_room(path: Path, nbytes: int, min_free: int) -> None:
    """Raises `shortage`, where there is one."""
    short = shortage(path, room_of(path), nbytes, min_free)
    if short is not None:
        raise short
