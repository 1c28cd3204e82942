"""The listening sockets of the control API: made, guarded and removed."""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from smdaemon.errors import ConfigError
from smdaemon.loopback import host_and_port, is_loopback
from smdaemon.unix_socket import BACKLOG, unix_listener


@contextmanager
def open_listeners(
    unix_socket: Path | None,
    mode: int,
    tcp: str | None,
    inherited: Sequence[socket.socket],
    *,
    group: str = "",
    anywhere: bool = False,
) -> Iterator[list[socket.socket]]:
    """Non-blocking listening sockets, closed at the end; the unix socket's file is removed then, if it is still ours.

    `inherited` are listening sockets that the service manager opened; `anywhere`: other machines may reach them. ConfigError socket-in-use, socket-path, config-invalid.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(each) for each in inherited]
        for each in opened if not anywhere else ():
            _require_loopback(each)
        if tcp is not None:
            opened.append(stack.enter_context(open_tcp(tcp, anywhere=anywhere)))
        if unix_socket is not None:
            opened.append(stack.enter_context(unix_listener(unix_socket, mode, group=group, setting="control_socket")))
        for each in opened:
            each.setblocking(False)
        yield opened


def open_tcp(address: str, *, anywhere: bool = False) -> socket.socket:
    """A listening socket at 'HOST:PORT', on the loopback network unless `anywhere`; port 0 takes a free one. ConfigError config-invalid."""
    try:
        host, port = host_and_port(address)
    except ValueError as error:
        raise ConfigError(
            "config-invalid", f"the TCP address {error}", remedy="write it like 127.0.0.1:8470"
        ) from error
    if not anywhere and not is_loopback(host):
        raise _not_loopback(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("config-invalid", f"cannot use the TCP address {address!r}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
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
        remedy="use 127.0.0.1 or [::1], or set control_tls_cert, control_tls_key and control_token_file",
    )
