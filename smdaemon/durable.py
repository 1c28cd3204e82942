"""Names that appear at once and stay after a power loss: the few acts that every writer of files here ends in.

Each raises OSError as it comes; who calls it knows what was being done.
"""

import ctypes
import errno
import os
import tempfile
from pathlib import Path

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def sync_directory(path: Path) -> None:
    """Have the names in the directory `path` on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lasting_directory(path: Path, mode: int = 0o777) -> None:
    """Have a directory at `path`, and its name on the disk; its parent must be there.

    The parent is synced also where the directory is there: who made it may not have come to that. Where a parent may not be read, a
    directory in it that others made is taken as it is.
    """
    made = not path.is_dir()
    if made:
        path.mkdir(mode)
    try:
        sync_directory(path.parent)
    except PermissionError:
        if made:
            raise


def rename_no_replace(source: Path, target: Path) -> bool:
    """Rename `source` unless `target` exists; whether it was renamed.

    Plain rename() would silently replace an empty directory, hence renameat2; file systems without it get a look first.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        status = libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        number = ctypes.get_errno()
        if status == 0:
            return True
        if number in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), str(target))
    if os.path.lexists(target):
        return False
    source.rename(target)
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`: the old one or the new one is there at any instant, power loss included."""
    # not the file's own name and more: that may be as long as a name can be
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(scratch).rename(path)
    except BaseException:
        Path(scratch).unlink()
        raise
    sync_directory(path.parent)
