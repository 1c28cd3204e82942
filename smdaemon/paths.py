"""Whether something is there, for who must not take "that cannot be told now" for a no; what a path says, and what can be a name.

`os.path.exists` and its kin, and from Python 3.14 on the methods of `Path`, say False where a disk or a mount gives no answer. What is
built on that would leave out what is there.
"""

import errno
import os
import stat
from pathlib import Path

_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


def exists(path: str | Path) -> bool:
    """Whether the path names anything, a link that leads nowhere included. OSError where that cannot be told."""
    return _status(path, follow=False) is not None


def is_file(path: str | Path) -> bool:
    """Whether the path leads to a regular file. OSError where that cannot be told."""
    found = _status(path, follow=True)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_directory(path: str | Path) -> bool:
    """Whether the path leads to a directory. OSError where that cannot be told."""
    found = _status(path, follow=True)
    return found is not None and stat.S_ISDIR(found.st_mode)


def absolute(path: str | Path) -> str:
    """The path from the root on, with every ".." taken away as a word: no link is followed that it could lead back from."""
    return os.path.abspath(path)  # noqa: PTH100 - `Path.absolute` keeps "..", `Path.resolve` follows links


def can_name_a_file(name: str) -> bool:
    """Whether an entry of a directory can have this name. What a file says the name of another is may be any text.

    A lone surrogate stands for a byte where `os.fsdecode` makes it; any other is in no name.
    """
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return encoded not in (b"", b".", b"..") and b"/" not in encoded and b"\0" not in encoded


def _status(path: str | Path, *, follow: bool) -> os.stat_result | None:
    try:
        return Path(path).stat(follow_symlinks=follow)
    except ValueError:  # NUL
        return None
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise
