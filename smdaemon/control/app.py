"""The control socket's paths: each handler parses, asks the backend once, and renders; errors are turned at one place."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from smdaemon.control import guard, openapi, pages, query
from smdaemon.control.access import Access
from smdaemon.control.backend import Backend
from smdaemon.control.events import EventStream
from smdaemon.control.openapi import Operation
from smdaemon.control.query import Flag, OneOf, Parameter, Text, Whole
from smdaemon.control.render import (
    JSON,
    HttpError,
    error_status,
    message_response,
    parse_message,
    parse_request,
    to_json,
)
from smdaemon.errors import ConfigError, DropError, SmdaemonError
from smdaemon.jobs.messages import error_message
from smdaemon.jobs.states import State
from smdaemon.log import get_logger
from smdaemon.proto import v1

_log = get_logger("control")

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 30.0
_MAX_DROPPED_BYTES = 16 << 20
_MAX_ID = 2**63 - 1

Handler = Callable[[Backend, Request], Awaitable[Response]]


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
    wanted = parse_request(await _body(request), request.headers.get("content-type", ""))
    job = await backend.submit(wanted)
    return message_response(job, request.headers, status=202, extra={"Location": f"/v1/jobs/{job.id}"})


async def _versions(backend: Backend, request: Request) -> Response:
    return message_response(await backend.versions(_model_name(request)), request.headers)


async def _pin(backend: Backend, request: Request) -> Response:
    return await _set_pin(backend, request, pinned=True)


async def _unpin(backend: Backend, request: Request) -> Response:
    return await _set_pin(backend, request, pinned=False)


async def _set_pin(backend: Backend, request: Request, *, pinned: bool) -> Response:
    wanted = parse_message(await _body(request), request.headers.get("content-type", ""), v1.PinRequest)
    if not wanted.HasField("version"):
        raise DropError("request-invalid", "the request names no version", remedy='add "version"')
    version = await backend.pin(_model_name(request), wanted.version, pinned=pinned)
    return message_response(version, request.headers)


async def _prune(backend: Backend, request: Request) -> Response:
    pruned = await backend.prune(_model_name(request), **request.state.query)
    return message_response(pruned, request.headers)


async def _rollback(backend: Backend, request: Request) -> Response:
    body = await _body(request)
    wanted = v1.RollbackRequest()
    if body.strip():
        wanted = parse_message(body, request.headers.get("content-type", ""), v1.RollbackRequest)
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
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
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
    Operation("GET", "/v1/status", "the daemon as a whole", answer="Status"),
    Operation("GET", "/v1/history", "the last hour in samples, for plots", answer="History"),
    Operation("GET", "/v1/models", "the configured models", answer="ModelList"),
    Operation(
        "GET", "/v1/jobs", "jobs, newest first; next_before is the next page", answer="JobList", query=_JOBS_QUERY
    ),
    Operation(
        "GET",
        "/v1/queue",
        "jobs that have not ended: what runs, then what waits, the oldest first",
        answer="JobList",
        query={"model": Text(), "limit": _LIMIT},
    ),
    Operation("GET", "/v1/jobs/{id}", "one job with its history", answer="Job"),
    Operation(
        "POST",
        "/v1/exports",
        "ask for an export",
        body="ExportRequest",
        answer="Job",
        status=202,
        needs=("model", "source"),
    ),
    Operation("POST", "/v1/jobs/{id}/cancel", "cancel an open job", answer="Job"),
    Operation("POST", "/v1/jobs/{id}/retry", "run a failed or cancelled job again", answer="Job"),
    Operation(
        "GET",
        "/v1/models/{name}/versions",
        "published versions, newest first, and why each stays",
        answer="VersionList",
    ),
    Operation(
        "POST",
        "/v1/models/{name}/pin",
        "keep a version, whatever the rules",
        body="PinRequest",
        answer="Version",
        needs=("version",),
    ),
    Operation(
        "POST",
        "/v1/models/{name}/unpin",
        "leave a version to the rules",
        body="PinRequest",
        answer="Version",
        needs=("version",),
    ),
    Operation(
        "POST",
        "/v1/models/{name}/prune",
        "remove the versions that no rule keeps; with dry_run only say which",
        answer="Pruned",
        query={"dry_run": Flag()},
    ),
    Operation(
        "POST",
        "/v1/models/{name}/rollback",
        "publish an older version once more, as the newest",
        body="RollbackRequest",
        answer="Job",
        status=202,
        body_required=False,
    ),
    Operation(
        "GET",
        "/v1/events",
        "moves of jobs as server-sent events; resumes after Last-Event-ID or ?after=; with status the status too, as it changes",
        answer="Event",
        query={"after": _EVENT_ID, "status": Flag()},
        media="text/event-stream",
    ),
    Operation("GET", "/healthz", "200 while the daemon makes progress", media="text/plain", query=None),
    Operation("GET", "/readyz", "200 while requests are taken", media="text/plain", query=None),
    Operation("GET", "/metrics", "Prometheus metrics", media="text/plain", query=None),
    Operation("GET", "/v1/openapi.json", "this description for programs", media=JSON, query=None),
    Operation("GET", "/", "this description; for browsers the dashboard", media="text/plain", query=None),
]

_HANDLERS: dict[str, Handler] = {
    "/v1/status": _status,
    "/v1/history": _history,
    "/v1/models": _models,
    "/v1/jobs": _jobs,
    "/v1/queue": _queue,
    "/v1/jobs/{id}": _job,
    "/v1/exports": _submit,
    "/v1/jobs/{id}/cancel": _cancel,
    "/v1/jobs/{id}/retry": _retry,
    "/v1/models/{name}/versions": _versions,
    "/v1/models/{name}/pin": _pin,
    "/v1/models/{name}/unpin": _unpin,
    "/v1/models/{name}/prune": _prune,
    "/v1/models/{name}/rollback": _rollback,
    "/v1/events": _events,
    "/healthz": _healthz,
    "/readyz": _readyz,
    "/metrics": _metrics,
    "/v1/openapi.json": _openapi,
    "/": _root,
}


def _endpoint(
    backend: Backend,
    handler: Handler,
    access: Callable[[], Access] | None,
    parameters: Mapping[str, Parameter] | None = None,
) -> Callable[[Request], Awaitable[Response]]:
    """`handler` behind the checks that every path shares; it finds the values of `parameters` in the request's state."""

    async def endpoint(request: Request) -> Response:
        guard.refuse_foreign_pages(request)
        request.state.may_act = access is None or access().admit(request)
        if parameters is not None:
            request.state.query = query.read(request, parameters)
        return await handler(backend, request)

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
        Route(each.path, _endpoint(backend, _HANDLERS[each.path], access, each.query), methods=[each.method])
        for each in OPERATIONS
    ]
    routes.append(Route(f"{pages.PREFIX}{{name:path}}", _endpoint(backend, _page, access), methods=["GET"]))
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


async def _body(request: Request) -> bytes:
    """The body; HttpError 413 when it is too large, 408 when it takes too long.

    Most clients write all of a request before they read: what is moderately too large is read and dropped, so that they see
    the answer and not a broken pipe. One that asks first (Expect: 100-continue, as curl does) is told at once.
    """
    declared = request.headers.get("content-length", "")
    asks_first = "expect" in request.headers and declared.isdigit()
    size = int(declared) if asks_first else 0
    body = bytearray()
    if size <= MAX_BODY_BYTES:
        size = 0
        with trio.move_on_after(BODY_SECONDS) as deadline:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BODY_BYTES:
                    body += chunk
                elif size > _MAX_DROPPED_BYTES:
                    break
        if deadline.cancelled_caught:
            message = f"the body was not sent within {BODY_SECONDS:g} s"
            raise HttpError(408, message, remedy="send it at once", code="request-invalid")
    if size > MAX_BODY_BYTES:
        raise HttpError(
            413,
            f"the body is larger than {MAX_BODY_BYTES} bytes",
            remedy="name the source by its path; tensors are not sent over this socket",
            code="request-invalid",
        )
    return bytes(body)
