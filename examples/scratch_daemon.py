"""What the examples share: a daemon on a temporary directory, or the one that the command line names, and what became of the saves."""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smdaemon.cli.client import Client
from smdaemon.errors import ConfigError
from smdaemon.handoff import Handle
from smdaemon.savedmodel.verify import verify

MODEL = "ranker"
SAVES = 4
START_SECONDS = 30
PUBLISH_SECONDS = 60
CONFIG = f"""
[daemon]
state_dir = "state"
control_socket = "control.sock"
handoff_socket = "handoff.sock"

[[model]]
name = "{MODEL}"
watch = "runs"
publish = "models"
"""


@dataclass(frozen=True)
class Daemon:
    """Where a daemon takes tensors, for which of its models, and the directory that the model watches, if it is known."""

    socket: Path
    model: str
    runs: Path | None


def options(description: str | None, *, steps: int) -> argparse.Namespace:
    """The command line of an example; `steps` are how long it trains unless told otherwise."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, help="handoff_socket of a running daemon (default: one is started)")
    parser.add_argument("--model", default=MODEL, help="the name of its [[model]]")
    parser.add_argument("--runs", type=Path, help="what that model watches; flax_loop.py puts its functions there")
    parser.add_argument("--steps", type=int, default=steps, help="steps to train (default: %(default)s)")
    told = parser.parse_args()
    if told.steps < SAVES:
        parser.error(f"--steps must be at least {SAVES}: so many saves are made")
    return told


@contextmanager
def daemon(told: argparse.Namespace) -> Iterator[Daemon]:
    """The daemon that the command line names, or a scratch one until the end of the block."""
    if told.socket is not None:
        yield Daemon(told.socket, told.model, told.runs)
        return
    with tempfile.TemporaryDirectory(prefix="smdaemon-example-") as scratch, _started(Path(scratch)) as root:
        yield Daemon(root / "handoff.sock", MODEL, root / "runs")


@contextmanager
def _started(root: Path) -> Iterator[Path]:
    for folder in ("state", "runs", "models"):
        (root / folder).mkdir()
    (root / "config.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "smdaemon", "run", "--config", str(root / "config.toml")]
    with (root / "log").open("wb") as log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log) as process:
        try:
            _wait_until_running(process, root)
            yield root
        finally:
            process.terminate()


def _wait_until_running(process: "subprocess.Popen[bytes]", root: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if Client(str(root / "control.sock")).get("/v1/status")["phase"] == "running":
                return
        except ConfigError:  # nobody listens yet
            time.sleep(0.02)
    sys.exit(f"the daemon did not start:\n{(root / 'log').read_text()}")


def report(handles: Sequence[Handle]) -> list[Path]:
    """Print what became of each save, and verify the last version; the versions."""
    published = []
    for handle in handles:
        outcome = handle.result(PUBLISH_SECONDS)
        stall = f"kept the loop {handle.stall_seconds * 1e3:.1f} ms"
        print(f"step {handle.step:5}  {outcome.state}  {outcome.export_dir}  {stall}")
        if outcome.state == "published":
            published.append(Path(outcome.export_dir))
        else:
            print(f"  {outcome.message} [{outcome.code}]; {outcome.remedy}")
    if not published:
        sys.exit("nothing was published")
    found = verify(published[-1])
    print(f"verified {published[-1]}: {found.tensors} tensors, {found.bytes:,} bytes, fingerprint {found.fingerprint}")
    return published
