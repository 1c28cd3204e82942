"""The listening sockets: made, guarded and removed. A path is only ever replaced when it is a socket that nobody answers on."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from smdaemon.control.guard import is_loopback
from smdaemon.errors import ConfigError

# sockaddr_un holds 108 bytes, the last of them NUL.
MAX_PATH_BYTES = 107
_BACKLOG = 128


@contextmanager
def open_listeners(
    unix_socket: Path | None, mode: int, tcp: str | None, inherited: Sequence[socket.socket]
) -> Iterator[list[socket.socket]]:
    """Non-blocking listening sockets, closed at the end; the unix socket's file is removed then, if it is still ours.

    `inherited` are listening sockets that the service manager opened. ConfigError socket-in-use, socket-path, config-invalid.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(each) for each in inherited]
        for each in opened:
            _require_loopback(each)
        if tcp is not None:
            opened.append(stack.enter_context(open_tcp(tcp)))
        if unix_socket is not None:
            opened.append(stack.enter_context(_unix_listener(unix_socket, mode)))
        for each in opened:
            each.setblocking(False)
        yield opened


@contextmanager
def _unix_listener(path: Path, mode: int) -> Iterator[socket.socket]:
    listener = open_unix(path, mode)
    ours = _identity(path)
    try:
        with listener:
            yield listener
    finally:
        if ours is not None and _identity(path) == ours:
            with suppress(OSError):  # the file is in nobody's way: the next start replaces it
                path.unlink()


def open_unix(path: Path, mode: int) -> socket.socket:
    """A listening unix socket at `path` whose file has the permission bits `mode` from its first moment on."""
    encoded = os.fsencode(path)
    if len(encoded) > MAX_PATH_BYTES:
        raise ConfigError(
            "socket-path",
            f"the path {str(path)!r} has {len(encoded)} bytes, a unix socket takes {MAX_PATH_BYTES}",
            remedy="set control_socket to a shorter path, such as /run/smdaemon/control.sock",
        )
    try:
        _make_parent(path.parent)
        _remove_stale(path)
        return _bind(path, mode)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # another process was faster
            raise ConfigError("socket-in-use", f"another process has just bound {str(path)!r}") from error
        raise ConfigError("socket-path", f"cannot make the socket {str(path)!r}: {error.strerror}") from error


def _bind(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the bits of the unbound socket, less the umask: it is never wider than `mode`, and the
        # umask, which belongs to all threads, is left alone. chmod then adds what the umask took.
        os.fchmod(listener.fileno(), mode)
        listener.bind(os.fspath(path))
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _make_parent(directory: Path) -> None:
    """Make the socket's directory; the one above it must exist, so that a misspelt path does not grow a tree."""
    with suppress(FileExistsError):
        directory.mkdir(mode=0o755)


def _remove_stale(path: Path) -> None:
    """Remove the socket that a daemon left behind; ConfigError if it answers or is no socket."""
    found = _identity(path)
    if found is None:
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError("socket-path", f"{str(path)!r} exists and is not a socket")
    if _answers(path):
        raise ConfigError("socket-in-use", f"another process answers on {str(path)!r}")
    if _identity(path) == found:
        path.unlink()


def _answers(path: Path) -> bool:
    """Whether somebody listens on the socket; with a full queue (EAGAIN) somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
        return True


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another of the same path: device and inode; None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def open_tcp(address: str) -> socket.socket:
    """A listening socket at 'HOST:PORT' on the loopback network; port 0 takes a free one. ConfigError config-invalid."""
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(
            "config-invalid", f"the TCP address {address!r} is not HOST:PORT", remedy="write it like 127.0.0.1:8470"
        )
    if not is_loopback(host):
        raise _not_loopback(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("config-invalid", f"cannot use the TCP address {address!r}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        code = "socket-in-use" if error.errno == errno.EADDRINUSE else "config-invalid"
        raise ConfigError(code, f"cannot listen on the TCP address {address!r}: {error.strerror}") from error
    return listener


def _require_loopback(listener: socket.socket) -> None:
    """ConfigError config-invalid for an inherited socket that other machines can reach."""
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        host, port = listener.getsockname()[:2]
        if not is_loopback(host):
            raise _not_loopback(f"{host}:{port}")


def _not_loopback(address: str) -> ConfigError:
    return ConfigError(
        "config-invalid",
        f"the TCP address {address!r} can be reached by other machines",
        remedy="use 127.0.0.1 or [::1]; the control socket has no authentication",
    )
