"""Every path of the control socket, asked over a real unix socket."""

import json
from contextlib import aclosing, asynccontextmanager

import pytest
from control_http import UnixHttp, ask
from structlog.testing import capture_logs

from smdaemon.cli.client import RemoteError
from smdaemon.control.app import OPERATIONS
from smdaemon.errors import EnvironmentFault
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
        (("GET", "/v1/jobs?state=gone", None), (400, "usage")),
        (("GET", "/v1/events?after=-1", None), (400, "usage")),
        (("POST", "/v1/exports", ""), (400, "request-invalid")),
        (("POST", "/v1/exports", "{"), (400, "request-invalid")),
        (("POST", "/v1/exports", '{"sourc": "x"}'), (400, "request-invalid")),
        (("POST", "/v1/exports", '{"model": "ranker"}'), (400, "request-invalid")),
        (("POST", "/v1/exports", '{"source": "x"}'), (400, "request-invalid")),
        (("POST", "/v1/exports", '{"model": "nobody", "source": "x"}'), (404, "request-model-unknown")),
        (("POST", "/v1/exports", '{"model": "full", "source": "x"}'), (503, "disk-full")),
        (("GET", "/v1/models/nobody/versions", None), (404, "request-model-unknown")),
        (("GET", "/v1/models/ranker/versions?x=1", None), (400, "usage")),
        (("GET", "/v1/models/ranker", None), (404, "usage")),
        (("POST", "/v1/models/ranker/pin", '{"version": 9}'), (404, "version-unknown")),
        (("POST", "/v1/models/ranker/pin", "{}"), (400, "request-invalid")),
        (("POST", "/v1/models/ranker/pin", ""), (400, "request-invalid")),
        (("POST", "/v1/models/ranker/unpin", '{"version": "x"}'), (400, "request-invalid")),
        (("POST", "/v1/models/ranker/prune?dry_run=yes", None), (400, "usage")),
        (("POST", "/v1/models/ranker/rollback", '{"too": 1}'), (400, "request-invalid")),
        (("POST", "/v1/models/nobody/rollback", None), (404, "request-model-unknown")),
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
        answer = ask(server.path, "POST", "/v1/exports", '{"model": "broken", "source": "x"}')
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


@pytest.mark.parametrize(("path", "attribute"), [("/healthz", "is_healthy"), ("/readyz", "is_ready")])
def test_probes(server, path, attribute):
    """A probe answers 200 while all is well and 503 otherwise."""
    assert ask(server.path, "GET", path).status == 200
    setattr(server.backend, attribute, False)
    assert ask(server.path, "GET", path).status == 503


def test_metrics(server):
    """Prometheus gets the text format by default and OpenMetrics when it asks for it; who asks strangely gets the default."""
    server.backend.metrics.observe_export("ranker", 0.2, 1000)
    answer = ask(server.path, "GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'smdaemon_exported_bytes_total{model="ranker"} 1000.0' in answer.content.decode()
    answer = ask(server.path, "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")
    for strange in ("application/openmetrics-text; version=x", "text/plain; version==1"):
        answer = ask(server.path, "GET", "/metrics", headers={"Accept": strange})
        assert answer.headers["Content-Type"].startswith("text/plain")


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
    assert pin["requestBody"]["content"]["application/json"]["schema"]["required"] == ["version"]
    limit = document["paths"]["/v1/queue"]["get"]["parameters"][1]["schema"]
    assert limit == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
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


def test_the_head_of_the_events_is_answered_and_ends(server):
    """HEAD asks for no events: nothing is followed for it."""
    answer = ask(server.path, "HEAD", "/v1/events")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert server.backend.subscribers == 0


def test_a_journal_that_cannot_be_read_ends_the_events(server, client):
    """The client comes back and goes on where it was; the log says what it is, which is no bug."""

    @asynccontextmanager
    async def faulty(_after, /, *, status=False):
        async def broken():
            yield v1.Event(seq=1, job=v1.Job(id=1, state="queued"))
            raise EnvironmentFault("io-error", "reading the journal", retryable=True)

        async with aclosing(broken()) as moves:
            yield moves

    server.backend.events = faulty
    with capture_logs() as logs:
        assert [event.seq for event in client.events(after=0)] == [1]
    assert [(line["log_level"], line["code"]) for line in logs] == [("warning", "io-error")]
    assert "exc_info" not in logs[0]
