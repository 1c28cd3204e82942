"""How far an attempt is, in memory only: the journal is not asked for it and need not keep it."""

import threading
import time
from collections import deque
from collections.abc import Callable

_SAMPLE_SECONDS = 0.25
_SAMPLES = 20


class Progress:
    """Bytes done of an attempt; `add` may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_total = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._bytes_done = 0
        # (time, bytes done then), oldest first: a window of the last seconds
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=_SAMPLES)

    def add(self, count: int) -> None:
        """`count` more bytes are written."""
        with self._lock:
            self._bytes_done += count
            now = self._clock()
            if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((now, self._bytes_done))

    @property
    def bytes_done(self) -> int:
        """Bytes written so far."""
        return self._bytes_done

    @property
    def rate(self) -> float:
        """Bytes a second over the last seconds; 0 before anything is written."""
        with self._lock:
            since, before = self._samples[0]
            elapsed = self._clock() - since
            return (self._bytes_done - before) / elapsed if elapsed > 0 else 0.0
