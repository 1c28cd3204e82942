"""Follows a daemon: what there is to show of it, kept true by its stream of events, also over its restarts."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from smdaemon.cli.client import Client, Json
from smdaemon.errors import ConfigError, SmdaemonError
from smdaemon.jobs.states import ACTIVE, PENDING, TERMINAL

_SAMPLES = 720
_OPEN_KEPT = 1000
_OPEN_READ = 200
# Of what waits, so many are known where there are as many: more than a terminal has lines.
_WAITING_KNOWN = 100
_FAILED_KEPT = 5
_RETRY_SECONDS = 1.0


@dataclass
class Known:
    """What is known of a daemon. `away` says why nothing newer is; the rest is then as it was."""

    status: Json | None = None
    open_jobs: dict[int, Json] = field(default_factory=dict)
    failed_jobs: dict[int, Json] = field(default_factory=dict)
    samples: deque[Json] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    away: SmdaemonError | None = None

    def copy(self) -> "Known":
        """What is known now, for one who reads while the original moves on."""
        return replace(
            self,
            open_jobs=dict(self.open_jobs),
            failed_jobs=dict(self.failed_jobs),
            samples=deque(self.samples, maxlen=_SAMPLES),
        )

    def queue(self) -> list[Json]:
        """The jobs that have not ended: what runs, then what waits, the oldest first."""
        return sorted(self.open_jobs.values(), key=lambda job: (job["state"] not in ACTIVE, job["id"]))

    def lacks_waiting(self) -> bool:
        """Whether the part of a long queue that is known has been worked off, and there is more of it."""
        if self.status is None:
            return False
        there: int = sum(self.status["jobs"].get(state, 0) for state in PENDING)
        known = sum(job["state"] in PENDING for job in self.open_jobs.values())
        return known < min(there, _WAITING_KNOWN)

    def take(self, event: Json) -> None:
        """Take in one event of GET /v1/events?status=true."""
        if "status" in event:
            self.status = event["status"]
            sample = event.get("sample")
            if sample is not None and (not self.samples or self.samples[-1].get("at") != sample.get("at")):
                self.samples.append(sample)
        if "job" in event:
            self.keep(event["job"])

    def keep(self, job: Json) -> None:
        """Take in a job as it is now."""
        number, state = job["id"], job["state"]
        self.open_jobs.pop(number, None)
        self.failed_jobs.pop(number, None)
        if state == "failed":
            self.failed_jobs[number] = job
            if len(self.failed_jobs) > _FAILED_KEPT:
                del self.failed_jobs[min(self.failed_jobs)]
        elif state not in TERMINAL and (state in ACTIVE or len(self.open_jobs) < _OPEN_KEPT):
            self.open_jobs[number] = job


class Follower:
    """A thread that knows the daemon; `changed` is called, in that thread, whenever it knows something new."""

    def __init__(self, client: Client, changed: Callable[[], None]) -> None:
        self._client = client
        self._changed = changed
        self._lock = threading.Lock()
        self._known = Known()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Follow from now on. The thread does not keep the process alive."""
        threading.Thread(target=self._run, name="follower", daemon=True).start()

    def stop(self) -> None:
        """Tell nothing any more."""
        self._stopping.set()

    def known(self) -> Known:
        """What is known now."""
        with self._lock:
            return self._known.copy()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
                away: SmdaemonError = ConfigError("no-daemon", f"the daemon on {self._client.address!r} has stopped")
            except SmdaemonError as error:
                away = error
            with self._lock:
                self._known.away = away
            self._tell()
            self._stopping.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        """Read what there is once the stream has begun: what happens meanwhile comes by it."""
        known: Known | None = None
        for event in self._client.events(status=True):
            if known is None:
                known = self._read()
                with self._lock:
                    self._known = known
            with self._lock:
                known.take(event.data)
            if "status" in event.data and known.lacks_waiting():
                waiting = self._queue()
                with self._lock:
                    for job in waiting:
                        known.keep(job)
            self._tell()

    def _read(self) -> Known:
        known = Known(status=self._client.get("/v1/status"))
        known.samples.extend(self._client.get("/v1/history")["samples"])
        failed = self._client.get("/v1/jobs", state="failed", limit=_FAILED_KEPT)["jobs"]
        for job in (*self._queue(), *failed):
            known.keep(job)
        return known

    def _queue(self) -> list[Json]:
        jobs: list[Json] = self._client.get("/v1/queue", limit=_OPEN_READ)["jobs"]
        return jobs

    def _tell(self) -> None:
        if not self._stopping.is_set():
            self._changed()
