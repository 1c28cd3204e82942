"""What the daemon's tests share: a configuration, and a daemon that runs, asked over its real control socket."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio

from smdaemon.cli.client import Client, Json
from smdaemon.daemon.daemon import Daemon
from smdaemon.jobs.states import TERMINAL


@dataclass
class Running:
    """A daemon that runs, and the directories of its one model."""

    daemon: Daemon
    client: Client
    root: Path

    @property
    def runs(self) -> Path:
        """The watched directory."""
        return self.root / "runs"

    @property
    def models(self) -> Path:
        """The publish directory."""
        return self.root / "models"

    async def ask(self, method: Callable[..., Json], *args: object, **kwargs: object) -> Json:
        """A call of the client, in a thread."""
        return await trio.to_thread.run_sync(lambda: method(*args, **kwargs))

    async def ended(self, count: int = 1) -> list[Json]:
        """The jobs, in the order in which they ended, once so many have."""

        def follow() -> list[Json]:
            jobs: list[Json] = []
            for event in self.client.events(after=0):
                if event.data["job"]["state"] in TERMINAL:
                    jobs.append(event.data["job"])
                    if len(jobs) == count:
                        return jobs
            raise AssertionError(f"the stream of events ended after {jobs}")

        return await trio.to_thread.run_sync(follow, abandon_on_cancel=True)

    def write(self, **arrays: np.ndarray) -> Path:
        """A finished npz outside the watched directory."""
        scratch = self.root / "writing.npz"
        np.savez(scratch, **(arrays or {"layer/0/kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}))
        return scratch

    def drop(self, name: str, **arrays: np.ndarray) -> Path:
        """A finished npz, renamed into the watched directory."""
        return self.write(**arrays).rename(self.runs / name)


def write_config(root: Path, *, daemon: str = "", model: str = "") -> Path:
    """A configuration for `root`, with further lines for its two tables."""
    path = root / "config.toml"
    quiet = "" if "quiet_seconds" in model else "quiet_seconds = 0.05\n"
    path.write_text(
        f'[daemon]\nstate_dir = "state"\ncontrol_socket = "control.sock"\nhost_memory = "256MiB"\n{daemon}\n'
        f'[[model]]\nname = "ranker"\nwatch = "runs"\npublish = "models"\n{quiet}{model}\n'
    )
    return path


async def until_gone(group: int) -> None:
    """Return once no process of the group is left; the killed are reaped by init, a moment later."""
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        if not any_alive(group):
            return
        await trio.lowlevel.checkpoint()


def any_alive(group: int) -> bool:
    """Whether a process of the group is no zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
