"""One daemon a state directory: a lock that the kernel drops when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smdaemon.errors import ConfigError, fault


@contextmanager
def state_directory(path: Path) -> Iterator[Path]:
    """The state directory, made where it is missing, and held by this process until the end of the block.

    Raises ConfigError `state-dir-locked`, naming the holder's process id, where another daemon holds it.
    """
    try:
        path.mkdir(mode=0o750, exist_ok=True)
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise fault(error, "state directory") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            message = f"state directory {str(path)!r} is in use by process {holder}"
            raise ConfigError("state-dir-locked", message) from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield path
    finally:
        os.close(handle)  # the lock goes with the last handle; the file stays, so that no one locks a deleted one
