"""Version directories on a local file system, each published by one rename.

A draft is written in a hidden sibling of the version directory, on the same file system: TensorFlow Serving looks at names that
are whole numbers only. The writer has synced every file and folder of the draft; `commit` renames it to its number and syncs the
parent, so that a number never names anything but a whole SavedModel, before and after a power loss. A version goes the way that it
came: `hide` renames it to a hidden name and syncs the parent, and only then are its files deleted.
"""

import errno
import filecmp
import os
import re
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from smdaemon.durable import lasting_directory, rename_no_replace, sync_directory
from smdaemon.errors import DropError, fault

MAX_VERSION = 2**63 - 1
"""The greatest that TensorFlow Serving reads; names of greater numbers are no versions to it."""


class LocalStore:
    """The version directories of one model below `root`; drafts carry `owner`, which is unique to one state directory."""

    def __init__(self, root: Path, owner: str) -> None:
        self.root = root
        self._prefix = f".smdaemon-{owner}-"
        self._hidden = f"{self._prefix}removed-"

    def draft(self, name: str) -> Path:
        """Where the draft called `name` is to be written: a path that does not exist, in a folder that does.

        Raises EnvironmentFault where the folder cannot be made or written.
        """
        path = self.root / f"{self._prefix}{name}"
        try:
            # Not its parents: an unmounted volume must not be written over. Once there is a version its name has lasted.
            if not self.root.is_dir() or not self.versions():
                lasting_directory(self.root)
            self.discard(path)
            if not os.access(self.root, os.W_OK | os.X_OK):
                path.mkdir()  # it says why: forbidden, read-only or broken are not the same
                path.rmdir()
        except OSError as error:
            raise fault(error, "publish directory") from error
        return path

    def commit(self, draft: Path, version: int) -> Path:
        """Publish `draft` as `version` by one rename; the path of the version directory.

        Where the version exists with the same content the draft is discarded: another attempt, or another host, was first.
        Raises DropError `version-exists` for other content, EnvironmentFault where the rename fails; the draft then stays.
        """
        target = self.root / str(version)
        if not publish(draft, target):
            try:
                if not same_export(draft, target):
                    raise DropError("version-exists", f"version {version} exists already in {str(self.root)!r}")
                self.discard(draft)
            except OSError as error:
                raise fault(error, f"comparing with version {version}") from error
        return target

    def committed(self, version: int, identity: str) -> Path | None:
        """The version directory, where a `commit` of the draft of that identity has come as far as its rename; else None.

        Raises EnvironmentFault where that cannot be told, or made to last.
        """
        target = self.root / str(version)
        try:
            if not identity or identity_of(target) != identity:
                return None
            sync_directory(self.root)
        except OSError as error:
            raise fault(error, f"looking for version {version}") from error
        return target

    def discard(self, draft: Path) -> None:
        """Remove a draft of ours, if it is there. Raises OSError as it comes; the next `draft` or `sweep` tries again."""
        if draft.name.startswith(self._prefix):
            remove_tree(draft)

    def sweep(self) -> list[str]:
        """Remove every draft that an earlier run of this owner left; their names. Hidden versions are left to `delete_hidden`.

        Raises EnvironmentFault for the first that cannot be removed, after all were tried.
        """
        left = [name for name in self._ours() if not name.startswith(self._hidden)]
        self._remove_all(left)
        return left

    def hide(self, version: int, identity: str) -> bool:
        """Take a version away from its readers by one rename; `delete_hidden` then makes its room free.

        False where the number names another directory by now than the one of that identity, or nothing: nothing is done then.
        Raises EnvironmentFault where the rename is refused; the version is then where it was.
        """
        target = self.root / str(version)
        hidden = self.root / f"{self._hidden}{version}-{identity.partition('/')[0]}"
        try:
            if not identity or identity_of(target) != identity or not rename_no_replace(target, hidden):
                return False
            # Between the look and the rename somebody may have put another directory there: it is given back.
            ours = identity_of(hidden) == identity
            if not ours:
                rename_no_replace(hidden, target)
            sync_directory(self.root)
        except OSError as error:
            raise fault(error, "removing a version") from error
        return ours

    def delete_hidden(self) -> list[str]:
        """Delete the files of every version that was hidden; the names of those directories.

        Raises EnvironmentFault for the first that cannot be deleted, after all were tried.
        """
        hidden = [name for name in self._ours() if name.startswith(self._hidden)]
        self._remove_all(hidden)
        return hidden

    def _ours(self) -> list[str]:
        """The names of our drafts and of what we have hidden."""
        try:
            with os.scandir(self.root) as entries:
                return [entry.name for entry in entries if entry.name.startswith(self._prefix)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise fault(error, "publish directory") from error

    def _remove_all(self, names: Iterable[str]) -> None:
        refused: OSError | None = None
        for name in names:
            try:
                self.discard(self.root / name)
            except OSError as error:
                refused = refused or error
        if refused is not None:
            raise fault(refused, "deleting") from refused

    def versions(self) -> list[int]:
        """The numbers that exist, ascending."""
        try:
            names = [entry.name for entry in self.root.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise fault(error, "publish directory") from error
        return sorted(number for name in names if (number := version_named(name)) is not None)


def version_named(name: str) -> int | None:
    """The version that a directory of this name is, as TensorFlow Serving counts; None where it is none."""
    number = int(name) if re.fullmatch(r"[0-9]{1,19}", name) else None
    return None if number is None or number > MAX_VERSION else number


def identity_of(path: Path) -> str | None:
    """What tells the version directory at `path` from any other that may bear its number; None where there is nothing.

    The inode of the directory, and of its model file inode, size and time: inodes are used again once they are free. A link is no
    version directory, nor is a file: of these nothing can be said, and their identity is empty. Raises OSError.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return ""
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        try:
            model = (path / name).lstat()
        except FileNotFoundError:
            continue
        return f"{found.st_ino}/{model.st_ino}-{model.st_size}-{model.st_mtime_ns}"
    return f"{found.st_ino}/"


def publish(draft: Path, target: Path) -> bool:
    """Give the complete, synced directory `draft` the name `target` by one rename; False where `target` exists.

    Both must be on one file system. Raises EnvironmentFault; the draft then stays.
    """
    try:
        renamed = rename_no_replace(draft, target)
        sync_directory(target.parent)
    except OSError as error:
        raise fault(error, "publishing") from error
    return renamed


def remove_tree(path: Path) -> None:
    """Remove the directory `path` and what is in it; nothing happens where it does not exist."""
    shutil.rmtree(path, onerror=_unless_missing)


def same_export(draft: Path, published: Path) -> bool:
    """Whether two SavedModels hold the same: same files, same bytes."""
    try:
        files = _files_below(draft)
        if files != _files_below(published):
            return False
        return all(filecmp.cmp(draft / name, published / name, shallow=False) for name in files)
    except NotADirectoryError:
        return False


def _files_below(root: Path) -> list[str]:
    if not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def _unless_missing(_function: object, _path: str, info: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
