"""Server-sent events: the moves of jobs as they happen, until the client leaves or the daemon stops."""

from collections.abc import Awaitable, Callable

import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from smdaemon.control.backend import Backend
from smdaemon.control.render import to_json
from smdaemon.errors import EnvironmentFault
from smdaemon.log import get_logger
from smdaemon.proto.mapping import message_to_dict
from smdaemon.proto.v1 import Event

_log = get_logger(__name__)
# Proxies and clients give up a silent connection after 30 s or more.
KEEP_ALIVE_SECONDS = 15
_END: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class EventStream(Response):
    """The events after `after` (None: from now on): a `job` event for each move, its seq as the id to resume from.

    Between the moves come `progress` events of the jobs that run, and `status` events where they are asked for; they have no id, and
    who missed one lost nothing.

    Written against ASGI itself: the stream, the keep-alive and the wait for the client's end are tasks of one nursery,
    and none of them lives inside a generator.
    """

    media_type = "text/event-stream"

    def __init__(self, backend: Backend, after: int | None, *, status: bool = False) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._backend = backend
        self._after = after
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send(_END)
            return
        lock = trio.Lock()

        async def write(text: bytes) -> None:
            async with lock:
                await send({"type": "http.response.body", "body": text, "more_body": True})

        async with self._backend.events(self._after, status=self._status) as events:
            await send(start)
            await write(b"retry: 1000\n\n")  # a client that is cut off comes back after this many milliseconds
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_when_left, receive, nursery.cancel_scope)
                nursery.start_soon(_end_when_stopping, self._backend.stopping, nursery.cancel_scope)
                nursery.start_soon(_keep_alive, write)
                try:
                    async for event in events:
                        await write(render_event(event))
                except EnvironmentFault as fault:  # the client comes back, and goes on where it was
                    _log.warning("event stream ended", code=fault.code, reason=fault.message)
                nursery.cancel_scope.cancel()
        await send(_END)


def render_event(event: Event) -> bytes:
    """One event as the text of the event stream; JSON has no raw newline, so the data is one line."""
    data = to_json(message_to_dict(event))
    if event.HasField("status"):
        return b"event: status\ndata: %s\n\n" % data
    if not event.seq:
        return b"event: progress\ndata: %s\n\n" % data
    return b"id: %d\nevent: job\ndata: %s\n\n" % (event.seq, data)


async def _end_when_left(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _end_when_stopping(stopping: trio.Event, scope: trio.CancelScope) -> None:
    await stopping.wait()
    scope.cancel()


async def _keep_alive(write: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        await trio.sleep(KEEP_ALIVE_SECONDS)
        await write(b": keep-alive\n\n")
