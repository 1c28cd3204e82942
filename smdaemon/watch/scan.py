"""What lies in a watched directory: listed at start, after an overflow, now and then, and as the polling backend."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from smdaemon.jobs.results import RESULT_ENDING
from smdaemon.sources.formats import unfinished
from smdaemon.sources.orbax_layout import TREE_METADATA

# A directory may change again within the tick of the clock that stamps it, after it was listed. So its stamp counts
# as settled only when the listing came this long after the stamp was first seen (our clock: servers' clocks lie).
_STAMP_TICK_SECONDS = 2.0


def ignored(name: str) -> bool:
    """Whether a name is never a drop nor part of one: of what is unfinished, or of our own answer to a request.

    What Orbax saves under a temporary name may be a thousand files: nothing in it is looked at or watched until it is renamed.
    """
    return unfinished(name) or name.endswith(RESULT_ENDING)


@dataclass
class Scan:
    """What a scan found. Paths are strings: there may be a hundred thousand of them."""

    files: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    problems: list[OSError] = field(default_factory=list)


@dataclass(slots=True)
class _Stamp:
    inode: int
    mtime_ns: int
    seen_at: float
    listed_at: float

    def settled(self) -> bool:
        return self.listed_at - self.seen_at >= _STAMP_TICK_SECONDS


class Scanner:
    """Lists a tree; remembers each directory's stamp, so that a second look lists only what changed.

    With `recursive` the whole tree; without, the root and the directories in it, which may themselves be drops.
    Directories that are symlinks are not entered. `before_listing` is called with each directory before it is listed
    (that is where a watch is added: what appears after it makes an event, what appeared before is listed).
    """

    def __init__(
        self,
        root: str,
        *,
        recursive: bool,
        before_listing: Callable[[str], None] | None = None,
    ) -> None:
        self.root = root
        self._recursive = recursive
        self._before_listing = before_listing
        self._stamps: dict[str, _Stamp] = {}

    def __len__(self) -> int:
        return len(self._stamps)

    def enters(self, directory: str) -> bool:
        """Whether a directory is near enough to the root to be looked into."""
        return self._recursive or directory == self.root or os.path.dirname(directory) == self.root  # noqa: PTH120

    def full(self, now: float) -> Scan:
        """Everything, listed again. OSError where the root cannot be listed."""
        self._stamps.clear()
        return self.beneath(self.root, now)

    def beneath(self, top: str, now: float) -> Scan:
        """One directory and everything below it."""
        scan = Scan()
        self._walk(top, scan, now)
        return scan

    def changed(self, now: float) -> Scan:
        """The directories that changed since they were last listed, with all of their files, and all that is new."""
        scan = Scan()
        for directory, stamp in list(self._stamps.items()):
            fresh = self._look_again(directory, scan)
            if fresh is None:
                self._stamps.pop(directory, None)
                scan.directories.append(directory)
            elif (fresh.st_ino, fresh.st_mtime_ns) != (stamp.inode, stamp.mtime_ns) or not stamp.settled():
                self._walk(directory, scan, now)
        return scan

    def forget(self, directory: str) -> None:
        """A directory went away."""
        self._stamps.pop(directory, None)

    def _walk(self, top: str, scan: Scan, now: float) -> None:
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            try:
                children = self._list(directory, scan, now)
            except (FileNotFoundError, NotADirectoryError):
                if directory == self.root:
                    raise
                self._stamps.pop(directory, None)
            except OSError as error:
                if directory == self.root:
                    raise
                scan.problems.append(error)
            else:
                # A known child is looked at by its own stamp; in a walk over everything none is known yet.
                waiting.extend(child for child in children if self.enters(child) and child not in self._stamps)

    def _list(self, directory: str, scan: Scan, now: float) -> list[str]:
        status = self._status(directory)
        self._remember(directory, status, now)
        if self._before_listing is not None:
            self._before_listing(directory)
        children = []
        sealed = False
        with os.scandir(directory) as entries:
            for entry in entries:
                if ignored(entry.name):
                    continue
                sealed = sealed or entry.name == TREE_METADATA
                if entry.is_dir(follow_symlinks=False):
                    children.append(entry.path)
                elif _is_file(entry):
                    scan.files.append(entry.path)
        if directory != self.root:
            scan.directories.append(directory)
        # Below the tensors of an Orbax checkpoint lie thousands of directories and no drop: none of them is worth a watch.
        return [] if sealed else children

    def _remember(self, directory: str, status: os.stat_result, now: float) -> None:
        known = self._stamps.get(directory)
        if known is not None and (known.inode, known.mtime_ns) == (status.st_ino, status.st_mtime_ns):
            known.listed_at = now
        else:
            self._stamps[directory] = _Stamp(status.st_ino, status.st_mtime_ns, now, now)

    def _look_again(self, directory: str, scan: Scan) -> os.stat_result | None:
        try:
            return self._status(directory)
        except (FileNotFoundError, NotADirectoryError):
            if directory == self.root:
                raise
        except OSError as error:
            if directory == self.root:
                raise
            scan.problems.append(error)
        return None

    def _status(self, directory: str) -> os.stat_result:
        """The root may be a symlink; below it a symlink in a directory's place is not entered."""
        status = os.stat(directory, follow_symlinks=directory == self.root)  # noqa: PTH116 - a Path would cost more
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
        return status


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a symlink to one."""
    try:
        return entry.is_file(follow_symlinks=True)
    except OSError:
        return False  # a symlink loop, or a target that may not be looked at
