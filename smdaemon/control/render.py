"""Messages as HTTP bodies and back: JSON by default, protobuf when the client asks for it; errors with their status."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.datastructures import Headers
from starlette.responses import Response

from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError
from smdaemon.proto import mapping
from smdaemon.proto.pool import deterministic

M = TypeVar("M", bound=Message)

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
_PROTOBUF_TYPES = {PROTOBUF, "application/protobuf"}
# curl -d says form-urlencoded whatever it sends; what is not JSON is refused by the parser anyway.
_JSON_TYPES = {"", JSON, "text/json", "application/x-www-form-urlencoded"}

_NOT_FOUND = {"job-unknown", "request-model-unknown", "version-unknown"}
_CONFLICT = {"job-not-cancellable", "job-not-retryable", "request-duplicate", "version-exists", "export-dir-exists"}


class HttpError(SmdaemonError):
    """An error of HTTP itself (path, method, size, media type), whose status no code implies."""

    def __init__(self, status: int, message: str, *, remedy: str | None = None, code: str = "usage") -> None:
        super().__init__(code, message, remedy=remedy)
        self.status = status


def to_json(data: Any) -> bytes:
    """`data` as compact UTF-8 JSON with the keys in their order."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def wants_protobuf(headers: Headers) -> bool:
    """Whether the Accept header prefers protobuf to JSON; at equal weight the one that is named first is preferred."""
    weights: dict[bool, float] = {}
    for entry in headers.get("accept", "").split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        if kind in _PROTOBUF_TYPES or kind in {JSON, "application/*", "*/*"}:
            is_protobuf = kind in _PROTOBUF_TYPES
            weights[is_protobuf] = max(weights.get(is_protobuf, -1.0), _weight(parameters))
    if weights.get(True, 0) <= 0:
        return False
    return weights[True] > weights.get(False, 0) or (weights[True] == weights[False] and next(iter(weights)))


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0
    return 1


def message_response(
    message: Message, headers: Headers, *, status: int = 200, extra: Mapping[str, str] | None = None
) -> Response:
    """`message` as the client that sent `headers` wants it."""
    named = {"Cache-Control": "no-store", "Vary": "Accept", **(extra or {})}
    if wants_protobuf(headers):
        media = f"{PROTOBUF}; message={message.DESCRIPTOR.full_name}"
        return Response(deterministic(message), status, named, media_type=media)
    return Response(to_json(mapping.message_to_dict(message)) + b"\n", status, named, media_type=JSON)


def error_status(error: SmdaemonError) -> int:
    """The HTTP status that goes with an error: by its code, else by who must act."""
    if isinstance(error, HttpError):
        return error.status
    if error.code in _NOT_FOUND:
        return 404
    if error.code in _CONFLICT:
        return 409
    return 503 if isinstance(error, EnvironmentFault) else 400


def parse_message(body: bytes, content_type: str, wanted: type[M]) -> M:
    """The message of class `wanted` in a request's body; DropError request-invalid, HttpError 415."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _PROTOBUF_TYPES:
        return mapping.message_from_protobuf(body, wanted)
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise HttpError(
            415,
            f"a request cannot be sent as {kind!r}",
            remedy=f"send it as {JSON} or {PROTOBUF}",
            code="request-invalid",
        )
    if not body.strip():
        raise DropError("request-invalid", "the body is empty")
    return mapping.dict_to_message(mapping.parse_json(body), wanted)
