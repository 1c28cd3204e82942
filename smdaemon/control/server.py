"""Serves the control socket with hypercorn on trio. Nothing else in smdaemon knows of hypercorn.

hypercorn's own serve() is not used. Its loop leaves connections unclosed when it is cancelled, gives the application no handle to
the peer, and writes under a shield without a deadline: a client that stops reading would hold up the daemon's end for ever.
The loop below owns every stream, so it can end them all. TCPServer and WorkerContext are hypercorn's inner names: its version
is pinned for them, and tests/control/test_control_server.py is their contract.
"""

import math
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import wrap_app

from smdaemon.accepting import Accepting
from smdaemon.control.access import Access
from smdaemon.control.app import make_app
from smdaemon.control.backend import Backend
from smdaemon.control.render import JSON, HttpError, to_json
from smdaemon.control.sockets import open_listeners
from smdaemon.control.tls import Tls
from smdaemon.jobs.messages import error_message
from smdaemon.log import get_logger
from smdaemon.proto import mapping
from smdaemon.unix_socket import peer_of

_log = get_logger(__name__)

# Answers take milliseconds; only a client that does not read what it asked for needs more.
GRACE_SECONDS = 2.0
_IDLE_SECONDS = 30
_HANDSHAKE_SECONDS = 10
_ANSWER_SECONDS = 1.0
_SAY_AGAIN_SECONDS = 60.0
SEND_SECONDS = 60.0
SEND_BYTES = 64 << 10
"""A client that has not taken what was sent for so long is cut off. One that follows the events comes back, and misses nothing."""
MAX_STRANGERS = 1000
"""So many connections of those are served at once of whom the kernel does not say that they may act. Over TCP that is everyone.

Who may act by the unix socket is always let in: to see what is going on, and end it.
"""


async def serve(
    backend: Backend,
    *,
    unix_socket: Path | None,
    mode: int = 0o660,
    group: str = "",
    tcp: str | None = None,
    tls: Tls | None = None,
    sockets: Sequence[socket.socket] = (),
    access: Callable[[], Access] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `backend` until its `stopping` is set, then finish the open requests and return.

    Started with the addresses that it listens on, as paths and 'http://HOST:PORT'; with `tls`, which TCP beyond loopback needs, 'https:'.
    `sockets` are inherited listening ones; `access` says who may act, without it everyone who can connect.
    ConfigError socket-in-use, socket-path, config-invalid.
    """
    with open_listeners(unix_socket, mode, tcp, sockets, group=group, anywhere=tls is not None) as opened:
        app = wrap_app(make_app(backend, access), 0, "asgi")  # type: ignore[arg-type]  # the two spell ASGI's types differently
        server = _Server(app, tls, access)
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in opened]
        await server.run(listeners, backend.stopping, [_address(each, tls) for each in opened], task_status)


class _Server:
    """The accept loop and the connections that it has open."""

    def __init__(self, app: AppWrapper, tls: Tls | None, access: Callable[[], Access] | None) -> None:
        self._app = app
        self._tls = tls
        self._access = access
        self._strangers = 0
        self._refused_at = -math.inf
        self._config = Config()
        self._config.errorlog = None  # bugs are logged by the application, in smdaemon's own form
        self._config.include_server_header = False
        self._config.keep_alive_timeout = _IDLE_SECONDS
        self._config.ssl_handshake_timeout = _HANDSHAKE_SECONDS
        self._context = WorkerContext(None)
        self._streams: set[trio.SocketStream] = set()
        self._all_closed = trio.Event()

    async def run(
        self,
        listeners: list[trio.SocketListener],
        stopping: trio.Event,
        addresses: list[str],
        task_status: trio.TaskStatus[list[str]],
    ) -> None:
        async with trio.open_nursery() as connections:
            try:
                async with trio.open_nursery() as accepting:
                    for listener, address in zip(listeners, addresses, strict=True):
                        accepting.start_soon(self._accept, listener, address, connections)
                    task_status.started(addresses)
                    await stopping.wait()
                    accepting.cancel_scope.cancel()
                await self._context.terminated.set()  # idle connections close themselves
                with trio.move_on_after(GRACE_SECONDS):
                    while self._streams:
                        self._all_closed = trio.Event()
                        await self._all_closed.wait()
            finally:
                self._close_all()
            connections.cancel_scope.cancel()

    async def _accept(self, listener: trio.SocketListener, address: str, connections: trio.Nursery) -> None:
        accepting = Accepting(listener.accept, address)
        async with listener:
            while True:
                connections.start_soon(self._connection, await accepting.next())

    async def _connection(self, stream: trio.SocketStream) -> None:
        uid = peer_of(stream.socket)[0] if stream.socket.family == socket.AF_UNIX else None
        strange = self._access is not None and uid not in self._access().users
        if strange and self._strangers >= MAX_STRANGERS:
            await self._refuse(stream, uid)
            return
        self._strangers += strange
        self._streams.add(stream)
        try:
            state = ConnectionState(LifespanState({} if uid is None else {"peer_uid": uid}))
            spoken = stream if uid is not None or self._tls is None else self._encrypted(stream, self._tls)
            await _Connection(self._app, self._config, self._context, state, spoken).run()  # type: ignore[arg-type]  # it takes plain streams too
        except Exception:  # noqa: BLE001 - whatever a client has said ends its own connection, never the daemon
            _log.exception("bug in a connection", user=uid)
        finally:
            stream.socket.close()
            self._streams.discard(stream)
            self._strangers -= strange
            self._all_closed.set()

    async def _refuse(self, stream: trio.SocketStream, uid: int | None) -> None:
        """Answer at once, if the client has room for it, and close; say so once a minute."""
        if trio.current_time() >= self._refused_at + _SAY_AGAIN_SECONDS:
            self._refused_at = trio.current_time()
            _log.warning("connection refused: too many are open", limit=MAX_STRANGERS, user=uid)
        with stream.socket, suppress(OSError, trio.BrokenResourceError), trio.move_on_after(_ANSWER_SECONDS):
            if uid is not None or self._tls is None:
                await stream.send_all(_too_many())

    @staticmethod
    def _encrypted(stream: trio.SocketStream, tls: Tls) -> trio.SSLStream[trio.SocketStream]:
        return trio.SSLStream(stream, tls.context, server_side=True, https_compatible=True)

    def _close_all(self) -> None:
        """Close what is still open: it ends the writes that hypercorn shields."""
        for stream in self._streams:
            stream.socket.close()


class _Connection(TCPServer):
    """hypercorn's connection, which would keep its descriptor for the idle time after its client has closed it.

    And which fails where it answers an error while its stream is being closed: what a client sends behind its last request brings that about.
    And which writes for ever to a client that does not read.
    """

    _left = False

    async def protocol_send(self, event: Event) -> None:
        try:
            if isinstance(event, RawData):
                await self._send(event.data)
            else:
                await super().protocol_send(event)
        except trio.BusyResourceError:
            await self.protocol.handle(Closed())

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            try:
                for start in range(0, len(data), SEND_BYTES):
                    with trio.fail_after(SEND_SECONDS, shield=True):
                        await self.stream.send_all(data[start : start + SEND_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
            except trio.TooSlowError:
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._left:  # an answer that ends after its client has left makes the connection idle once more
            await super()._idle_timeout()


def _too_many() -> bytes:
    """The whole answer to a connection that is one too many."""
    error = HttpError(503, f"{MAX_STRANGERS} connections are open already", code="too-many-connections")
    body = to_json(mapping.message_to_dict(error_message(error))) + b"\n"
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def _address(listener: socket.socket, tls: Tls | None) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return str(name)
    host, port = name[:2]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
