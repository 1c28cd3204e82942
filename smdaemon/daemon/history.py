"""The last hour in samples, for plots: kept in memory, gone with the daemon. What is to last belongs into Prometheus."""

import math
import time
from collections import deque
from collections.abc import Callable

import trio

from smdaemon.jobs.messages import set_time
from smdaemon.jobs.states import TERMINAL, State
from smdaemon.proto import v1

INTERVAL_SECONDS = 5.0
SAMPLES = 720


class History:
    """A service: takes the status every few seconds, and how many bytes were written since; `written` counts them from the start on."""

    def __init__(
        self,
        status: Callable[[], v1.Status],
        written: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._written = written
        self._clock = clock
        self._before = (clock(), written())
        self._samples: deque[v1.Sample] = deque(maxlen=SAMPLES)
        self._stall = 0.0

    async def run(self) -> None:
        """Take a sample now and every few seconds, until cancelled."""
        while True:
            self.take()
            await trio.sleep(INTERVAL_SECONDS)

    def take(self) -> None:
        """Take a sample."""
        status = self._status()
        rooms = [model.disk_free_bytes for model in status.models if model.disk_bytes]
        sample = v1.Sample(
            host_memory_used_bytes=status.host_memory_used_bytes,
            handoff_memory_used_bytes=status.handoff.memory_used_bytes,
            workers_busy=status.workers_busy,
            open_jobs=sum(count for state, count in status.jobs.items() if State(state) not in TERMINAL),
            bytes_per_second=self._rate(),
            stall_seconds=self._stall,
            disk_free_bytes=min(rooms, default=0),
        )
        set_time(sample.at, time.time())
        self._stall = 0.0
        self._samples.append(sample)

    def _rate(self) -> float:
        """Bytes a second since the last sample: also of exports that began and ended in between."""
        (at, before), (now, written) = self._before, (self._clock(), self._written())
        self._before = now, written
        return (written - before) / (now - at) if now > at else 0.0

    def observe_stall(self, _model: str, seconds: float) -> None:
        """A save kept its trainer for so long."""
        if math.isfinite(seconds):
            self._stall = max(self._stall, seconds)

    @property
    def newest(self) -> v1.Sample | None:
        """The last sample; None before the first."""
        return self._samples[-1] if self._samples else None

    def message(self) -> v1.History:
        """All samples."""
        return v1.History(interval_seconds=INTERVAL_SECONDS, samples=self._samples)
