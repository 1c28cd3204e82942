"""The control socket's paths: each handler asks the backend once and renders what it says; errors are turned at one place."""

from collections.abc import Awaitable, Callable
from functools import partial

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from smdaemon.control import body, guard, openapi, pages, query
from smdaemon.control.access import Access
from smdaemon.control.backend import Backend
from smdaemon.control.body import Body
from smdaemon.control.events import EventStream
from smdaemon.control.operation import Operation
from smdaemon.control.query import Flag, OneOf, Parameter, Text, Whole
from smdaemon.control.render import JSON, HttpError, error_status, message_response, to_json
from smdaemon.errors import ConfigError, SmdaemonError
from smdaemon.jobs.messages import error_message
from smdaemon.jobs.states import State
from smdaemon.log import get_logger
from smdaemon.proto import v1

_log = get_logger("control")

_MAX_ID = 2**63 - 1


async def _status(backend: Backend, request: Request) -> Response:
    status = backend.status()
    status.may_act = request.state.may_act
    return message_response(status, request.headers)


async def _history(backend: Backend, request: Request) -> Response:
    return message_response(backend.history(), request.headers)


async def _models(backend: Backend, request: Request) -> Response:
    return message_response(backend.models(), request.headers)


async def _jobs(backend: Backend, request: Request) -> Response:
    return message_response(await backend.jobs(**request.state.query), request.headers)


async def _queue(backend: Backend, request: Request) -> Response:
    return message_response(backend.queue(**request.state.query), request.headers)


async def _job(backend: Backend, request: Request) -> Response:
    return message_response(await backend.job(_job_id(request)), request.headers)


async def _cancel(backend: Backend, request: Request) -> Response:
    return message_response(await backend.cancel(_job_id(request)), request.headers)


async def _retry(backend: Backend, request: Request) -> Response:
    return message_response(await backend.retry(_job_id(request)), request.headers)


async def _submit(backend: Backend, request: Request) -> Response:
    job = await backend.submit(request.state.message)
    return message_response(job, request.headers, status=202, extra={"Location": f"/v1/jobs/{job.id}"})


async def _versions(backend: Backend, request: Request) -> Response:
    return message_response(await backend.versions(_model_name(request)), request.headers)


async def _pin(backend: Backend, request: Request) -> Response:
    return await _set_pin(backend, request, pinned=True)


async def _unpin(backend: Backend, request: Request) -> Response:
    return await _set_pin(backend, request, pinned=False)


async def _set_pin(backend: Backend, request: Request, *, pinned: bool) -> Response:
    wanted: v1.PinRequest = request.state.message
    version = await backend.pin(_model_name(request), wanted.version, pinned=pinned)
    return message_response(version, request.headers)


async def _prune(backend: Backend, request: Request) -> Response:
    pruned = await backend.prune(_model_name(request), **request.state.query)
    return message_response(pruned, request.headers)


async def _rollback(backend: Backend, request: Request) -> Response:
    wanted: v1.RollbackRequest = request.state.message
    job = await backend.rollback(_model_name(request), wanted.to if wanted.HasField("to") else None)
    return message_response(job, request.headers, status=202, extra={"Location": f"/v1/jobs/{job.id}"})


async def _events(backend: Backend, request: Request) -> Response:
    after, status = request.state.query["after"], request.state.query["status"]
    if last := request.headers.get(
        "last-event-id"
    ):  # what a client that reconnects has seen is newer than the address it once asked for
        after = _EVENT_ID.read("Last-Event-ID", last)
    return EventStream(backend, after, status=status)


async def _healthz(backend: Backend, _request: Request) -> Response:
    return _probe(good=backend.healthy(), bad="not healthy")


async def _readyz(backend: Backend, _request: Request) -> Response:
    return _probe(good=backend.ready(), bad="not ready")


def _probe(*, good: bool, bad: str) -> Response:
    headers = {"Cache-Control": "no-store"}
    return PlainTextResponse("ok\n" if good else f"{bad}\n", 200 if good else 503, headers)


async def _metrics(backend: Backend, request: Request) -> Response:
    try:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
    except (TypeError, ValueError):  # the library's answer to a version that is no number
        encode, media_type = choose_encoder("")
    return Response(encode(backend.registry), headers={"Content-Type": media_type})


async def _openapi(_backend: Backend, _request: Request) -> Response:
    return Response(to_json(openapi.document(OPERATIONS)), media_type=JSON)


async def _page(_backend: Backend, request: Request) -> Response:
    return pages.page_response(request, request.path_params["name"])


async def _root(_backend: Backend, request: Request) -> Response:
    if pages.wants_page(request) and pages.is_complete():
        return pages.page_response(request, pages.INDEX)
    lines = [f"{operation.method:<5} {operation.path:<28} {operation.summary}" for operation in OPERATIONS]
    told = ["smdaemon's control socket; a browser is shown a dashboard here", "", *lines, ""]
    return PlainTextResponse("\n".join(told), headers={"Vary": "Accept"})


_LIMIT = Whole(1, 1000, default=100)
_EVENT_ID = Whole(0, _MAX_ID)
_JOBS_QUERY: dict[str, Parameter] = {
    "model": Text(),
    "state": OneOf(State),
    "before": Whole(1, _MAX_ID),
    "limit": _LIMIT,
}

OPERATIONS = [
    Operation("GET", "/v1/status", _status, "the daemon as a whole", answer=v1.Status),
    Operation("GET", "/v1/history", _history, "the last hour in samples, for plots", answer=v1.History),
    Operation("GET", "/v1/models", _models, "the configured models", answer=v1.ModelList),
    Operation(
        "GET",
        "/v1/jobs",
        _jobs,
        "jobs, newest first; next_before is the next page",
        answer=v1.JobList,
        query=_JOBS_QUERY,
    ),
    Operation(
        "GET",
        "/v1/queue",
        _queue,
        "jobs that have not ended: what runs, then what waits, the oldest first",
        answer=v1.JobList,
        query={"model": Text(), "limit": _LIMIT},
    ),
    Operation("GET", "/v1/jobs/{id}", _job, "one job with its history", answer=v1.Job),
    Operation(
        "POST",
        "/v1/exports",
        _submit,
        "ask for an export",
        body=Body(v1.ExportRequest, needs=("model", "source")),
        answer=v1.Job,
        status=202,
    ),
    Operation("POST", "/v1/jobs/{id}/cancel", _cancel, "cancel an open job", answer=v1.Job),
    Operation("POST", "/v1/jobs/{id}/retry", _retry, "run a failed or cancelled job again", answer=v1.Job),
    Operation(
        "GET",
        "/v1/models/{name}/versions",
        _versions,
        "published versions, newest first, and why each stays",
        answer=v1.VersionList,
    ),
    Operation(
        "POST",
        "/v1/models/{name}/pin",
        _pin,
        "keep a version, whatever the rules",
        body=Body(v1.PinRequest, needs=("version",)),
        answer=v1.Version,
    ),
    Operation(
        "POST",
        "/v1/models/{name}/unpin",
        _unpin,
        "leave a version to the rules",
        body=Body(v1.PinRequest, needs=("version",)),
        answer=v1.Version,
    ),
    Operation(
        "POST",
        "/v1/models/{name}/prune",
        _prune,
        "remove the versions that no rule keeps; with dry_run only say which",
        answer=v1.Pruned,
        query={"dry_run": Flag()},
    ),
    Operation(
        "POST",
        "/v1/models/{name}/rollback",
        _rollback,
        "publish an older version once more, as the newest",
        body=Body(v1.RollbackRequest, required=False),
        answer=v1.Job,
        status=202,
    ),
    Operation(
        "GET",
        "/v1/events",
        _events,
        "moves of jobs as server-sent events; resumes after Last-Event-ID or ?after=; with status the status too, as it changes",
        answer=v1.Event,
        query={"after": _EVENT_ID, "status": Flag()},
        media="text/event-stream",
    ),
    Operation("GET", "/healthz", _healthz, "200 while the daemon makes progress", media="text/plain", query=None),
    Operation("GET", "/readyz", _readyz, "200 while requests are taken", media="text/plain", query=None),
    Operation("GET", "/metrics", _metrics, "Prometheus metrics", media="text/plain", query=None),
    Operation("GET", "/v1/openapi.json", _openapi, "this description for programs", media=JSON, query=None),
    Operation("GET", "/", _root, "this description; for browsers the dashboard", media="text/plain", query=None),
]

# Not described: what the dashboard loads.
_PAGE_FILES = Operation(
    "GET", f"{pages.PREFIX}{{name:path}}", _page, "a file of the dashboard", media="*/*", query=None
)


def _endpoint(
    backend: Backend, operation: Operation, access: Callable[[], Access] | None
) -> Callable[[Request], Awaitable[Response]]:
    """The handler of `operation` behind the checks that every path shares, in the order that gives nothing away."""

    async def endpoint(request: Request) -> Response:
        guard.refuse_foreign_pages(request)
        request.state.may_act = access is None or access().admit(request)
        if operation.query is not None:
            request.state.query = query.read(request, operation.query)
        if operation.body is not None:
            request.state.message = await body.read(request, operation.body)
        return await operation.handler(backend, request)

    return endpoint


def make_app(backend: Backend, access: Callable[[], Access] | None = None) -> ASGIApp:
    """The ASGI application over `backend`; `access` says at each request who may act, without it everyone may."""
    return partial(_log_bugs, _make_starlette(backend, access))


async def _log_bugs(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Log with its traceback what starlette raises again behind its answer of 500; the daemon goes on."""
    try:
        await app(scope, receive, send)
    except ClientDisconnect:
        pass  # it left before its body had come: nobody waits for an answer
    except Exception:  # noqa: BLE001 - here a bug ends: it is logged, and only this request fails
        _log.exception("bug in a request", method=scope.get("method"), path=scope.get("path"))


def _make_starlette(backend: Backend, access: Callable[[], Access] | None) -> Starlette:
    routes = [
        Route(each.path, _endpoint(backend, each, access), methods=[each.method]) for each in [*OPERATIONS, _PAGE_FILES]
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            SmdaemonError: _on_error,
            HTTPException: _on_http_exception,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SmdaemonError)
    status = error_status(error)
    return message_response(error_message(error), request.headers, status=status)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = "takes no" if error.status_code == 405 else "is not known to"
    wrong = HttpError(
        error.status_code, f"{request.url.path!r} {reason} {request.method}", remedy="GET / lists the paths"
    )
    return message_response(error_message(wrong), request.headers, status=wrong.status, extra=error.headers)


async def _on_bug(request: Request, _error: Exception) -> Response:
    """The answer to a bug; `_log_bugs` has the traceback."""
    wrong = v1.Error(
        code="internal-error", message="an error inside smdaemon", remedy="see the daemon's log; report it"
    )
    return message_response(wrong, request.headers, status=500)


def _model_name(request: Request) -> str:
    return str(request.path_params["name"])


def _job_id(request: Request) -> int:
    text = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _MAX_ID):
        raise ConfigError("job-unknown", f"there is no job {text!r}")
    return int(text)
