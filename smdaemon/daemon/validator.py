"""The validator of a model: a command that judges a finished draft before it gets its number.

It is started without a shell, in a session of its own, and with it end all processes of its group: when it has ended, when its time
is over, when the job is cancelled, when the daemon stops. What it says is kept with the job; only the end of it, for it may say a lot.
"""

import errno
import math
import os
import signal
import subprocess
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from smdaemon.config import ModelSettings
from smdaemon.errors import ConfigError, DropError, fault
from smdaemon.jobs.attempt import Attempt
from smdaemon.jobs.states import Event, State
from smdaemon.log import get_logger
from smdaemon.publish.local import LocalStore

_log = get_logger(__name__)
OUTPUT_BYTES = 16 << 10
# What may still lie in the pipe when the validator has ended; a pipe holds no more than 1 MiB.
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
# Control, format (direction overrides, zero width), surrogate and private use characters, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_threads = trio.CapacityLimiter(math.inf)  # each only waits, one for each validator that runs


@dataclass
class Verdict:
    """How a validator ended, as far as is known: exit status (below 0 the signal), and the last that it said."""

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


async def judge(attempt: Attempt, model: ModelSettings, store: LocalStore, draft: Path) -> None:
    """Have the model's validator judge the finished draft of an attempt; nothing is asked where it has none.

    Raises DropError validator-refused, validator-timeout, ConfigError validator-missing, EnvironmentFault.
    """
    if attempt.job.state is State.WRITING:  # nothing was read back
        await attempt.enter(Event.VERIFY)
    if not model.validator:
        return
    home = await trio.to_thread.run_sync(_make_home, store, f"job{attempt.job.id}-home")
    verdict = Verdict()
    try:
        before = await trio.to_thread.run_sync(stamps, draft)
        await run_validator(model, draft, attempt.job.version or 0, home, verdict)
        check_verdict(verdict, model)
        check_untouched(before, await trio.to_thread.run_sync(stamps, draft), model)
    finally:
        attempt.findings = {"validator_output": verdict.output}
        with trio.CancelScope(shield=True):  # as drafts are removed
            await trio.to_thread.run_sync(_discard_home, store, home)


def _make_home(store: LocalStore, name: str) -> Path:
    home = store.draft(name)
    try:
        home.mkdir(mode=0o700)
    except OSError as error:
        raise fault(error, "making a directory for the validator") from error
    return home


def _discard_home(store: LocalStore, home: Path) -> None:
    try:
        store.discard(home)
    except OSError as error:  # the next start sweeps it
        _log.warning("the validator's directory is not removed", path=str(home), reason=str(error))


def check_verdict(verdict: Verdict, model: ModelSettings) -> None:
    """DropError `validator-timeout` or `validator-refused` unless the validator found the export good."""
    command = model.validator[0]
    if verdict.timed_out:
        message = f"the validator {command!r} did not end within {model.validator_seconds:g} s"
        raise DropError("validator-timeout", message)
    if verdict.status:
        how = f"ended with {verdict.status}" if verdict.status > 0 else f"was ended by signal {-verdict.status}"
        last = next((line for line in reversed(verdict.output.splitlines()) if line.strip()), "")
        raise DropError("validator-refused", f"the validator {command!r} {how}" + (f": {last.strip()}" if last else ""))


async def run_validator(model: ModelSettings, draft: Path, version: int, home: Path, verdict: Verdict) -> None:
    """Run the model's validator on `draft`; `verdict` is filled in as things happen, so that a cancelled run leaves what was said.

    `home` is a directory that exists, for the validator to write to. Raises ConfigError `validator-missing` where it cannot be
    started, EnvironmentFault where the machine refuses.
    """
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "SMDAEMON_MODEL": model.name,
        "SMDAEMON_VERSION": str(version),
        "SMDAEMON_EXPORT_DIR": str(draft),
    }
    process = await _start([*model.validator, str(draft)], home, environment)
    try:
        with trio.move_on_after(model.validator_seconds) as limit:
            await _follow(process, verdict)
        verdict.timed_out = limit.cancelled_caught
    finally:
        verdict.status = await _end(process, verdict)


async def _start(command: list[str], home: Path, environment: dict[str, str]) -> trio.Process:
    try:
        return await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        if error.errno in _NOT_STARTABLE:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                "validator-missing", f"the validator {command[0]!r} cannot be started: {reason}"
            ) from error
        raise fault(error, "starting the validator") from error


async def _follow(process: trio.Process, verdict: Verdict) -> None:
    """Hear what the validator says until it has ended, whoever else of its descendants still holds the pipe."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, process, verdict)
        # It is left to be reaped: until then nobody else can get its number, which is also that of its group.
        await trio.to_thread.run_sync(
            os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT, abandon_on_cancel=True, limiter=_threads
        )
        nursery.cancel_scope.cancel()


async def _listen(process: trio.Process, verdict: Verdict) -> None:
    assert process.stdout is not None
    while said := await process.stdout.receive_some():
        verdict.heard(bytes(said))


async def _end(process: trio.Process, verdict: Verdict) -> int | None:
    """End the group, hear what is left in the pipe, reap the validator; its exit status, None where it cannot be killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_SECONDS):
        await process.wait()
    assert isinstance(process.stdout, trio.lowlevel.FdStream)
    _drain(process.stdout.fileno(), verdict)
    with trio.CancelScope(shield=True):
        await process.stdout.aclose()
    if process.returncode is None:
        _log.warning("the validator cannot be killed", pid=process.pid)
    return process.returncode


def _drain(descriptor: int, verdict: Verdict) -> None:
    left = _LEFT_IN_PIPE_BYTES
    with suppress(BlockingIOError):
        while left > 0 and (said := os.read(descriptor, OUTPUT_BYTES)):
            verdict.heard(said)
            left -= len(said)


def printable_output(said: bytes) -> str:
    """What a program said as text of lines: what is no UTF-8, and every character that could command a terminal, as an escape."""
    text = said.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    return "".join(
        char
        if char in "\n\t" or unicodedata.category(char) not in _UNPRINTABLE
        else char.encode("unicode_escape").decode()
        for char in text
    )


Stamp = tuple[int, int, int]


def stamps(folder: Path) -> dict[str, Stamp]:
    """Inode, size and time of all that is in `folder`, by path: what a validator must leave as it is. Raises EnvironmentFault."""
    found: dict[str, Stamp] = {}
    try:
        for parent, _, names in os.walk(folder, onerror=_refuse):
            for path in (parent, *(os.path.join(parent, name) for name in names)):  # noqa: PTH118 - thousands of paths
                stat = os.lstat(path)
                found[path] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise fault(error, "looking at the draft") from error
    return found


def check_untouched(before: dict[str, Stamp], after: dict[str, Stamp], model: ModelSettings) -> None:
    """DropError `validator-refused` where the validator has changed the draft that it judged."""
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        message = f"the validator {model.validator[0]!r} has changed the draft: {changed[0]!r}"
        raise DropError("validator-refused", message, remedy="have it write to $HOME, and leave the draft as it is")


def _refuse(error: OSError) -> None:
    raise error
