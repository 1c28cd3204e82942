"""Commands that an operator names: run without a shell, heard to their end, and ended with all that they started.

A command gets a session of its own, and with it end all processes of its group: when it has ended, when its time is over, when whoever
runs it is cancelled. It may say as much as it likes; only the end of that is kept.
"""

import errno
import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from smdaemon.errors import ConfigError, fault
from smdaemon.log import get_logger
from smdaemon.printable import visible

_log = get_logger(__name__)
OUTPUT_BYTES = 16 << 10
# What may still lie in the pipe when the command has ended; a pipe holds no more than 1 MiB.
_LEFT_IN_PIPE_BYTES = 1 << 20
# A killed process is gone in an instant, unless the kernel waits for a disk on its behalf.
_REAP_SECONDS = 5.0
# The operator's to mend: the command is missing, is no program, or may not be run.
_NOT_STARTABLE = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOEXEC,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.E2BIG,
}
_threads = trio.CapacityLimiter(math.inf)  # each only waits, one for each command that runs


@dataclass
class Ended:
    """How a command ended, as far as is known: exit status (below 0 the signal), and the last that it said."""

    status: int | None = None
    timed_out: bool = False
    _tail: bytearray = field(default_factory=bytearray)

    def heard(self, said: bytes) -> None:
        """It has said something more."""
        self._tail += said
        del self._tail[:-OUTPUT_BYTES]

    @property
    def output(self) -> str:
        """The last that it said, made printable."""
        return printable_output(bytes(self._tail))

    @property
    def how(self) -> str:
        """In words how it ended, with the last line that it said; for one that ended, and not well."""
        assert self.status is not None
        how = f"ended with {self.status}" if self.status >= 0 else f"was ended by signal {-self.status}"
        last = next((line for line in reversed(self.output.splitlines()) if line.strip()), "")
        return how + (f": {last.strip()}" if last else "")


@dataclass(frozen=True)
class Command:
    """What is to be run. `called` names it in messages ("the validator"), `missing_code` is the error where it cannot be started.

    Nothing of the daemon's environment is handed on but PATH.
    """

    words: Sequence[str]
    folder: Path
    seconds: float
    called: str
    missing_code: str
    environment: Mapping[str, str] = field(default_factory=dict)
    # what it can read; nothing where it is None
    stdin: bytes | None = None

    async def run(self, ended: Ended) -> None:
        """Run it; `ended` is filled in as things happen, so that a cancelled run leaves what was said.

        Raises ConfigError `missing_code` where it cannot be started, EnvironmentFault where the machine refuses.
        """
        process = await self._start()
        try:
            with trio.move_on_after(self.seconds) as limit:
                await self._follow(process, ended)
            ended.timed_out = limit.cancelled_caught
        finally:
            ended.status = await self._end(process, ended)

    async def _start(self) -> trio.Process:
        try:
            return await trio.lowlevel.open_process(
                list(self.words),
                stdin=subprocess.DEVNULL if self.stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", os.defpath), **self.environment},
                start_new_session=True,
            )
        except OSError as error:
            if error.errno in _NOT_STARTABLE:
                reason = (error.strerror or str(error)).lower()
                message = f"{self.called} {self.words[0]!r} cannot be started: {reason}"
                raise ConfigError(self.missing_code, message) from error
            raise fault(error, f"starting {self.called}") from error

    async def _follow(self, process: trio.Process, ended: Ended) -> None:
        """Hear what the command says until it has ended, whoever else of its descendants still holds the pipes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, process, ended)
            if self.stdin is not None:
                nursery.start_soon(_tell, process, self.stdin)
            # It is left to be reaped: until then nobody else can get its number, which is also that of its group.
            await trio.to_thread.run_sync(
                os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT, abandon_on_cancel=True, limiter=_threads
            )
            nursery.cancel_scope.cancel()

    async def _end(self, process: trio.Process, ended: Ended) -> int | None:
        """End the group, hear what is left in the pipe, reap the command; its exit status, None where it cannot be killed."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_SECONDS):
            await process.wait()
        assert isinstance(process.stdout, trio.lowlevel.FdStream)
        _drain(process.stdout.fileno(), ended)
        with trio.CancelScope(shield=True):
            await process.stdout.aclose()
            if process.stdin is not None:
                await process.stdin.aclose()
        if process.returncode is None:
            _log.warning(f"{self.called} cannot be killed", pid=process.pid)
        return process.returncode


async def _listen(process: trio.Process, ended: Ended) -> None:
    assert process.stdout is not None
    while said := await process.stdout.receive_some():
        ended.heard(bytes(said))


async def _tell(process: trio.Process, text: bytes) -> None:
    """Write all of the text, then let the command read its end; one that does not want it is left alone."""
    assert process.stdin is not None
    with suppress(trio.BrokenResourceError):
        await process.stdin.send_all(text)
    await process.stdin.aclose()


def _drain(descriptor: int, ended: Ended) -> None:
    left = _LEFT_IN_PIPE_BYTES
    with suppress(BlockingIOError):
        while left > 0 and (said := os.read(descriptor, OUTPUT_BYTES)):
            ended.heard(said)
            left -= len(said)


def printable_output(said: bytes) -> str:
    """What a program said as text of lines: what is no UTF-8, and every character that could command a terminal, as an escape."""
    return visible(said.decode("utf-8", "backslashreplace").replace("\r\n", "\n"), keep="\n\t")
