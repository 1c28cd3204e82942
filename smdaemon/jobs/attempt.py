"""One attempt at a job: what the scheduler hands to the daemon's export function, and how it stops it again."""

from collections.abc import Mapping
from typing import NamedTuple, Unpack

import trio

from smdaemon.jobs.job import Changes, Job
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.progress import Progress
from smdaemon.jobs.states import Event, State

STEPS = frozenset({Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT})


class JobCancelled(Exception):  # noqa: N818 - asked for, not an error
    """The attempt was stopped: by a person, or because the daemon stops. Only for the scheduler to catch."""


class Published(NamedTuple):
    """What an attempt that went well has made."""

    version: int
    export_dir: str
    tensors: int
    bytes_total: int
    # which directory it is, see `publish.local.identity_of`
    identity: str = ""
    metrics: Mapping[str, float] = {}


class Attempt:
    """An attempt under way. The export function enters its steps in the order stage, write, verify, commit.

    `job` is the row as the last step left it; `number` counts from 1.
    """

    def __init__(self, ledger: Ledger, job: Job) -> None:
        self.job = job
        self.number = job.attempts + 1
        self.progress = Progress()
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        # stopped because the daemon stops: the row is left as it is, and the next start resumes it
        self.abandoned = False
        # what is to be known of the attempt however it ends, unless it is abandoned
        self.findings: Changes = {}
        self._ledger = ledger
        self._stop = False
        self._committing = False

    async def enter(self, step: Event, **changes: Unpack[Changes]) -> Job:
        """Move the job by `step`; raises `JobCancelled` if the attempt is to stop.

        Once it returns for `Event.COMMIT` nobody can cancel the job any more.
        """
        if step not in STEPS:
            raise ValueError(f"an attempt cannot enter {step!r}")
        self.check()
        if step is Event.STAGE:
            changes = {"error": None, "validator_output": "", "attempts": self.number, **changes}
        # Before the await: who cancels during the move must be told that it is too late.
        self._committing = step is Event.COMMIT
        self.job = await self._ledger.move(self.job.id, step, **changes)
        return self.job

    @property
    def cancelled(self) -> bool:
        """Whether the export function should stop soon; may be read in any thread."""
        return self._stop

    def check(self) -> None:
        """Raise `JobCancelled` if the attempt is to stop; for the threads that export, between two buffers."""
        if self._stop:
            raise JobCancelled

    def cancel(self) -> bool:
        """Stop on a person's behalf; False if the commit has begun."""
        if self._committing:
            return False
        self._stop = True
        self.scope.cancel()
        return True

    def abandon(self) -> None:
        """Stop because the daemon stops. A commit that has begun ends by itself: it is one short step."""
        self.abandoned = True
        self._stop = self._stop or not self._committing

    @property
    def committed(self) -> bool:
        """Whether the export function has come to the commit."""
        return self.job.state is State.COMMITTING
