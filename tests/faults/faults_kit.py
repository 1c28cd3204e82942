"""What the tests of faults share: a daemon in this process that can be asked directly, and what must hold whatever breaks."""

import errno
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio
from disk_kit import MountedDisk

from smdaemon.config import load_config
from smdaemon.daemon.daemon import Daemon
from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.states import TERMINAL, State
from smdaemon.proto.v1 import ExportRequest
from smdaemon.savedmodel.verify import verify

PATIENCE_SECONDS = 60
ENDS = TERMINAL | {State.WAITING}
"""What an attempt ends in."""

TALLY: Counter[str] = Counter()
"""What was broken, for the last line of the run."""


class Case(NamedTuple):
    """A fault: at which operation, which one, and whether it lasts until it is cleared."""

    kind: str
    nth: int
    number: int
    lasting: bool

    def __str__(self) -> str:
        return f"{errno.errorcode[self.number]} at {self.kind} {self.nth}{' and on' if self.lasting else ''}"


class Working:
    """A daemon that runs in this process. `moves` are the moves of all jobs since it was started."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.scheduler = daemon._scheduler
        self.ledger = self.scheduler._ledger
        self.intake = daemon._watches._intake
        self.moves: list[Job] = []
        self._moved = trio.Event()
        self.ledger.observe(self._saw)

    def _saw(self, move: Moved) -> None:
        self.moves.append(move.job)
        self._moved.set()
        self._moved = trio.Event()

    async def submit(self, source: Path, model: str = "ranker") -> int:
        """Ask for an export; the job's number."""
        return (await self.intake.request(ExportRequest(model=model, source=str(source)))).id

    async def reached(self, job_id: int, states: Iterable[State]) -> Job:
        """The first move of a job into one of these states."""
        states = frozenset(states)
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                for job in self.moves:
                    if job.id == job_id and job.state in states:
                        return job
                await self._moved.wait()

    async def published(self, job_id: int) -> Job:
        """The job, once it is published; one that failed because of a fault is retried once, as `smdaemon retry` does."""
        job = await self._ended(job_id)
        if job.state is not State.PUBLISHED:
            await self.scheduler.retry(job_id)
            job = await self._ended(job_id)
        assert job.state is State.PUBLISHED, job
        return job

    async def _ended(self, job_id: int) -> Job:
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                moved = self._moved
                job = await self.ledger.get(job_id)
                if job is not None and job.state in TERMINAL:
                    return job
                await moved.wait()

    async def idle(self) -> None:
        """Wait until no job is open."""
        with trio.fail_after(PATIENCE_SECONDS):
            while self.ledger.open_jobs:
                await self._moved.wait()

    async def settled(self, jobs: int) -> None:
        """Wait until there are so many jobs, and all have ended."""
        with trio.fail_after(PATIENCE_SECONDS):
            while self.ledger.open_jobs or sum(self.ledger.counts().values()) < jobs:
                await self._moved.wait()

    async def tick(self) -> None:
        """Let the daemon do something."""
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def mending(self, disk: MountedDisk | None) -> AsyncIterator[None]:
        """A disk that is broken is mended during the block, once it was met three times, or by its end."""
        async with trio.open_nursery() as nursery:
            if disk is not None:
                nursery.start_soon(_mend, disk)
            yield
            nursery.cancel_scope.cancel()
        if disk is not None:
            disk.ask("clear")


@asynccontextmanager
async def working(config: Path, broken: MountedDisk | None = None) -> AsyncIterator[Working]:
    """A daemon on that configuration. A disk that is `broken` is mended once the daemon runs, or has met the fault three times."""
    daemon = Daemon(config, load_config(config))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as starting:
                if broken is not None:
                    starting.start_soon(_mend, broken)
                await nursery.start(daemon.run)
                starting.cancel_scope.cancel()
        if broken is not None:
            broken.ask("clear")
        yield Working(daemon)
        daemon.stop()


async def _mend(disk: MountedDisk) -> None:
    while disk.ask("fired") < 3:
        await trio.lowlevel.checkpoint()
    disk.ask("clear")


def configure(
    root: Path, *, state: Path, models: dict[str, tuple[Path, Path]], lines: str = "", daemon: str = ""
) -> Path:
    """A configuration file in `root`: each model with the directories that it watches and publishes to."""
    path = root / "config.toml"
    text = f'[daemon]\nstate_dir = "{state}"\ncontrol_socket = "{root}/control.sock"\n{daemon}\n'
    for name, (watch, publish) in models.items():
        text += f'\n[[model]]\nname = "{name}"\nwatch = "{watch}"\npublish = "{publish}"\n{lines}\n'
    path.write_text(text)
    return path


def content_of(root: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def versions_of(publish: Path) -> list[str]:
    """The versions that a loader would see; each is whole."""
    if not publish.is_dir():
        return []
    found = sorted(path.name for path in publish.iterdir() if path.name.isdecimal())
    for name in found:
        verify(publish / name)
    return found


def drafts_of(publish: Path) -> list[str]:
    """What else lies in a publish directory."""
    return sorted(path.name for path in publish.iterdir() if not path.name.isdecimal())
