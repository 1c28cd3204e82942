"""Connections of the control socket: bodies, clients that leave or do not read, too many, and the end of the server."""

import os
import socket
import stat
from contextlib import suppress

import pytest
import trio
import trio.testing
from control_fakes import FakeBackend, serving
from control_http import UnixHttp, ask
from structlog.testing import capture_logs

from smdaemon.cli.client import Client
from smdaemon.control import body as control_body
from smdaemon.control import events as control_events
from smdaemon.control import server as control_server
from smdaemon.control.access import Access
from smdaemon.control.body import MAX_BYTES as MAX_BODY_BYTES
from smdaemon.control.server import serve
from smdaemon.errors import ConfigError
from smdaemon.proto import v1


@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_body(server, chunked):
    """A body beyond the limit is refused, announced or not, and the server goes on."""
    body = b" " * (MAX_BODY_BYTES + 1)
    answer = ask(server.path, "POST", "/v1/exports", iter([body]) if chunked else body)
    assert (answer.status, answer.json["code"]) == (413, "request-invalid")
    assert ask(server.path, "GET", "/healthz").status == 200


def test_announced_oversized_body(server):
    """A client that asks before it sends learns at once that its body is too large."""
    answer = ask(server.path, "POST", "/v1/exports", None, {"Expect": "100-continue", "Content-Length": str(2**40)})
    assert answer.status == 413


def test_data_behind_the_last_request_ends_that_connection_alone(server):
    """An error that would be answered while the connection is being closed once ended the whole server."""
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as caller, suppress(BrokenPipeError, ConnectionResetError):
            caller.connect(str(server.path))
            caller.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nx")
            caller.shutdown(socket.SHUT_WR)
            while caller.recv(65536):
                pass
    assert ask(server.path, "GET", "/healthz").status == 200


async def test_a_bug_in_a_connection_ends_that_connection_alone(tmp_path, monkeypatch):
    """It is logged with its traceback, and the next client is answered."""
    broken = [True]

    async def run(self):
        if broken.pop():
            raise RuntimeError("of hypercorn")

    monkeypatch.setattr(control_server._Connection, "run", run)
    with capture_logs() as logs:
        async with serving(tmp_path / "s"):
            for more in (False, None):
                async with await trio.open_unix_socket(tmp_path / "s") as stream:
                    assert await stream.receive_some() == b""
                broken.append(more)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["bug in a connection"]


def test_a_client_that_leaves_before_its_body_is_no_bug(server):
    """Nothing is logged for it."""
    with capture_logs() as logs:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(server.path))
                caller.sendall(b"POST /v1/exports HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert ask(server.path, "GET", "/healthz").status == 200
    assert not [line for line in logs if line["log_level"] == "error"]


async def test_body_that_takes_too_long(tmp_path, monkeypatch):
    """A client that announces a body and does not send it is told so, and let go."""
    monkeypatch.setattr(control_body, "SECONDS", 0.05)
    async with serving(tmp_path / "s"), await trio.open_unix_socket(tmp_path / "s") as stream:
        await stream.send_all(b"POST /v1/exports HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 408")


async def test_one_stranger_too_many(tmp_path, monkeypatch):
    """Those who may only read have so many connections; one more is answered and closed, and one who may act is let in."""
    monkeypatch.setattr(control_server, "MAX_STRANGERS", 2)
    allowed = Access(frozenset())
    with capture_logs() as logs:
        async with serving(tmp_path / "s", access=lambda: allowed):
            first = [await trio.open_unix_socket(tmp_path / "s") for _ in range(2)]
            for stream in first:
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            for _ in range(2):
                async with await trio.open_unix_socket(tmp_path / "s") as refused:
                    answer = await refused.receive_some()
                    assert answer.startswith(b"HTTP/1.1 503")
                    assert b"too-many-connections" in answer
            allowed = Access(frozenset({os.getuid()}))
            async with await trio.open_unix_socket(tmp_path / "s") as owner:
                await owner.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await owner.receive_some()).startswith(b"HTTP/1.1 200")
            for stream in first:
                await stream.aclose()
    said = [line for line in logs if line["event"].startswith("connection refused")]
    assert [(line["limit"], line["user"]) for line in said] == [(2, os.getuid())]


def test_body_at_the_limit(server):
    """A body of exactly the limit is read."""
    body = b'{"model": "ranker", "source": "a"}'
    assert ask(server.path, "POST", "/v1/exports", body.ljust(MAX_BODY_BYTES)).status == 202


def test_connection_is_kept(server):
    """One connection serves many requests."""
    connection = UnixHttp(server.path)
    for _ in range(3):
        connection.request("GET", "/v1/status")
        assert connection.getresponse().read().startswith(b'{"version"')
    connection.close()


@pytest.mark.parametrize("request_first", [False, True])
def test_a_connection_whose_client_has_left_is_closed_at_once(server, request_first):
    """Its descriptor is not kept for the idle time, in which others could use it up."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(control_server._IDLE_SECONDS / 2)
        caller.connect(str(server.path))
        if request_first:
            caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert caller.recv(4096).startswith(b"HTTP/1.1 200")
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(4096):
            pass


async def test_subscriber_leaves(tmp_path):
    """A client that goes away ends its subscription."""
    path = tmp_path / "s"
    async with serving(path) as backend:
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"retry" not in received:
            received += await stream.receive_some()
        assert backend.subscribers == 1
        await stream.aclose()
        while backend.subscribers:
            await trio.lowlevel.checkpoint()


async def test_keep_alive(tmp_path, monkeypatch):
    """A silent event stream carries comments, so that nobody takes it for dead."""
    monkeypatch.setattr(control_events, "KEEP_ALIVE_SECONDS", 0)
    async with serving(tmp_path / "s"), await trio.open_unix_socket(tmp_path / "s") as stream:
        await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b": keep-alive\n\n" not in received:
            received += await stream.receive_some()


async def test_stop_despite_a_client_that_does_not_read(tmp_path, monkeypatch):
    """A client that asked for events and never reads them cannot hold up the daemon's end."""
    monkeypatch.setattr(control_server, "GRACE_SECONDS", 0.05)
    async with serving(tmp_path / "s") as backend:
        stream = await trio.open_unix_socket(tmp_path / "s")
        await stream.send_all(b"GET /v1/events?after=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        await backend.submit(v1.ExportRequest(model="ranker", source="x" * 100_000))
        for _ in range(50):
            await backend.move(1, "writing")
        await trio.testing.wait_all_tasks_blocked(0.05)
    await stream.aclose()


@pytest.mark.parametrize("target", ["/v1/status", "/v1/events?after=0"])
async def test_a_client_that_does_not_read_is_cut_off(tmp_path, monkeypatch, target):
    """It could hold one of the connections that strangers have for ever, and by asking on and on much memory."""
    monkeypatch.setattr(control_server, "SEND_SECONDS", 0.05)
    backend = FakeBackend()
    await backend.submit(v1.ExportRequest(model="ranker", source="x" * 100_000))
    for _ in range(50):
        await backend.move(1, "writing")
    async with serving(tmp_path / "s", backend=backend):
        async with await trio.open_unix_socket(tmp_path / "s") as stream:
            request = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(request.encode() * 100_000)
        while backend.subscribers:
            await trio.lowlevel.checkpoint()


async def test_request_in_flight_is_finished(tmp_path):
    """A request that the daemon works on when it is told to stop gets its answer."""
    backend = FakeBackend()
    asked, answer = trio.Event(), trio.Event()

    async def slow(_job_id):
        asked.set()
        await answer.wait()
        return v1.Job(id=1, state="cancelled")

    backend.cancel = slow
    async with serving(tmp_path / "s", backend=backend), await trio.open_unix_socket(tmp_path / "s") as stream:
        await stream.send_all(b"POST /v1/jobs/1/cancel HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        backend.stopping.set()
        await trio.testing.wait_all_tasks_blocked()
        answer.set()
        received = b""
        while chunk := await stream.receive_some():
            received += chunk
    assert received.startswith(b"HTTP/1.1 200")
    assert b'"state":"cancelled"' in received


async def test_idle_connection_does_not_hold_up_the_end(tmp_path, monkeypatch):
    """A connection that is kept open without a request is closed as soon as the daemon stops."""
    monkeypatch.setattr(control_server, "GRACE_SECONDS", 1e6)
    async with serving(tmp_path / "s"):
        stream = await trio.open_unix_socket(tmp_path / "s")
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.receive_some()
        await trio.testing.wait_all_tasks_blocked()
    await stream.aclose()


async def test_cancelled_server_leaves_nothing(tmp_path):
    """Cancelling the server, as a crash elsewhere does, closes its connections and removes its socket."""
    backend = FakeBackend()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
            stream = await trio.open_unix_socket(tmp_path / "s")
            await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some()
            nursery.cancel_scope.cancel()
        while await stream.receive_some():
            pass
    await stream.aclose()
    assert list(tmp_path.iterdir()) == []


async def test_tcp_and_unix_together(tmp_path):
    """The daemon listens on its unix socket with the wanted mode and on loopback TCP; the addresses are reported."""
    path = tmp_path / "run" / "s"
    async with serving(path, mode=0o600, tcp="127.0.0.1:0") as backend:
        tcp, unix = backend.addresses
        assert unix == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        status = await trio.to_thread.run_sync(Client(tcp).get, "/v1/status")
        assert status["pid"] == 7
    assert not path.exists()


async def test_inherited_socket():
    """A listening socket of the service manager is served as it is."""
    inherited = socket.create_server(("127.0.0.1", 0))
    async with serving(None, sockets=[inherited]) as backend:
        (address,) = backend.addresses
        assert (await trio.to_thread.run_sync(Client(address).get, "/v1/models"))["models"]


async def test_refused_address_starts_nothing():
    """A TCP address that other machines reach is refused before anything listens."""
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, check=lambda error: error.code == "config-invalid")):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(FakeBackend(), unix_socket=None, tcp="0.0.0.0:0", **kw))
