"""One notifier: reads the moves that it is to tell from the journal, in order, and tells each until it is taken or too old.

How far it has come stands in the journal, and is noted after a delivery: a crash between the two has the event told once more, never
not at all. While its receiver is down it waits alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import trio

from smdaemon.errors import EnvironmentFault, SmdaemonError
from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.retry import LONGEST_SECONDS, delay
from smdaemon.jobs.states import State
from smdaemon.log import get_logger
from smdaemon.notify.event import CloudEvent, cloud_event
from smdaemon.notify.targets import RefusedError, Target
from smdaemon.settings import NotifySettings

_log = get_logger(__name__)
_PAGE = 100
# Moves that nobody is told of are passed over without a note for each; so many at most are looked at again after a restart.
_NOTE_EVERY = 500


@dataclass
class Tally:
    """What became of a notifier's events since the start of the daemon; outlives a change of its settings."""

    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    # unix seconds of the event that is being told; None while there is none
    behind_since: float | None = None
    # of the last attempt
    error: SmdaemonError | None = None


class Notifier:
    """A task: `run` until cancelled. `place` is the last move that it is done with."""

    def __init__(
        self,
        settings: NotifySettings,
        target: Target,
        ledger: Ledger,
        tally: Tally,
        *,
        owner: str,
        place: int,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.tally = tally
        self._states = [State(state) for state in settings.on]
        self._target = target
        self._ledger = ledger
        self._owner = owner
        self._place = self._noted = place
        self._on_change = on_change
        # what the journal has said since it last took a note
        self._fault: EnvironmentFault | None = None
        self._since = ledger.clock()
        self._at_rest = False
        self._woken = trio.Event()
        self._hurried = trio.Event()
        # when to come back is to differ among notifiers of one receiver, and needs no secrecy
        self._rng = random.Random()  # noqa: S311

    @property
    def busy(self) -> bool:
        """Whether an event is about to be told; not while its receiver has failed and is given time."""
        return self.tally.error is None and not (self._at_rest and not self._woken.is_set())

    def wants(self, job: Job) -> bool:
        """Whether it is to tell of a job in its state."""
        models = self.settings.models
        return job.state in self._states and (not models or any(fnmatchcase(job.model, each) for each in models))

    def wake(self) -> None:
        """There is something new to tell."""
        self._woken.set()

    def hurry(self) -> None:
        """Try now what waits for its next attempt."""
        self._hurried.set()

    async def run(self) -> None:
        """Tell everything after `place`, then what comes."""
        attempt = 0
        while True:
            self._woken = trio.Event()
            moves = await self._read()
            for move in moves:
                if self.wants(move.job):
                    await self._tell(cloud_event(move, self._owner))
                    await self._note(move.seq)
                elif move.seq - self._noted >= _NOTE_EVERY:
                    await self._note(move.seq)
                self._place = move.seq
            if moves:
                attempt = 0
            elif self._fault is None:
                attempt = 0
                await self._rest()
            else:
                attempt += 1
                with trio.move_on_after(delay(attempt, self._rng)):
                    await self._woken.wait()

    async def _read(self) -> list[Moved]:
        """The next moves. None where there are none, or where the journal refuses: then there is a `_fault`."""
        try:
            moves = await self._ledger.moves_after(self._place, _PAGE, self._states)
        except EnvironmentFault as fault:
            self._refused(fault, "the journal cannot be read; trying again")
            return []
        if not moves and self._fault is not None:  # no further note would show that it is over
            await self._note(self._place)
        return moves

    async def _rest(self) -> None:
        self._at_rest, self.tally.behind_since = True, None
        self._on_change()
        await self._woken.wait()
        self._at_rest = False

    async def _tell(self, event: CloudEvent) -> None:
        """Have one event delivered, or given up: each is tried once at least, however old it is."""
        self.tally.behind_since = event.at
        until = max(event.at, self._since) + self.settings.retry_for_seconds
        attempt = 1
        while (error := await self._attempt(event)) is not None:
            left = until - self._ledger.clock()
            final = isinstance(error, RefusedError) and error.final
            if final or left <= 0:
                self.tally.given_up += 1
                _log.error("notification given up", **self._fields(event), code=error.code, reason=error.message)
                return
            self._failed(error, "notification not delivered; trying again", event)
            asked = error.wait_seconds if isinstance(error, RefusedError) else 0.0
            wait = max(delay(attempt, self._rng), min(asked, LONGEST_SECONDS))
            await self._pause(min(wait, left))
            attempt += 1
        self.tally.delivered += 1
        self.tally.error = None
        _log.info("notification delivered", **self._fields(event), attempts=attempt)

    async def _attempt(self, event: CloudEvent) -> SmdaemonError | None:
        try:
            await self._target.deliver(event)
        except SmdaemonError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - as an export: what one receiver brings about must not end the daemon
            _log.error("bug: a delivery failed", **self._fields(event), exc_info=error)
            failed = EnvironmentFault("internal-error", f"{type(error).__name__}: {error}", retryable=True)
        else:
            return None
        self.tally.failed += 1
        self.tally.error = failed
        self._on_change()
        return failed

    async def _pause(self, seconds: float) -> None:
        self._hurried = trio.Event()
        with trio.move_on_after(seconds):
            await self._hurried.wait()

    async def _note(self, seq: int) -> None:
        """Remember durably that all up to `seq` is done. Where the journal refuses, a later note makes up for it."""
        try:
            await self._ledger.advance_reader(self.settings.name, seq)
        except EnvironmentFault as fault:
            self._refused(fault, "delivery not noted; it may be repeated after a restart")
        else:
            self._noted = seq
            if self.tally.error is self._fault:
                self.tally.error = None
            self._fault = None

    def _refused(self, fault: EnvironmentFault, said: str) -> None:
        self._fault = fault
        self._failed(fault, said)
        self._on_change()

    def _failed(self, error: SmdaemonError, said: str, event: CloudEvent | None = None) -> None:
        self.tally.error = error
        _log.warning(said, **self._fields(event), code=error.code, reason=error.message)

    def _fields(self, event: CloudEvent | None) -> dict[str, object]:
        fields: dict[str, object] = {"notifier": self.settings.name}
        if event is not None:
            fields |= {"event_id": event.id, "job": event.job.id, "model": event.job.model}
        return fields
