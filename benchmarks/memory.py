"""How much memory an export of 4 GiB takes: what the process holds of its own, page cache aside.

The source lies on a disk, so that its mapped pages count as RssFile; RssAnon and RssShmem are what an export truly needs.
"""

import subprocess
import threading
from pathlib import Path
from typing import Any, Self

from benchmarks.child import SMDAEMON, result_of, start
from benchmarks.harness import Benchmark, Findings, Row, Settings
from benchmarks.inputs import write_npz, write_safetensors
from benchmarks.latency import Arrivals
from benchmarks.scratch import emptied
from benchmarks.service import Daemon, memory, running_daemon

TENSORS = 64
LIMIT_MIB = 200
OWN = ("RssAnon", "RssShmem")


class Sampler(threading.Thread):
    """Looks at a process's memory every two milliseconds until it is stopped, and keeps the highest."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._stop_asked = pid, threading.Event()
        self.peak_bytes = 0
        self.peak_resident_bytes = 0

    def run(self) -> None:
        """Sample until stopped, or until the process is gone."""
        try:
            while not self._stop_asked.wait(0.002):
                self.peak_bytes = max(self.peak_bytes, memory(self._pid, *OWN))
                self.peak_resident_bytes = max(self.peak_resident_bytes, memory(self._pid, "VmHWM"))
        except (FileNotFoundError, ProcessLookupError):
            return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def fresh_with_peak(function: Any, **arguments: Any) -> tuple[Any, int]:
    """As `child.fresh`, with the bytes that the process held of its own at most."""
    process = start(function, **arguments)
    with Sampler(process.pid) as sampler:
        result = result_of(process)
    return result, sampler.peak_bytes


def run(settings: Settings) -> Findings:
    """The peak of a daemon above its idle state, and of the one-shot command above a command that does nothing."""
    nbytes = settings.size(4 << 30, 64 << 20)
    findings = Findings()
    source_folder = emptied(settings.disk / "sources")
    sources = {"safetensors": source_folder / "ckpt-1.safetensors", "npz": source_folder / "ckpt-2.npz"}
    write_safetensors(sources["safetensors"], TENSORS, nbytes)
    write_npz(sources["npz"], TENSORS, nbytes)
    samples: dict[str, list[float]] = {}
    for turn in range(settings.rounds):
        for kind, source in sources.items():
            _add(samples, _by_daemon(settings, kind, source))
            _add(samples, _by_command(settings, kind, source))
        settings.say(f"  round {turn + 1}/{settings.rounds}")
    findings.rows += [Row(name, values, "MiB") for name, values in samples.items()]
    for row in findings.rows:
        if row.name.endswith("above idle"):
            findings.at_most(f"{nbytes / 2**30:.3g} GiB, {row.name}", max(row.samples), LIMIT_MIB, "MiB")
    findings.notes += [
        f"{TENSORS} float32 tensors, source and export on disk; RssAnon + RssShmem, sampled every 2 ms; checks take the highest",
        "idle: the daemon before the drop; for the command, its memory when it has imported what an export needs",
    ]
    return findings


def _add(samples: dict[str, list[float]], found: dict[str, int]) -> None:
    for name, value in found.items():
        samples.setdefault(name, []).append(value / 2**20)


def _by_daemon(settings: Settings, kind: str, source: Path) -> dict[str, int]:
    folder = emptied(settings.disk / "daemon")
    with running_daemon(folder) as daemon, Arrivals(daemon.publish) as arrivals:
        idle = _idle_bytes(daemon, arrivals, folder)
        with Sampler(daemon.pid) as sampler:
            drop = folder / "watch" / f"ckpt-1{source.suffix}"
            (folder / "drop").hardlink_to(source)
            (folder / "drop").rename(drop)
            arrivals.wait_for("1", timeout_seconds=300)
    emptied(folder)
    return {
        f"daemon, {kind}: idle": idle,
        f"daemon, {kind}: peak above idle": sampler.peak_bytes - idle,
        f"daemon, {kind}: peak resident, page cache included": sampler.peak_resident_bytes,
    }


def _idle_bytes(daemon: Daemon, arrivals: Arrivals, folder: Path) -> int:
    """The daemon's own memory after a first tiny export: what that imported stays and is not the export's."""
    write_safetensors(folder / "warm", 1, 4096)
    (folder / "warm").rename(folder / "watch" / "ckpt-0.safetensors")
    arrivals.wait_for("0", timeout_seconds=30)
    return daemon.memory(*OWN)


def _by_command(settings: Settings, kind: str, source: Path) -> dict[str, int]:
    folder = emptied(settings.disk / "command")
    write_safetensors(folder / "tiny.safetensors", 1, 4096)
    small = _peak_of_command(folder / "tiny.safetensors", folder / "tiny")
    large = _peak_of_command(source, folder / "large")
    emptied(folder)
    return {f"command, {kind}: tiny export": small, f"command, {kind}: peak above idle": large - small}


def _peak_of_command(source: Path, target: Path) -> int:
    process = subprocess.Popen([SMDAEMON, "export", "--quiet", str(source), str(target)])
    with Sampler(process.pid) as sampler:
        if process.wait():
            raise RuntimeError(f"smdaemon export ended with {process.returncode}")
    return sampler.peak_bytes


BENCHMARK = Benchmark("memory", "Memory of an export of 4 GiB", run, rounds=2)
