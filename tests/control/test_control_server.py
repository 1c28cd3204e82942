"""Every path of the control socket, asked over a real unix socket."""

import json
import os
import socket
import stat
from contextlib import suppress

import pytest
import trio
import trio.testing
from control_fakes import FakeBackend
from control_http import UnixHttp, ask
from structlog.testing import capture_logs

from smdaemon.cli.client import Client, RemoteError
from smdaemon.control import app as control_app
from smdaemon.control import events as control_events
from smdaemon.control import server as control_server
from smdaemon.control.access import Access
from smdaemon.control.app import MAX_BODY_BYTES, OPERATIONS
from smdaemon.control.server import serve
from smdaemon.errors import ConfigError
from smdaemon.proto import v1

PROTOBUF = {"Accept": "application/x-protobuf"}


def submit(client, **request):
    """A job of the model 'ranker'."""
    return client.post("/v1/exports", {"model": "ranker", "source": "ckpt-41.npz", **request})


def test_status_and_models(client):
    """Status and models answer as JSON with the proto's names, whole numbers and RFC 3339 times."""
    status = client.get("/v1/status")
    assert status["phase"] == "running"
    assert status["host_memory_bytes"] == 2**30
    assert status["started_at"] == "2023-11-14T22:13:20Z"
    assert "config_error" not in status
    assert status["models"] == client.get("/v1/models")["models"]


def test_submit_and_read_back(server, client):
    """An export is accepted with 202 and the job's address; the address answers with the history."""
    body = json.dumps({"model": "ranker", "source": "a.npz", "version": 41})
    answer = ask(server.path, "POST", "/v1/exports", body, {"Content-Type": "application/json"})
    assert answer.status == 202
    assert answer.json["version"] == 41
    job = client.get(answer.headers["Location"])
    assert job["state"] == "queued"
    assert [move["state"] for move in job["history"]] == ["queued"]


def test_protobuf_both_ways(server):
    """A client may send and receive protobuf's wire format."""
    request = v1.ExportRequest(model="ranker", source="a", rename={"x": "y"})
    headers = {**PROTOBUF, "Content-Type": "application/protobuf"}
    answer = ask(server.path, "POST", "/v1/exports", request.SerializeToString(), headers)
    assert answer.headers["Content-Type"].startswith("application/x-protobuf")
    assert v1.Job.FromString(answer.content).source == "a"
    assert v1.Status.FromString(ask(server.path, "GET", "/v1/status", headers=PROTOBUF).content).pid == 7


def test_error_as_protobuf(server):
    """Errors too come in the format that was asked for."""
    answer = ask(server.path, "GET", "/v1/jobs/9", headers=PROTOBUF)
    assert answer.status == 404
    assert v1.Error.FromString(answer.content).code == "job-unknown"


def test_jobs_filter_and_page(server, client):
    """Jobs come newest first, filtered, in pages that next_before links."""
    for _ in range(5):
        submit(client)
    server.call(server.backend.move, 2, "failed")
    page = client.get("/v1/jobs", limit=2)
    assert [job["id"] for job in page["jobs"]] == [5, 4]
    assert [job["id"] for job in client.get("/v1/jobs", before=page["next_before"], limit=5)["jobs"]] == [3, 2, 1]
    assert [job["id"] for job in client.get("/v1/jobs", state="failed", model="ranker")["jobs"]] == [2]
    assert client.get("/v1/jobs", model="nobody") == {"jobs": [], "next_before": 0}


def test_cancel_and_retry(client):
    """A job is cancelled and retried; what its state forbids is a conflict."""
    submit(client)
    assert client.post("/v1/jobs/1/cancel")["state"] == "cancelled"
    assert client.post("/v1/jobs/1/retry")["attempts"] == 2
    with pytest.raises(RemoteError) as caught:
        client.post("/v1/jobs/1/retry")
    assert caught.value.code == "job-not-retryable"


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (("GET", "/v1/jobs/7", None), (404, "job-unknown")),
        (("GET", "/v1/jobs/abc", None), (404, "job-unknown")),
        (("GET", "/v1/jobs/99999999999999999999", None), (404, "job-unknown")),
        (("POST", "/v1/jobs/7/cancel", None), (404, "job-unknown")),
        (("GET", "/v1/nothing", None), (404, "usage")),
        (("GET", "/v1/status/", None), (404, "usage")),
        (("DELETE", "/v1/jobs/7", None), (405, "usage")),
        (("GET", "/v1/jobs?limit=0", None), (400, "usage")),
        (("GET", "/v1/jobs?limit=1001", None), (400, "usage")),
        (("GET", "/v1/jobs?limit=1&limit=2", None), (400, "usage")),
        (("GET", "/v1/jobs?modle=x", None), (400, "usage")),
        (("GET", "/v1/events?after=-1", None), (400, "usage")),
        (("POST", "/v1/exports", ""), (400, "request-invalid")),
        (("POST", "/v1/exports", "{"), (400, "request-invalid")),
        (("POST", "/v1/exports", '{"sourc": "x"}'), (400, "request-invalid")),
        (("POST", "/v1/exports", '{"model": "nobody"}'), (400, "request-model-unknown")),
        (("POST", "/v1/exports", '{"model": "full"}'), (503, "disk-full")),
        (("GET", "/v1/models/nobody/versions", None), (400, "request-model-unknown")),
        (("GET", "/v1/models/ranker/versions?x=1", None), (400, "usage")),
        (("GET", "/v1/models/ranker", None), (404, "usage")),
        (("POST", "/v1/models/ranker/pin", '{"version": 9}'), (404, "version-unknown")),
        (("POST", "/v1/models/ranker/pin", "{}"), (400, "request-invalid")),
        (("POST", "/v1/models/ranker/pin", ""), (400, "request-invalid")),
        (("POST", "/v1/models/ranker/unpin", '{"version": "x"}'), (400, "request-invalid")),
        (("POST", "/v1/models/ranker/prune?dry_run=yes", None), (400, "usage")),
        (("POST", "/v1/models/ranker/rollback", '{"too": 1}'), (400, "request-invalid")),
        (("POST", "/v1/models/nobody/rollback", None), (400, "request-model-unknown")),
    ],
)
def test_errors(server, asked, answered):
    """Each error is a v1.Error with its stable code, a remedy, and the status that fits."""
    answer = ask(server.path, *asked)
    assert (answer.status, answer.json["code"]) == answered
    assert answer.json["remedy"]
    assert answer.json["retryable"] is (answered[1] == "disk-full")


def test_versions_pin_and_unpin(client):
    """Versions are listed with the reasons for which they stay; a pin is one of them."""
    listed = client.get("/v1/models/ranker/versions")
    assert [(each["version"], each["kept_by"]) for each in listed["versions"]] == [
        (43, ["the newest"]),
        (42, []),
        (41, ["keep_best = 1"]),
    ]
    assert listed["versions"][0]["published_at"] == "2023-11-14T22:14:03Z"
    assert client.post("/v1/models/ranker/pin", {"version": 42})["kept_by"] == ["pinned"]
    assert client.post("/v1/models/ranker/unpin", {"version": 42})["pinned"] is False


def test_prune_and_dry_run(client):
    """Whether it is a dry run is a parameter of the address, true or false."""
    for query, dry in (({}, False), ({"dry_run": "false"}, False), ({"dry_run": "true"}, True)):
        answer = client.post("/v1/models/ranker/prune", **query)
        assert (answer["dry_run"], answer["removed"]) == (dry, [42])


def test_rollback_with_and_without_a_body(server, client):
    """A rollback is accepted as an export is, with 202 and the job's address; the body may be left out, or protobuf."""
    answer = ask(server.path, "POST", "/v1/models/ranker/rollback")
    assert (answer.status, answer.headers["Location"], answer.json["restores"]) == (202, "/v1/jobs/1", 42)
    assert client.post("/v1/models/ranker/rollback", {"to": 41})["restores"] == 41
    request = v1.RollbackRequest(to=41).SerializeToString()
    answer = ask(server.path, "POST", "/v1/models/ranker/rollback", request, {"Content-Type": "application/x-protobuf"})
    assert answer.json["restores"] == 41


def test_bug_is_logged_and_hidden(server):
    """A bug answers 500 without details, leaves a traceback in the log, and the server goes on."""
    with capture_logs() as logged:
        answer = ask(server.path, "POST", "/v1/exports", '{"model": "broken"}')
        assert ask(server.path, "GET", "/healthz").status == 200
    assert answer.status == 500
    assert answer.json["code"] == "internal-error"
    assert "a bug" not in answer.content.decode()
    (entry,) = logged
    assert (entry["event"], entry["path"], entry["exc_info"]) == ("bug in a request", "/v1/exports", True)


def test_unknown_media_type(server):
    """A body of another media type is refused with 415."""
    answer = ask(server.path, "POST", "/v1/exports", "<x/>", {"Content-Type": "application/xml"})
    assert (answer.status, answer.json["code"]) == (415, "request-invalid")


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

    backend = FakeBackend()
    monkeypatch.setattr(control_server._Connection, "run", run)
    with trio.fail_after(20), capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
            for more in (False, None):
                async with await trio.open_unix_socket(tmp_path / "s") as stream:
                    assert await stream.receive_some() == b""
                broken.append(more)
            backend.stopping.set()
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
    monkeypatch.setattr(control_app, "BODY_SECONDS", 0.05)
    backend = FakeBackend()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
            async with await trio.open_unix_socket(tmp_path / "s") as stream:
                await stream.send_all(b"POST /v1/exports HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                answer = await stream.receive_some()
            backend.stopping.set()
    assert answer.startswith(b"HTTP/1.1 408")


async def test_one_stranger_too_many(tmp_path, monkeypatch):
    """Those who may only read have so many connections; one more is answered and closed, and one who may act is let in."""
    monkeypatch.setattr(control_server, "MAX_STRANGERS", 2)
    backend = FakeBackend()
    allowed = Access(frozenset())
    with trio.fail_after(20), capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", access=lambda: allowed, **kw))
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
            backend.stopping.set()
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


@pytest.mark.parametrize(("path", "attribute"), [("/healthz", "is_healthy"), ("/readyz", "is_ready")])
def test_probes(server, path, attribute):
    """A probe answers 200 while all is well and 503 otherwise."""
    assert ask(server.path, "GET", path).status == 200
    setattr(server.backend, attribute, False)
    assert ask(server.path, "GET", path).status == 503


def test_metrics(server):
    """Prometheus gets the text format by default and OpenMetrics when it asks for it."""
    server.backend.metrics.observe_export("ranker", 0.2, 1000)
    answer = ask(server.path, "GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'smdaemon_exported_bytes_total{model="ranker"} 1000.0' in answer.content.decode()
    answer = ask(server.path, "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


def test_openapi_names_every_path(server):
    """The description holds every operation, and every schema that it refers to."""
    document = ask(server.path, "GET", "/v1/openapi.json").json
    assert {(path, method) for path, entry in document["paths"].items() for method in entry} == {
        (operation.path, operation.method.lower()) for operation in OPERATIONS
    }
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    assert {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]} <= schemas.keys()
    assert schemas["Job"]["properties"]["history"]["items"] == {"$ref": "#/components/schemas/Transition"}
    pin = document["paths"]["/v1/models/{name}/pin"]["post"]
    assert (pin["parameters"][0]["schema"], pin["requestBody"]["required"]) == ({"type": "string"}, True)
    assert document["paths"]["/v1/models/{name}/rollback"]["post"]["requestBody"]["required"] is False
    identifiers = [entry["operationId"] for path in document["paths"].values() for entry in path.values()]
    assert len(set(identifiers)) == len(identifiers)
    assert schemas["ExportRequest"]["properties"]["metrics"]["additionalProperties"] == {
        "type": "number",
        "format": "double",
    }
    assert schemas["ExportRequest"]["properties"]["rename"]["additionalProperties"] == {"type": "string"}


def test_root_lists_every_path(server):
    """GET / is a page of text that names every path."""
    text = ask(server.path, "GET", "/").content.decode()
    assert all(operation.path in text for operation in OPERATIONS)


def test_events_live_and_resumed(server, client):
    """Events come as they happen; ?after= gives those that were missed, in order, none twice."""
    submit(client)
    stream = client.events(after=0)
    first = next(stream)
    assert (first.seq, first.data["job"]["state"]) == (1, "queued")
    server.call(server.backend.move, 1, "writing")
    assert next(stream).data["job"]["state"] == "writing"
    stream.close()
    server.call(server.backend.move, 1, "published")
    resumed = client.events(after=1)
    assert [next(resumed).seq, next(resumed).seq] == [2, 3]
    resumed.close()


def test_last_event_id_wins(server, client):
    """Last-Event-ID, which a browser sends when it reconnects, overrides the ?after= of the address."""
    for _ in range(3):
        submit(client)
    connection = UnixHttp(server.path)
    connection.request("GET", "/v1/events?after=0", headers={"Last-Event-ID": "2"})
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    lines = [response.readline() for _ in range(4)]
    assert lines[2] == b"id: 3\n"
    assert lines[3] == b"event: job\n"
    response.close()
    connection.close()


def test_events_end_when_stopping(server, client):
    """Event streams end when the daemon stops, so that they do not hold it up."""
    stream = client.events(after=0)
    submit(client)
    assert next(stream).seq == 1
    server.stop()
    assert list(stream) == []


async def test_subscriber_leaves(tmp_path):
    """A client that goes away ends its subscription."""
    backend = FakeBackend()
    path = tmp_path / "s"
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda **kw: serve(backend, unix_socket=path, **kw))
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b"retry" not in received:
            received += await stream.receive_some()
        assert backend.subscribers == 1
        await stream.aclose()
        with trio.fail_after(10):
            while backend.subscribers:
                await trio.lowlevel.checkpoint()
        backend.stopping.set()


async def test_keep_alive(tmp_path, monkeypatch):
    """A silent event stream carries comments, so that nobody takes it for dead."""
    monkeypatch.setattr(control_events, "KEEP_ALIVE_SECONDS", 0)
    backend = FakeBackend()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
        async with await trio.open_unix_socket(tmp_path / "s") as stream:
            await stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            with trio.fail_after(10):
                while b": keep-alive\n\n" not in received:
                    received += await stream.receive_some()
        backend.stopping.set()


async def test_stop_despite_a_client_that_does_not_read(tmp_path, monkeypatch):
    """A client that asked for events and never reads them cannot hold up the daemon's end."""
    monkeypatch.setattr(control_server, "GRACE_SECONDS", 0.05)
    backend = FakeBackend()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
            stream = await trio.open_unix_socket(tmp_path / "s")
            await stream.send_all(b"GET /v1/events?after=0 HTTP/1.1\r\nHost: x\r\n\r\n")
            await backend.submit(v1.ExportRequest(model="ranker", source="x" * 100_000))
            for _ in range(50):
                await backend.move(1, "writing")
            await trio.testing.wait_all_tasks_blocked(0.05)
            backend.stopping.set()
    await stream.aclose()


async def test_request_in_flight_is_finished(tmp_path):
    """A request that the daemon works on when it is told to stop gets its answer."""
    backend = FakeBackend()
    asked, answer = trio.Event(), trio.Event()

    async def slow(_job_id):
        asked.set()
        await answer.wait()
        return v1.Job(id=1, state="cancelled")

    backend.cancel = slow
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
        async with await trio.open_unix_socket(tmp_path / "s") as stream:
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
    backend = FakeBackend()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(backend, unix_socket=tmp_path / "s", **kw))
            stream = await trio.open_unix_socket(tmp_path / "s")
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some()
            await trio.testing.wait_all_tasks_blocked()
            backend.stopping.set()
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
    backend = FakeBackend()
    path = tmp_path / "run" / "s"
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(
            lambda **kw: serve(backend, unix_socket=path, mode=0o600, tcp="127.0.0.1:0", **kw)
        )
        assert addresses[1] == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        status = await trio.to_thread.run_sync(Client(addresses[0]).get, "/v1/status")
        assert status["pid"] == 7
        backend.stopping.set()
    assert not path.exists()


async def test_inherited_socket():
    """A listening socket of the service manager is served as it is."""
    backend = FakeBackend()
    inherited = socket.create_server(("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(lambda **kw: serve(backend, unix_socket=None, sockets=[inherited], **kw))
        assert (await trio.to_thread.run_sync(Client(address).get, "/v1/models"))["models"]
        backend.stopping.set()


async def test_foreign_pages_are_refused():
    """A web page cannot reach the daemon through the browser of somebody on the same machine."""
    backend = FakeBackend()

    async def status_for(port, extra):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"POST /v1/jobs/1/cancel HTTP/1.1\r\nConnection: close\r\n" + extra + b"\r\n")
            return int((await stream.receive_some()).split()[1])

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(lambda **kw: serve(backend, unix_socket=None, tcp="127.0.0.1:0", **kw))
        port = int(address.rpartition(":")[2])
        assert await status_for(port, b"Host: localhost\r\n") == 404
        assert await status_for(port, b"Host: localhost\r\nOrigin: http://evil.example\r\n") == 403
        assert await status_for(port, b"Host: localhost\r\nSec-Fetch-Site: cross-site\r\n") == 403
        assert await status_for(port, b"Host: rebound.example\r\n") == 403
        backend.stopping.set()


async def test_refused_address_starts_nothing():
    """A TCP address that other machines reach is refused before anything listens."""
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, check=lambda error: error.code == "config-invalid")):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(FakeBackend(), unix_socket=None, tcp="0.0.0.0:0", **kw))
