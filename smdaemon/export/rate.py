"""A limit of bytes a second, for exports beside a training job that reads from the same disk."""

import threading
import time
from collections.abc import Callable

_PAUSE_SECONDS = 0.1
"""The longest pause at once: whoever waits looks up in between whether he is to stop."""


class RateLimit:
    """Lets so many bytes a second pass, over all threads; `burst_seconds` of it may pass at once.

    `clock` gives seconds, `pause` waits for some.
    """

    def __init__(
        self,
        bytes_per_second: float,
        *,
        burst_seconds: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._burst = burst_seconds
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        # when all that has passed would have passed at the very rate
        self._due = clock()

    def passed(self, nbytes: int, check: Callable[[], None]) -> None:
        """So many bytes have passed: wait as long as they should have taken. `check` is called now and then, and may raise."""
        with self._lock:
            self._due = max(self._due, self._clock() - self._burst) + nbytes / self._rate
            due = self._due
        while (left := due - self._clock()) > 0:
            check()
            self._pause(min(left, _PAUSE_SECONDS))
