"""The child of isolated.py: one export, told over a pipe. Run as `python -m smdaemon.export.worker`."""

import ctypes
import json
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import BinaryIO

from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError, shortage
from smdaemon.export.isolated import decode_plan
from smdaemon.export.perform import perform

_TELL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1


class _PipeReport:
    """Says on `out` how the export goes; bytes are summed up for a tenth of a second."""

    def __init__(self, out: BinaryIO, go: BinaryIO) -> None:
        self._out = out
        self._go = go
        self._lock = threading.Lock()
        self._what = "advance"
        self._unsaid = 0
        self._said_at = 0.0

    def say(self, what: str, value: object) -> None:
        """One line."""
        self._out.write(json.dumps([what, value]).encode() + b"\n")
        self._out.flush()

    def writing(self, tensors: int, nbytes: int, working_bytes: int) -> None:
        """Say what will be written and wait for the word to go on."""
        self.say("writing", [tensors, nbytes, working_bytes])
        if not self._go.readline():
            sys.exit("the daemon is gone")

    def advance(self, nbytes: int) -> None:
        """Count bytes; say so ten times a second."""
        with self._lock:
            self._unsaid += nbytes
            if time.monotonic() - self._said_at >= _TELL_SECONDS:
                self._tell()

    def verifying(self) -> None:
        """Say it."""
        with self._lock:
            self._tell()
            self._what = "read_back"
        self.say("verifying", None)

    def read_back(self, nbytes: int) -> None:
        """As `advance`."""
        self.advance(nbytes)

    def _tell(self) -> None:
        self.say(self._what, self._unsaid)
        self._unsaid, self._said_at = 0, time.monotonic()


def _die_with_parent() -> None:
    """Have the kernel kill this process with the daemon: the next daemon removes the draft that it would go on writing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Read plan and target from stdin, export, and say on stdout how it went."""
    _die_with_parent()
    # a stop is the daemon's to pass on: it lets an export finish, or kills it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    plan = decode_plan(sys.stdin.buffer.readline())
    target = Path(json.loads(sys.stdin.buffer.readline()))
    report = _PipeReport(sys.stdout.buffer, sys.stdin.buffer)
    try:
        exported = perform(plan, target, report)
    except Exception as error:  # noqa: BLE001 - told to the daemon, which fails the job with it
        report.say("error", _told(error))
    else:
        report.say("done", [exported.tensors, exported.nbytes, exported.metric])


def _told(error: Exception) -> list[object]:
    """An error for the daemon: kind, code, message, remedy, whether to try again; of a bug no code, and the traceback for a remedy."""
    foreseen = shortage(error) or error
    if not isinstance(foreseen, SmdaemonError):
        return ["", "", f"{type(error).__name__}: {error}", traceback.format_exc(), False]
    kind = next((each for each in (EnvironmentFault, DropError) if isinstance(foreseen, each)), SmdaemonError)
    return [kind.__name__, foreseen.code, foreseen.message, foreseen.remedy, foreseen.retryable]


if __name__ == "__main__":
    main()
