"""Version directories on a local file system, each published by one rename.

A draft is written in a hidden sibling of the version directory, on the same file system: TensorFlow Serving looks at names that
are whole numbers only. The writer has synced every file and folder of the draft; `commit` renames it to its number and syncs the
parent, so that a number never names anything but a whole SavedModel, before and after a power loss.
"""

import errno
import filecmp
import os
import re
import shutil
from pathlib import Path

from smdaemon.durable import rename_no_replace, sync_directory
from smdaemon.errors import DropError, fault

MAX_VERSION = 2**63 - 1


class LocalStore:
    """The version directories of one model below `root`; drafts carry `owner`, which is unique to one state directory."""

    def __init__(self, root: Path, owner: str) -> None:
        self.root = root
        self._prefix = f".smdaemon-{owner}-"

    def draft(self, name: str) -> Path:
        """Where the draft called `name` is to be written: a path that does not exist, in a folder that does.

        Raises EnvironmentFault where the folder cannot be made or written.
        """
        path = self.root / f"{self._prefix}{name}"
        try:
            if not self.root.is_dir():
                self.root.mkdir()  # not its parents: an unmounted volume must not be written over
                sync_directory(self.root.parent)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))
            self.discard(path)
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
            if not _same_export(draft, target):
                raise DropError("version-exists", f"version {version} exists already in {str(self.root)!r}")
            self.discard(draft)
        return target

    def discard(self, draft: Path) -> None:
        """Remove a draft of ours, if it is there."""
        if draft.name.startswith(self._prefix):
            remove_tree(draft)

    def sweep(self) -> list[str]:
        """Remove every draft that an earlier run of this owner left; their names."""
        try:
            left = [entry.name for entry in os.scandir(self.root) if entry.name.startswith(self._prefix)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise fault(error, "publish directory") from error
        for name in left:
            self.discard(self.root / name)
        return left

    def versions(self) -> list[int]:
        """The numbers that exist, ascending; a name counts as TensorFlow Serving would count it."""
        try:
            names = [entry.name for entry in self.root.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise fault(error, "publish directory") from error
        return sorted(int(name) for name in names if re.fullmatch(r"[0-9]{1,19}", name))


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


def _same_export(draft: Path, published: Path) -> bool:
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
