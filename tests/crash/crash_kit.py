"""A daemon that is killed again and again under load, and what must hold whatever happens."""

import json
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smdaemon.cli.client import Client
from smdaemon.errors import DropError, SmdaemonError
from smdaemon.handoff import Handle, attach
from smdaemon.jobs.states import TERMINAL
from smdaemon.savedmodel.verify import verify

MORTAL = Path(__file__).with_name("mortal_smdaemon.py")
PATIENCE_SECONDS = 120
MODELS = ("drops", "asked", "handed")


class Server:
    """Behaves like TensorFlow Serving: looks for numbers all the time, and loads each as soon as it sees it."""

    def __init__(self, root: Path) -> None:
        self._folders = [root / "models" / name for name in MODELS]
        self.loaded: set[Path] = set()
        self.broken: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look once more, then stop."""
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            last = self._stop.is_set()
            for folder in self._folders:
                for version in folder.iterdir() if folder.exists() else ():
                    if version.name.isdigit() and version not in self.loaded:
                        self._load(version)
            if last:
                return
            self._stop.wait(0.001)

    def _load(self, version: Path) -> None:
        try:
            verify(version)
        except SmdaemonError as error:
            self.broken.append(f"{version}: {error.code}: {error.message}")
        self.loaded.add(version)


@dataclass
class Load:
    """What is asked of the daemon, and what it owes for it: drops, requests and handoffs, each with values of its own."""

    root: Path
    rng: random.Random
    drops: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    handles: list[Handle] = field(default_factory=list)

    def prepare(self) -> None:
        """Directories and the configuration."""
        lines = ['[daemon]\nstate_dir = "state"\ncontrol_socket = "control.sock"\nhandoff_socket = "handoff.sock"\n']
        for name in MODELS:
            (self.root / name).mkdir()
            ignore = 'on_drop = "ignore"\n' if name == "asked" else ""
            lines.append(
                f'[[model]]\nname = "{name}"\nwatch = "{name}"\npublish = "models/{name}"\nquiet_seconds = 0.05\n{ignore}'
            )
        (self.root / "models").mkdir()
        (self.root / "config.toml").write_text("".join(lines))

    def more(self, count: int) -> None:
        """So many more drops and requests."""
        for _ in range(count):
            step = len(self.drops) + len(self.requests) + 1
            if self.rng.random() < 0.5:
                self._drop("drops", step)
                self.drops.append(step)
            else:
                self._drop("asked", step)
                request = self.root / "asked" / f"r{step}.tmp"
                request.write_text(json.dumps({"source": f"ckpt-{step}.npz"}))
                request.rename(self.root / "asked" / f"r{step}.export.json")
                self.requests.append(step)

    def _drop(self, folder: str, step: int) -> None:
        scratch = self.root / "writing"
        with scratch.open("wb") as file:
            np.savez(file, **values(step))
        scratch.rename(self.root / folder / f"ckpt-{step}.npz")


def values(step: int) -> dict[str, np.ndarray]:
    """The tensors of a step: a few, one of them larger than what is gathered before a write."""
    return {
        "a/kernel": np.full((200, 200), step, np.float32),
        "a/bias": np.arange(step % 7 + 1),
        "scale": np.float64(step),
    }


class Mortal:
    """A daemon that dies at a boundary, if it gets there."""

    def __init__(self, root: Path, dies_at: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(MORTAL), str(dies_at), "run", "--config", "config.toml"],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.quiet = threading.Event()
        self.running = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stderr:
            self.lines.append(line)
            if '"event": "running"' in line:
                self.running.set()
        self.running.set()

    def died(self) -> str:
        """Wait for the end; the boundary that it died at, or '' for an end of another kind."""
        self._process.wait(PATIENCE_SECONDS)
        self._reader.join()
        self._process.stderr.close()
        assert not any("Traceback" in line for line in self.lines), "".join(self.lines)
        return next((line.strip() for line in self.lines if line.startswith("killed at")), "")

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def wait(self, seconds: float) -> bool:
        """Whether it dies within so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """End it as a service manager does."""
        self._process.terminate()


def settled(root: Path, *, jobs: int) -> list[dict]:
    """All jobs, once `jobs` of them are there and every one has ended."""
    client = Client(str(root / "control.sock"))
    for _ in client.events(after=0):
        found = client.get("/v1/jobs", limit=1000)["jobs"]
        if len(found) >= jobs and all(job["state"] in TERMINAL for job in found):
            return found
    raise AssertionError("the stream of events ended")


def check_owed(load: Load, jobs: list[dict], server: Server) -> None:
    """Every accepted export is published exactly once, with its values, and nothing else is left anywhere."""
    assert not server.broken, server.broken
    assert [job for job in jobs if job["state"] != "published"] == []
    for model, steps in (("drops", load.drops), ("asked", load.requests)):
        assert sorted(job["version"] for job in jobs if job["model"] == model) == sorted(steps)
    handed = {job["version"] for job in jobs if job["model"] == "handed"}
    for handle in load.handles:
        outcome = handle.result(0)
        assert (outcome.state, outcome.version) == ("published", handle.step), outcome
        assert handle.step in handed
    for model in MODELS:
        folder = load.root / "models" / model
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        assert names == sorted(str(job["version"]) for job in jobs if job["model"] == model)
        for name in names:
            verify(folder / name)
            _check_values(folder / name, int(name))
    for step in load.requests:
        result = json.loads((load.root / "asked" / f"r{step}.export.result.json").read_text())
        assert (result["state"], result["version"]) == ("published", step)
    left = [path for path in load.root.rglob("*") if ".tmp" in path.name or ".smdaemon-" in path.name]
    assert not left, left


def _check_values(version: Path, step: int) -> None:
    from smdaemon.tensorbundle import BundleReader

    with BundleReader(version / "variables" / "variables") as bundle:
        for name, array in values(step).items():
            np.testing.assert_array_equal(bundle.array(f"{name}/.ATTRIBUTES/VARIABLE_VALUE"), array)


__all__ = ["DropError", "Load", "Mortal", "Server", "attach", "check_owed", "settled", "values"]
