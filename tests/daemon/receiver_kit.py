"""A receiver of webhooks on loopback: does to each request what its script says, and keeps what came."""

import json
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import h11
import trio


class Stalled(bytes):
    """The beginning of an answer whose end never comes."""


Answer = int | tuple[int, dict[str, str]] | bytes | None


@dataclass
class Request:
    """One request, whole."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict:
        """The event that it carries."""
        return json.loads(self.body)


@dataclass
class Receiver:
    """What is answered next: a status, with headers perhaps, bytes that are sent as they are, or None, to say nothing. Then 204."""

    answers: deque[Answer] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    otherwise: Answer = 204
    port: int = 0
    _came: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def versions(self) -> list[int]:
        """The versions of the events that came, in order."""
        return [request.event["data"]["version"] for request in self.requests]

    async def came(self, count: int) -> list[Request]:
        """The requests, once so many have come."""
        while len(self.requests) < count:
            self._came = trio.Event()
            await self._came.wait()
        return self.requests

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Read one request and answer it."""
        connection = h11.Connection(h11.SERVER)
        request, body = None, b""
        async with stream:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    return
            headers = {name.decode(): value.decode() for name, value in request.headers}
            self.requests.append(Request(request.target.decode(), headers, body))
            answer = self.answers.popleft() if self.answers else self.otherwise
            self._came.set()
            if answer is None:
                await stream.receive_some()  # until the other side gives up
            elif isinstance(answer, bytes):
                await stream.send_all(answer)
                if isinstance(answer, Stalled):
                    await stream.receive_some()
            else:
                status, extra = answer if isinstance(answer, tuple) else (answer, {})
                fields = [("content-length", "0"), *extra.items()]
                await stream.send_all(connection.send(h11.Response(status_code=status, headers=fields)))


@asynccontextmanager
async def receiving(*answers: Answer, otherwise: Answer = 204, ssl_context=None):
    """A receiver that listens; its first answers are `answers`."""
    receiver = Receiver(deque(answers), otherwise=otherwise)

    async def handle(stream):
        with suppress(trio.BrokenResourceError):  # the other side has gone
            await receiver.serve(
                stream if ssl_context is None else trio.SSLStream(stream, ssl_context, server_side=True)
            )

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        receiver.port = listener.socket.getsockname()[1]
        yield receiver
        nursery.cancel_scope.cancel()
