"""What the daemon tells the service manager: that it is ready, reloads, stops, how it stands, that it is not stuck, that it needs longer.

The words are sd_notify's (see systemd.py). Where no service manager listens, every call does nothing.

    start    EXTEND_TIMEOUT_USEC while watches look at their backlogs, then READY=1
    always   STATUS= when it changes, at most once a second; WATCHDOG=1 with each beat of the pulse
    SIGHUP   RELOADING=1 with MONOTONIC_USEC, then READY=1
    stop     STOPPING=1, EXTEND_TIMEOUT_USEC as long as drain_seconds allows
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from smdaemon import systemd
from smdaemon.daemon.pulse import PERIOD_SECONDS
from smdaemon.jobs.states import ACTIVE, State
from smdaemon.proto import v1

_STATUS_SECONDS = 1.0
# On top of what is known to be needed: for results, open requests, the journal's end.
_MARGIN_SECONDS = 15.0


class Manager:
    """The service manager, as the daemon sees it. `status` is asked for what to tell when `changed` was called."""

    def __init__(self, status: Callable[[], v1.Status]) -> None:
        self._status = status
        self._changed = trio.Event()
        self._watchdog_seconds = systemd.watchdog_seconds()
        self._until: float | None = None
        self._ready = False

    @property
    def period_seconds(self) -> float:
        """How often it wants to be told that the daemon is not stuck: half of its patience, or as often as suits us."""
        return PERIOD_SECONDS if self._watchdog_seconds is None else self._watchdog_seconds / 2

    def ready(self) -> None:
        """Sockets answer, and every watch has looked or is not waited for any longer."""
        self._ready = True
        self._tell("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is read again, for the length of the block; a reload before the start is complete is part of it."""
        if not self._ready or not systemd.listens():
            yield
            return
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def stopping(self, drain_seconds: float) -> None:
        """The daemon begins to drain, which takes so long at most."""
        self._until = trio.current_time() + drain_seconds
        self._tell("STOPPING=1", *self._extension())

    def beat(self) -> None:
        """The daemon has just proved that it makes progress."""
        self.changed()  # what no move of a job tells, such as a watch that is degraded
        lines = self._extension()
        if self._watchdog_seconds is not None:
            lines.append("WATCHDOG=1")
        if not self._ready:
            self._tell(*lines)
        elif lines:
            systemd.notify(*lines)

    def changed(self, _what: object = None) -> None:
        """Tell the status anew, soon."""
        self._changed.set()

    async def run(self) -> None:
        """Tell the status when it has changed, until cancelled; nothing to do where nobody listens."""
        last = ""
        if not systemd.listens():
            return
        while True:
            self._changed = trio.Event()
            # the event is made first: what changes while we tell is not missed
            if (text := told(self._status())) != last:
                systemd.notify(f"STATUS={text}")
                last = text
            await trio.sleep(_STATUS_SECONDS)
            await self._changed.wait()

    def _tell(self, *lines: str) -> None:
        if systemd.listens():
            systemd.notify(*lines, f"STATUS={told(self._status())}")

    def _extension(self) -> list[str]:
        """Until the next beat and a little more, at start and while exports may finish; later than that nothing is asked for."""
        if self._ready and self._until is None:
            return []
        left = self.period_seconds
        if self._until is not None:
            left = min(left, self._until - trio.current_time())
        if left < 0:
            return []
        return [f"EXTEND_TIMEOUT_USEC={round((left + _MARGIN_SECONDS) * 1e6)}"]


def told(status: v1.Status) -> str:
    """The daemon in one line, as `systemctl status` shows it."""

    def count(*states: State) -> int:
        return sum(status.jobs.get(state, 0) for state in states)

    models = len(status.models)
    parts = [f"{models} model{'' if models == 1 else 's'}", f"{count(State.DETECTED, State.QUEUED)} queued"]
    if count(State.WAITING):
        parts.append(f"{count(State.WAITING)} waiting")
    parts += [f"{count(*ACTIVE)} running", f"{count(State.FAILED)} failed"]
    if degraded := [model.name for model in status.models if model.health != "ok"]:
        parts.append(f"degraded: {' '.join(degraded)}")
    if status.HasField("config_error"):
        parts.append(f"reload refused ({status.config_error.code})")
    return f"{status.phase}: {', '.join(parts)}"
