"""Bodies of requests: which message a path takes, said once, for the description and for reading it; how large and how slow they may be."""

from dataclasses import dataclass

import trio
from google.protobuf.message import Message
from starlette.requests import Request

from smdaemon.control.render import HttpError, parse_message
from smdaemon.errors import DropError

MAX_BYTES = 1 << 20
SECONDS = 30.0
_MAX_DROPPED_BYTES = 16 << 20


@dataclass(frozen=True)
class Body:
    """A message of the class `message`; `needs` are the fields without which it is refused.

    One that is not `required` may be left out: then it is the empty message.
    """

    message: type[Message]
    needs: tuple[str, ...] = ()
    required: bool = True


async def read(request: Request, wanted: Body) -> Message:
    """The message in a request's body; DropError request-invalid, HttpError 408, 413, 415."""
    content = await _content(request)
    if not (wanted.required or content.strip()):
        return wanted.message()
    message = parse_message(content, request.headers.get("content-type", ""), wanted.message)
    given = {field.name for field, _ in message.ListFields()}
    for name in wanted.needs:
        if name not in given:
            raise DropError("request-invalid", f"the request names no {name}", remedy=f'add "{name}"')
    return message


async def _content(request: Request) -> bytes:
    """The bytes of the body; HttpError 413 when they are too many, 408 when they take too long.

    Most clients write all of a request before they read: what is moderately too large is read and dropped, so that they see
    the answer and not a broken pipe. One that asks first (Expect: 100-continue, as curl does) is told at once.
    """
    declared = request.headers.get("content-length", "")
    asks_first = "expect" in request.headers and declared.isdigit()
    size = int(declared) if asks_first else 0
    content = bytearray()
    if size <= MAX_BYTES:
        size = 0
        with trio.move_on_after(SECONDS) as deadline:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BYTES:
                    content += chunk
                elif size > _MAX_DROPPED_BYTES:
                    break
        if deadline.cancelled_caught:
            message = f"the body was not sent within {SECONDS:g} s"
            raise HttpError(408, message, remedy="send it at once", code="request-invalid")
    if size > MAX_BYTES:
        raise HttpError(
            413,
            f"the body is larger than {MAX_BYTES} bytes",
            remedy="name the source by its path; tensors are not sent over this socket",
            code="request-invalid",
        )
    return bytes(content)
