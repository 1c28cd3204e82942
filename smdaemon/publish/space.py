"""Room on the file systems that versions are published to: known before an export begins, so that none begins that cannot end."""

import os
from pathlib import Path

from smdaemon.errors import EnvironmentFault, fault


def free_bytes(path: Path) -> int:
    """Bytes that an unprivileged user can still write where `path` lies, or would: its nearest parent that exists counts.

    EnvironmentFault where the file system does not say.
    """
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
        found = os.statvfs(path)
    except OSError as error:
        raise fault(error, "looking for room") from error
    return found.f_bavail * found.f_frsize


def check_room(path: Path, nbytes: int, min_free: int) -> None:
    """EnvironmentFault `disk-low`, which is tried again, where `nbytes` more would leave less than `min_free`.

    A file system that reports no size at all (some network mounts do) is not held to it.
    """
    free = free_bytes(path)
    if free and free - nbytes < min_free:
        raise EnvironmentFault(
            "disk-low",
            f"{str(path)!r} has {free} bytes left; {nbytes} are to be written, and {min_free} are to stay free",
            retryable=True,
        )
