"""The last log lines of the jobs that were last worked on: what a person who looks at a job would search the log for."""

import threading
from collections import OrderedDict, deque

from structlog.typing import EventDict, WrappedLogger

JOBS = 500
LINES = 100


class RecentLines:
    """A structlog processor that passes every event on, and keeps those that carry a `job`: of so many jobs, so many lines each."""

    def __init__(self, jobs: int = JOBS, lines: int = LINES) -> None:
        self._jobs = jobs
        self._lines = lines
        self._kept: OrderedDict[int, deque[EventDict]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Keep a copy of what concerns a job."""
        job = event.get("job")
        if isinstance(job, int):
            with self._lock:
                self._kept.setdefault(job, deque(maxlen=self._lines)).append(dict(event))
                self._kept.move_to_end(job)
                while len(self._kept) > self._jobs:
                    self._kept.popitem(last=False)
        return event

    def of(self, job: int) -> list[EventDict]:
        """The lines of a job, oldest first; none of one that is forgotten."""
        with self._lock:
            return list(self._kept.get(job, ()))
