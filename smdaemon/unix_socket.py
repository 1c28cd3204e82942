"""Listening unix sockets: made, guarded and removed. A path is only ever replaced when it is a socket that nobody answers on."""

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from smdaemon.errors import ConfigError
from smdaemon.settings import SOCKET_PATH_BYTES

BACKLOG = 128


@contextmanager
def unix_listener(
    path: Path, mode: int, *, setting: str, group: str = "", kind: socket.SocketKind = socket.SOCK_STREAM
) -> Iterator[socket.socket]:
    """A listening socket as `open_unix` makes it, closed at the end; its file is removed then, if it is still ours."""
    listener = open_unix(path, mode, setting=setting, group=group, kind=kind)
    ours = _identity(path)
    try:
        with listener:
            yield listener
    finally:
        if ours is not None and _identity(path) == ours:
            with suppress(OSError):  # the file is in nobody's way: the next start replaces it
                path.unlink()


def open_unix(
    path: Path, mode: int, *, setting: str, group: str = "", kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """A listening unix socket at `path` whose file is never open to more than the permission bits `mode` and `group` say.

    `group` is a name or an id; empty for the daemon's own. ConfigError `socket-path`, `socket-in-use`, `config-invalid`; `setting` is what
    the configuration calls the path.
    """
    gid = gid_of(group, setting)
    encoded = os.fsencode(path)
    if len(encoded) > SOCKET_PATH_BYTES:
        raise ConfigError(
            "socket-path",
            f"the path {str(path)!r} has {len(encoded)} bytes, a unix socket takes {SOCKET_PATH_BYTES}",
            remedy=f"set {setting} to a shorter path, such as /run/smdaemon/{path.name[:32]}",
        )
    try:
        _make_parent(path.parent)
        _remove_stale(path, kind)
        return _bind(path, mode, gid, kind)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # another process was faster
            raise ConfigError("socket-in-use", f"another process has just bound {str(path)!r}") from error
        remedy = f"make its directory: mkdir -p {path.parent}" if error.errno == errno.ENOENT else None
        message = f"cannot make the socket {str(path)!r}: {error.strerror}"
        raise ConfigError("socket-path", message, remedy=remedy) from error


def peer_of(connection: "_Peer") -> tuple[int, int]:
    """User and process id of who has connected to a unix socket, as the kernel knows them."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", found)
    return uid, pid


def uid_of(user: str) -> int:
    """The id of a user, given by id or by name; -1 for one that there is not."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # or no name at all
        return -1


def gid_of(group: str, setting: str) -> int:
    """The id of a group, given by id or by name; -1 for none, which leaves a file's as it is. ConfigError `config-invalid`."""
    if not group or group.isdecimal():
        return int(group or -1)
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        what = setting.replace("socket", "group")
        raise ConfigError(
            "config-invalid", f"{what}: there is no group {group!r}", remedy="make it, or give its id"
        ) from None


class _Peer(Protocol):
    """A socket of the standard library or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As socket.getsockopt."""
        ...


def _bind(path: Path, mode: int, gid: int, kind: socket.SocketKind) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        # Linux gives the file the bits of the unbound socket, less the umask: it is never wider than `mode`, and the
        # umask, which belongs to all threads, is left alone. chmod then adds what the umask took.
        os.fchmod(listener.fileno(), mode if gid == -1 else mode & ~0o070)
        listener.bind(os.fspath(path))
        if gid != -1:  # the service's sandbox knows no such call
            _give_to(path, gid)
        path.chmod(mode)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _give_to(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except PermissionError as error:
        path.unlink()
        raise ConfigError(
            "socket-path",
            f"the socket {str(path)!r} cannot be given to the group {gid}",
            remedy="have the daemon's user be a member of that group; under systemd set SocketGroup= in the socket's unit instead",
        ) from error


def _make_parent(directory: Path) -> None:
    """Make the socket's directory; the one above it must exist, so that a misspelt path does not grow a tree."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o755)


def _remove_stale(path: Path, kind: socket.SocketKind) -> None:
    """Remove the socket that a daemon left behind; ConfigError if it answers or is no socket."""
    found = _identity(path)
    if found is None:
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError("socket-path", f"{str(path)!r} exists and is not a socket")
    if _answers(path, kind):
        raise ConfigError("socket-in-use", f"another process answers on {str(path)!r}")
    if _identity(path) == found:
        path.unlink()


def _answers(path: Path, kind: socket.SocketKind) -> bool:
    """Whether somebody listens on the socket; with a full queue (EAGAIN) somebody does."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:  # somebody does, for another kind of socket
                return True
            raise
        return True


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another of the same path: device and inode; None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
