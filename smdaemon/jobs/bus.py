"""The event bus: every move of every job, to everyone who listens now. It never waits for a listener.

What a listener misses stands in the journal under its `seq`. To follow without a gap: subscribe, read the journal's
`moves_after(seq)` until it gives nothing more, then go on with the channel and skip what has been seen.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import trio

from smdaemon.jobs.job import Moved

BUFFER = 256


class Lagged(NamedTuple):
    """The last that a slow subscriber gets: it has fallen behind; go on in the journal after `seq`."""

    seq: int


Notice: TypeAlias = Moved | Lagged


class Bus:
    """Moves in, moves out, in order. A subscriber whose buffer is full is dropped: `Lagged`, then the end of the channel."""

    def __init__(self) -> None:
        # the place of the newest move in the event stream; the ledger sets it when it opens the journal
        self.last_seq = 0
        # each channel with the seq of the last move that went into it
        self._subscribers: dict[trio.MemorySendChannel[Notice], int] = {}

    @contextlib.contextmanager
    def subscribe(self, buffer: int = BUFFER) -> Iterator[trio.MemoryReceiveChannel[Notice]]:
        """A channel of every move from now on, with room for `buffer` unread ones."""
        # one place more than is promised: `Lagged` must always find room
        send, receive = trio.open_memory_channel[Notice](buffer + 1)
        self._subscribers[send] = self.last_seq
        try:
            yield receive
        finally:
            self._subscribers.pop(send, None)
            send.close()
            receive.close()

    def publish(self, move: Moved) -> None:
        """Give the move to every subscriber; never blocks."""
        self.last_seq = move.seq
        for send, last in list(self._subscribers.items()):
            statistics = send.statistics()
            if statistics.current_buffer_used < statistics.max_buffer_size - 1:
                with contextlib.suppress(trio.BrokenResourceError):  # the subscriber closed its end
                    send.send_nowait(move)
                self._subscribers[send] = move.seq
            else:
                self._drop(send, last)

    def close(self) -> None:
        """End all channels; what is in them can still be read."""
        for send in self._subscribers:
            send.close()
        self._subscribers.clear()

    def _drop(self, send: trio.MemorySendChannel[Notice], last: int) -> None:
        del self._subscribers[send]
        with contextlib.suppress(trio.BrokenResourceError):
            send.send_nowait(Lagged(last))
        send.close()
