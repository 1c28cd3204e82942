"""One operation of the control socket: where it stands, what it takes and answers, and who handles it, said once."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from smdaemon.control.backend import Backend
from smdaemon.control.body import Body
from smdaemon.control.query import Parameter

Handler = Callable[[Backend, Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """One method of one path. It answers the message `answer`, or without it `media`; a `query` of None is not looked at.

    The handler finds the values of `query` in the request's state as `query`, the message of `body` as `message`, and whether
    the peer may act as `may_act`.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: type[Message] | None = None
    body: Body | None = None
    status: int = 200
    media: str = ""
    query: Mapping[str, Parameter] | None = field(default_factory=dict)
