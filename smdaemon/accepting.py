"""Accepting connections while the machine is short of something: the listener pauses, says so, and goes on. Nothing ends for it.

Who would connect waits in the kernel's queue meanwhile. An accept that fails takes no connection out of it, so to try again at once
would burn a processor.
"""

import errno
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from smdaemon.errors import fault
from smdaemon.log import get_logger

_log = get_logger(__name__)
Connection = TypeVar("Connection")

# accept(2): descriptors of the process or of the system, memory for sockets
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# accept(2) again: errors of the one connection, which was given up before we came to it
_OF_THE_CONNECTION = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM}
PAUSE_SECONDS = 0.2
_SAY_AGAIN_SECONDS = 60.0


class Accepting(Generic[Connection]):
    """Calls `accept`, again and again; `listener` is its name in the log. OSError that is no shortage is raised."""

    def __init__(self, accept: Callable[[], Awaitable[Connection]], listener: str) -> None:
        self._accept = accept
        self._listener = listener
        self._short_since: float | None = None
        self._said_at = 0.0

    async def next(self) -> Connection:
        """The next connection."""
        while True:
            try:
                connection = await self._accept()
            except OSError as error:
                if error.errno in _OF_THE_CONNECTION:
                    continue
                if error.errno not in _SHORTAGES:
                    raise
                self._say(error)
                await trio.sleep(PAUSE_SECONDS)
            else:
                self._recovered()
                return connection

    def _say(self, error: OSError) -> None:
        now = trio.current_time()
        if self._short_since is None:
            self._short_since = now
        elif now < self._said_at + _SAY_AGAIN_SECONDS:
            return
        self._said_at = now
        short = fault(error, "accepting a connection")
        _log.error(
            "no connections for now",
            listener=self._listener,
            code=short.code,
            reason=short.message,
            remedy=short.remedy,
        )

    def _recovered(self) -> None:
        if self._short_since is not None:
            seconds = round(trio.current_time() - self._short_since, 1)
            _log.info("connections again", listener=self._listener, after_seconds=seconds)
            self._short_since = None
