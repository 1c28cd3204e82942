"""What a save gives back: how far it is, and how it ended."""

import threading
import uuid
from dataclasses import dataclass

from smdaemon.errors import CODES, DropError


@dataclass(frozen=True)
class Outcome:
    """How an export ended: `state` is "published", "failed", "skipped" (nothing was handed over), or "pending" (not ended yet).

    `version` and `export_dir` say what was published; `code`, `message` and `remedy` why it was not.
    """

    state: str
    version: int | None = None
    export_dir: str = ""
    code: str = ""
    message: str = ""
    remedy: str = ""

    def check(self) -> "Outcome":
        """Itself where it was published; DropError with its code otherwise."""
        if self.state == "published":
            return self
        code = self.code if self.code in CODES else "handoff-protocol"
        raise DropError(code, self.message or f"the export is {self.state}", remedy=self.remedy or None)


class Handle:
    """One save. Every method may be called from any thread, and as often as one likes."""

    def __init__(self, step: int, model: str) -> None:
        self.export = uuid.uuid4().hex
        self.step = step
        self.model = model
        self.nbytes = 0
        """Bytes that are handed over."""
        self.stall_seconds = 0.0
        """How long `save` kept the trainer."""
        self.job: int | None = None
        """The daemon's job, once it has accepted the export: smdaemon show JOB."""
        self._source_free = threading.Event()
        self._staged = threading.Event()
        self._ended = threading.Event()
        self._outcome = Outcome("pending")
        self._settling = threading.Lock()

    def barrier(self) -> None:
        """Return when the tensors that were given may be overwritten in place: at once, unless the mode is direct."""
        self._source_free.wait()

    def staged(self, timeout: float | None = None) -> bool:
        """Wait until all bytes are in shared memory and the daemon has been told; whether they are."""
        self._staged.wait(timeout)
        return self._staged.is_set() and self._outcome.state not in {"skipped", "failed"}

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait until the export has ended; how it did, "pending" if it has not after `timeout` seconds."""
        self._ended.wait(timeout)
        return self._outcome

    # For the sidecar.

    def source_is_free(self) -> None:
        """The trainer's tensors are copied."""
        self._source_free.set()

    def is_staged(self) -> None:
        """The daemon has the bytes, or will be offered them."""
        self._staged.set()

    def settle(self, outcome: Outcome) -> bool:
        """It ended so; whether that is news."""
        with self._settling:
            if self._ended.is_set():
                return False
            self._outcome = outcome
            for event in (self._source_free, self._staged, self._ended):
                event.set()
        return True
