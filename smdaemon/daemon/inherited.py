"""What the service manager hands over at a start, sorted by name: listening sockets of both services, and what it kept for handoffs.

    control              listening stream sockets, unix or loopback, as many as there are
    handoff              listening SOCK_SEQPACKET unix sockets
    handoff-segment-*    from the descriptor store (see handoffs.py)
    handoff-plan-*

A socket that was handed over stands in the place of the configured one. Its file is the service manager's: it is never removed.
"""

import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from smdaemon.errors import ConfigError
from smdaemon.log import get_logger
from smdaemon.settings import DaemonSettings

_log = get_logger(__name__)
STORED = re.compile(r"handoff-(segment|plan)-([0-9A-Za-z-]+)")
_NETWORK = {socket.AF_INET, socket.AF_INET6}


@dataclass
class Inherited:
    """What was handed over: listening sockets, and (name, descriptor) of what was kept, which is the taker's to close."""

    control: list[socket.socket] = field(default_factory=list)
    handoff: list[socket.socket] = field(default_factory=list)
    stored: list[tuple[str, int]] = field(default_factory=list)

    @property
    def control_is_unix(self) -> bool:
        """Whether one of the control sockets is a unix socket, so that none is to be made."""
        return any(each.family == socket.AF_UNIX for each in self.control)

    @property
    def control_is_network(self) -> bool:
        """Whether one of the control sockets has a port, so that none is to be opened."""
        return any(each.family in _NETWORK for each in self.control)


@contextmanager
def inherited(handed: Iterable[tuple[str, int]], settings: DaemonSettings) -> Iterator[Inherited]:
    """What `systemd.handed_over` gave, sorted; sockets are closed at the end, descriptors of unknown names at once.

    Raises ConfigError: `socket-inherited` for a socket that cannot serve, `config-conflict` where nobody is to listen on it.
    """
    found = Inherited()
    try:
        for name, fd in handed:
            if name == "control":
                found.control.append(_socket(name, fd))
            elif name == "handoff":
                found.handoff.append(_socket(name, fd))
            elif STORED.fullmatch(name):
                found.stored.append((name, fd))
            else:
                os.close(fd)
                _log.warning("descriptor of an unknown name closed", name=name, known=["control", "handoff"])
        for listener in found.control:
            _check(listener, "control", {socket.AF_UNIX, *_NETWORK}, socket.SOCK_STREAM)
        for listener in found.handoff:
            _check(listener, "handoff", {socket.AF_UNIX}, socket.SOCK_SEQPACKET)
        _check_agreement(found, settings)
        yield found
    finally:
        for listener in (*found.control, *found.handoff):
            listener.close()


def _socket(name: str, fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError("socket-inherited", f"what was handed over as {name!r} is no socket") from error


def _check(listener: socket.socket, name: str, families: set[int], kind: int) -> None:
    """ConfigError unless the socket listens and is of the kind that `name` needs; it does not block from here on."""
    wanted = "a SOCK_SEQPACKET unix socket" if kind == socket.SOCK_SEQPACKET else "a stream socket, unix or loopback"
    if listener.family not in families or listener.type != kind:
        raise ConfigError("socket-inherited", f"the socket handed over as {name!r} is not {wanted}: {_told(listener)}")
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError("socket-inherited", f"the socket handed over as {name!r} does not listen: {_told(listener)}")
    listener.setblocking(False)


def _check_agreement(found: Inherited, settings: DaemonSettings) -> None:
    """What was handed over against what is configured."""
    if found.handoff and not settings.handoff_socket:
        raise ConfigError(
            "config-conflict",
            "the service manager hands over a socket for handoffs, and handoff_socket is empty",
            remedy="set handoff_socket to its path, or disable its .socket unit",
        )
    for name, sockets, path in (
        ("control_socket", found.control, settings.control_socket),
        ("handoff_socket", found.handoff, settings.handoff_socket),
    ):
        paths = [each.getsockname() for each in sockets if each.family == socket.AF_UNIX]
        if paths and path not in paths:
            _log.warning("listening elsewhere than configured", setting=name, configured=path, handed_over=paths)


def _told(listener: socket.socket) -> str:
    return f"{socket.AddressFamily(listener.family).name}, {socket.SocketKind(listener.type).name}"
