"""Opening what strangers wrote: regular files only, and within a confinement only beneath one directory, no link followed.

Whoever may write into a watched directory could lead the daemon to files that it may read and they may not: by a symbolic link, a `..`,
a hard link, or by putting a link in the place of a file just after that was looked at. So while a drop is read, each of its paths is
walked down from an open descriptor of the root, one component at a time, and what is looked at is what was opened.

Paths that the operator named (a template, the directory that is published to) are trusted and opened as they are, unless they lie
beneath the root. Without a confinement, on the command line say, every path is.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.paths import absolute

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO without a writer must not block
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINK = {errno.ELOOP, errno.ENOTDIR}
"""What the kernel says of a link in the place of a file, and in that of a directory."""


class _Confinement:
    """One root, open; and the paths outside that may be opened all the same."""

    def __init__(self, root: Path, trusted: Iterable[Path]) -> None:
        # links on the way to the root are the operator's, and so are those on the way to these
        self.root = absolute(root)
        self._trusted = tuple(absolute(path) for path in trusted)
        self._descriptor: int | None = None

    def components(self, path: Path) -> list[str] | None:
        """The way from the root to `path`; None for a trusted one. DropError `source-outside` for any other."""
        whole = absolute(path)
        if _is_beneath(whole, self.root):
            return os.path.relpath(whole, self.root).split("/")
        if any(_is_beneath(whole, trusted) for trusted in self._trusted):
            return None
        raise DropError("source-outside", f"{str(path)!r} lies outside {self.root!r}")

    @contextmanager
    def folder(self, path: Path, components: list[str]) -> Iterator[int]:
        """A descriptor of the directory that the last of `components` lies in."""
        if self._descriptor is None:
            self._descriptor = os.open(self.root, _ENTER)
        descriptor = os.dup(self._descriptor)
        try:
            for name in components[:-1]:
                try:
                    inner = os.open(name, _ENTER | os.O_NOFOLLOW, dir_fd=descriptor)
                except OSError as error:
                    raise _refused(error, path, name, descriptor) from error
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the root."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_current: ContextVar[_Confinement | None] = ContextVar("confinement", default=None)


@contextmanager
def confined(root: Path | None, trusted: Iterable[Path] = ()) -> Iterator[None]:
    """Whatever is opened in here lies beneath `root` or at or beneath one of `trusted`; no confinement where `root` is None.

    Holds for the running context: a thread that reads for it must be started in a copy of that (`contextvars.copy_context`).
    """
    if root is None:
        yield
        return
    confinement = _Confinement(root, trusted)
    token = _current.set(confinement)
    try:
        yield
    finally:
        _current.reset(token)
        confinement.close()


def unlinked(path: Path, root: Path) -> Path:
    """Where beneath `root` the path leads once every link on the way is followed; DropError `source-outside` where that is elsewhere.

    Links may change meanwhile: what is opened by the result, within a confinement to `root`, still is what lies there.
    """
    real, top = os.path.realpath(path), os.path.realpath(root)
    if not _is_beneath(real, top):
        raise DropError("source-outside", f"{str(path)!r} lies outside {str(root)!r}")
    return root / os.path.relpath(real, top)


def open_regular(path: Path, *, follow: bool = True) -> int:
    """A descriptor, to read, of a regular file; what is none is not waited for.

    Raises OSError, ENXIO for what is no regular file and ELOOP for a link where `follow` is False. In a confinement DropError
    `source-outside` and `source-link` besides.
    """
    confinement = _current.get()
    components = None if confinement is None else confinement.components(path)
    if confinement is None or components is None:
        descriptor = os.open(path, _READ | (0 if follow else os.O_NOFOLLOW))
    else:
        with confinement.folder(path, components) as folder:
            try:
                descriptor = os.open(components[-1], _READ | os.O_NOFOLLOW, dir_fd=folder)
            except OSError as error:
                raise _refused(error, path, components[-1], folder) from error
            try:
                _refuse_foreign(os.fstat(descriptor), os.fstat(folder), path)
            except BaseException:
                os.close(descriptor)
                raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", os.fspath(path))
    return descriptor


def read_regular(path: Path) -> bytes:
    """The content of a regular file; raises as `open_regular`."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def status_of(path: Path, *, follow: bool = True) -> os.stat_result:
    """The status of what lies at a path; raises OSError, and in a confinement as `open_regular`."""
    confinement = _current.get()
    components = None if confinement is None else confinement.components(path)
    if confinement is None or components is None:
        return path.stat(follow_symlinks=follow)
    with confinement.folder(path, components) as folder:
        status = os.stat(components[-1], dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise _link(path, components[-1])
    return status


@contextmanager
def folder_of(path: Path, root: Path | None) -> Iterator[Path]:
    """A name, good for the block, of the directory that `path` lies in, walked down from `root` with no link followed; to write there.

    Without a root it is the directory's own name. Raises as `open_regular`.
    """
    if root is None:
        yield path.parent
        return
    confinement = _Confinement(root, ())
    try:
        with confinement.folder(path, confinement.components(path) or []) as folder:
            yield Path(f"/proc/self/fd/{folder}")
    finally:
        confinement.close()


def _is_beneath(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _refused(error: OSError, path: Path, name: str, folder: int) -> Exception:
    """Why a component could not be opened: it is a link, or what the kernel says, about the whole path."""
    if error.errno in _LINK:
        try:
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return _link(path, name)
        except OSError:
            pass  # it went away since: what was said of it stands
    return OSError(error.errno, error.strerror, os.fspath(path))


def _link(path: Path, name: str) -> DropError:
    return DropError("source-link", f"{name!r} in {str(path)!r} is a symbolic link")


def _refuse_foreign(file: os.stat_result, folder: os.stat_result, path: Path) -> None:
    """DropError `source-link` for a file of several names where others than its owner could have given it one of them."""
    if file.st_nlink < 2 or not stat.S_ISREG(file.st_mode):
        return
    shared = stat.S_IMODE(folder.st_mode) & 0o022
    if shared or folder.st_uid != file.st_uid:
        raise DropError(
            "source-link", f"{str(path)!r} is a hard link, in a directory that others than the file's owner can write"
        )
