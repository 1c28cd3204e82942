"""The validator of a model: a command that judges a finished draft before it gets its number.

It ends at the latest when its time is over, when the job is cancelled, when the daemon stops. The last that it says is kept with the job.
"""

import os
from pathlib import Path

import trio

from smdaemon.commands import Command, Ended
from smdaemon.daemon.drafts import discard
from smdaemon.errors import DropError, fault
from smdaemon.jobs.attempt import Attempt
from smdaemon.publish.local import LocalStore
from smdaemon.settings import ModelSettings


async def judge(attempt: Attempt, model: ModelSettings, store: LocalStore, draft: Path) -> None:
    """Have the model's validator judge the finished draft of an attempt.

    Raises DropError validator-refused, validator-timeout, ConfigError validator-missing, EnvironmentFault.
    """
    home = await trio.to_thread.run_sync(_make_home, store, f"job{attempt.job.id}-home")
    verdict = Ended()
    try:
        before = await trio.to_thread.run_sync(stamps, draft)
        await _command(model, draft, attempt.job.version or 0, home).run(verdict)
        check_verdict(verdict, model)
        check_untouched(before, await trio.to_thread.run_sync(stamps, draft), model)
    finally:
        attempt.findings = {"validator_output": verdict.output}
        await discard(store, home)


def _make_home(store: LocalStore, name: str) -> Path:
    home = store.draft(name)
    try:
        home.mkdir(mode=0o700)
    except OSError as error:
        raise fault(error, "making a directory for the validator") from error
    return home


def check_verdict(verdict: Ended, model: ModelSettings) -> None:
    """DropError `validator-timeout` or `validator-refused` unless the validator found the export good."""
    command = model.validator[0]
    if verdict.timed_out:
        message = f"the validator {command!r} did not end within {model.validator_seconds:g} s"
        raise DropError("validator-timeout", message)
    if verdict.status:
        raise DropError("validator-refused", f"the validator {command!r} {verdict.how}")


def _command(model: ModelSettings, draft: Path, version: int, home: Path) -> Command:
    """The model's validator, to judge `draft`; `home` is a directory that exists, for it to write to."""
    return Command(
        [*model.validator, str(draft)],
        home,
        model.validator_seconds,
        called="the validator",
        missing_code="validator-missing",
        environment={
            "HOME": str(home),
            "SMDAEMON_MODEL": model.name,
            "SMDAEMON_VERSION": str(version),
            "SMDAEMON_EXPORT_DIR": str(draft),
        },
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
