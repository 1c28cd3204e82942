"""A watched tree: which watch stands for which directory, and what its events say.

A directory that appears is watched first and listed afterwards: what came before the watch is listed, what comes after
it makes an event, and what does both is noticed twice, which does no harm. Listing finds directories in turn, to a
fixpoint. Events say nothing after the kernel's queue overflowed: then everything is listed again.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass, field

from smdaemon.errors import EnvironmentFault
from smdaemon.watch.completeness import Touch
from smdaemon.watch.inotify import Event, Kernel, Mask
from smdaemon.watch.scan import Scan, Scanner, ignored

_ROOT_GONE = Mask.IGNORED | Mask.UNMOUNT | Mask.DELETE_SELF | Mask.MOVE_SELF


class WatchLimitError(EnvironmentFault):
    """The kernel gives this user no further inotify watch or instance: the directory must be polled."""

    def __init__(self, message: str) -> None:
        super().__init__("watch-limit", message, retryable=True)


@dataclass
class News:
    """What a block of events said."""

    touched: dict[str, Touch] = field(default_factory=dict)
    # Files that somebody made or linked: perhaps no further event will come.
    created: list[str] = field(default_factory=list)
    # Directories to watch and list.
    directories: dict[str, Touch] = field(default_factory=dict)
    # Directories that were moved away with all below them.
    gone: list[str] = field(default_factory=list)
    overflow: bool = False
    root_gone: bool = False


class Tree:
    """The watches below one root. `arm` and `rescan` block on the disk; nothing here may run twice at a time."""

    def __init__(self, kernel: Kernel, root: str, *, recursive: bool) -> None:
        self._kernel = kernel
        self._root = root
        self._scanner = Scanner(root, recursive=recursive, before_listing=self._watch)
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def rescan(self, now: float) -> Scan:
        """Watch and list everything; drop the watches of what is no longer there. OSError where the root is missing."""
        scan = self._scanner.full(now)
        for directory in self._watches.keys() - {self._root, *scan.directories}:
            self._unwatch(directory)
        return scan

    def changed(self, now: float) -> Scan:
        """Watch and list what changed since it was listed last: cheap, and a net below the events."""
        return self._scanner.changed(now)

    def arm(self, directories: Iterable[str], now: float) -> Scan:
        """Watch and list directories that appeared."""
        scan = Scan()
        for directory in directories:
            found = self._scanner.beneath(directory, now)
            scan.files += found.files
            scan.directories += found.directories
            scan.problems += found.problems
        return scan

    def read(self, events: Iterable[Event]) -> News:
        """What the events say; watches of directories that went away are ended on the way."""
        news = News()
        for event in events:
            if event.mask & Mask.Q_OVERFLOW:
                news.overflow = True
                continue
            directory = self._paths.get(event.watch)
            if directory is None:
                continue  # a watch that was ended; what was still queued for it is of no interest
            if event.mask & _ROOT_GONE:
                self._ended(directory, event, news)
            elif event.name and not ignored(event.name):
                self._happened(f"{directory}/{event.name}", event.mask, news)
        return news

    def _ended(self, directory: str, event: Event, news: News) -> None:
        """The watched directory itself went away, or its watch did."""
        if directory == self._root:
            news.root_gone = True
        elif event.mask & Mask.IGNORED:
            self._paths.pop(event.watch, None)
            if self._watches.get(directory) == event.watch:
                del self._watches[directory]
                self._scanner.forget(directory)
        elif event.mask & Mask.UNMOUNT:
            news.overflow = True  # beneath it the directory that it was mounted on comes to light

    def _happened(self, path: str, mask: int, news: News) -> None:
        if not mask & Mask.ISDIR:
            self._file_happened(path, mask, news)
            return
        if mask & (Mask.CREATE | Mask.MOVED_TO):
            if self._scanner.enters(path):
                news.directories[path] = Touch.MOVED if mask & Mask.MOVED_TO else Touch.SEEN
            return
        news.directories.pop(path, None)
        news.touched[path] = Touch.SEEN
        if mask & Mask.MOVED_FROM and path in self._watches:
            self._unwatch_below(path)
            news.gone.append(path)
        else:
            self._unwatch(path)  # what was deleted was empty: nothing below it is watched

    @staticmethod
    def _file_happened(path: str, mask: int, news: News) -> None:
        if mask & Mask.CREATE:
            news.created.append(path)
        elif mask & Mask.MOVED_TO:
            news.touched[path] = Touch.MOVED
        elif mask & Mask.CLOSE_WRITE:
            news.touched[path] = max(Touch.CLOSED, news.touched.get(path, Touch.SEEN))
        else:
            news.touched[path] = Touch.SEEN

    def _watch(self, directory: str) -> None:
        try:
            watch = self._kernel.add(directory)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.ENOMEM}:
                raise WatchLimitError(
                    f"no further directory below {self._root!r} can be watched after {len(self._watches)}"
                ) from error
            raise
        self._paths[watch] = directory
        self._watches[directory] = watch

    def _unwatch(self, directory: str) -> None:
        watch = self._watches.pop(directory, None)
        if watch is not None and self._paths.get(watch) == directory:
            del self._paths[watch]
            self._kernel.remove(watch)
        self._scanner.forget(directory)

    def _unwatch_below(self, directory: str) -> None:
        below = directory + "/"
        for known in [path for path in self._watches if path == directory or path.startswith(below)]:
            self._unwatch(known)
