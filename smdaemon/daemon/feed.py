"""What a reader of events is told: moves from the journal and then live, between them how far what runs has come, and the status."""

import math
from collections.abc import AsyncGenerator, Callable, Iterator

import trio

from smdaemon.jobs.bus import Lagged, Notice
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.messages import event_message
from smdaemon.proto import v1

_PAGE = 500
_PROGRESS_SECONDS = 0.25
_STATUS_SECONDS = 1.0


class StatusNews:
    """Says what the status is when it is another than was told last, once a second at most; for one reader."""

    def __init__(self, status: Callable[[], v1.Event]) -> None:
        self._status = status
        self._told = v1.Event()
        self._told_at = -math.inf

    def __call__(self) -> Iterator[v1.Event]:
        """One event or none."""
        if trio.current_time() < self._told_at + _STATUS_SECONDS:
            return
        self._told_at = trio.current_time()
        event = self._status()
        if event != self._told:
            self._told = event
            yield event


async def feed(
    ledger: Ledger, seen: int, progress: Callable[[], Iterator[v1.Event]], news: Callable[[], Iterator[v1.Event]]
) -> AsyncGenerator[v1.Event, None]:
    """Every move with a number above `seen`, in order, once; what `progress` and `news` have to tell in between. Ends with the daemon."""
    while True:  # once, and again whenever this reader has fallen behind the bus
        with ledger.bus.subscribe() as live:
            while past := await ledger.moves_after(seen, _PAGE):
                for move in past:
                    seen = move.seq
                    yield event_message(move)
            notice: Notice | None = None
            while not isinstance(notice, Lagged):
                for event in (*news(), *(progress() if notice is None else ())):
                    yield event
                try:
                    notice = await _next(live)
                except trio.EndOfChannel:
                    return  # the bus is closed: the daemon stops
                if notice is not None and not isinstance(notice, Lagged) and notice.seq > seen:
                    seen = notice.seq
                    yield event_message(notice)


async def _next(live: trio.MemoryReceiveChannel[Notice]) -> Notice | None:
    """The next notice; None where none comes for a while."""
    with trio.move_on_after(_PROGRESS_SECONDS):
        return await live.receive()
    return None
