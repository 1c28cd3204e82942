"""One daemon a state directory: a lock that the kernel drops when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smdaemon.durable import lasting_directory
from smdaemon.errors import ConfigError, fault
from smdaemon.paths import exists


@contextmanager
def state_directory(path: Path) -> Iterator[Path]:
    """The state directory, made where it is missing, and held by this process until the end of the block.

    Raises ConfigError `state-dir-locked`, naming the holder's process id, where another daemon holds it.
    """
    try:
        if not exists(path / "lock"):  # the first start, or one before it that did not come to its end
            lasting_directory(path, 0o750)
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
        except OSError as error:
            raise fault(error, "locking the state directory") from error
        _sign(handle)
        yield path
    finally:
        os.close(handle)  # the lock goes with the last handle; the file stays, so that no one locks a deleted one


def _sign(handle: int) -> None:
    """Put our process id into the lock file, for who is refused. The lock holds without it: a full disk does not matter here."""
    with suppress(OSError):
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
