"""From drop to published with a running daemon, and what a cold start of the command costs."""

import ctypes
import os
import select
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Self

from benchmarks.child import ROOT, SMDAEMON
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate
from benchmarks.inputs import write_safetensors
from benchmarks.scratch import emptied
from benchmarks.service import running_daemon

TENSORS, BYTES = 20, 200 << 10
PAUSE_SECONDS = 0.02
_IN_CREATE_MOVED_TO = 0x100 | 0x80


class Arrivals:
    """Sees through inotify what appears in a folder, so that waiting costs no processor time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_CLOEXEC)
        if libc.inotify_add_watch(self._handle, os.fsencode(self._folder), _IN_CREATE_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify", str(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def wait_for(self, name: str, *, timeout_seconds: float) -> float:
        """The moment at which folder/NAME/saved_model.pb is seen."""
        wanted = self._folder / name / "saved_model.pb"
        deadline = time.perf_counter() + timeout_seconds
        while not wanted.exists():
            left = deadline - time.perf_counter()
            if left <= 0:
                raise RuntimeError(f"version {name} was not published within {timeout_seconds} s")
            if select.select([self._handle], [], [], left)[0]:
                os.read(self._handle, 65536)
        return time.perf_counter()


def run(settings: Settings) -> Findings:
    """Drops on disk and on a tmpfs, then cold commands."""
    findings = Findings()
    drops = settings.size(200, 20)
    for where, folder in (("disk", settings.disk), ("tmpfs", settings.memory)):
        row = Row(f"drop to published, {where}", [1000 * s for s in _drops(emptied(folder / "daemon"), drops)], "ms")
        findings.rows.append(row)
        findings.at_most(f"{row.name}: median of {drops}", row.median, 25, "ms")
        findings.at_most(f"{row.name}: 99th percentile", row.percentile(99), 100, "ms")
    syncs = [1000 * seconds for seconds in _fsyncs(settings.disk / "synced", drops)]
    findings.rows.append(Row("for comparison: one fsync of a new 4 KiB file, disk", syncs, "ms"))
    times = _cold(settings)
    findings.rows += [Row(name, samples) for name, samples in times.items()]
    for command, limit in (("smdaemon export, disk", 0.5), ("import smdaemon", 0.3), ("smdaemon --help", 0.3)):
        findings.at_most(f"cold: {command}", Row("", times[command]).median, limit, "s")
    findings.notes += [
        f"the small model: {TENSORS} float32 tensors, {BYTES >> 10} KiB; it is synced, read back and published by a rename",
        "from the rename of the drop into the watched folder until its numbered folder with saved_model.pb is seen",
        f"one drop after the other, {PAUSE_SECONDS * 1000:.0f} ms after the last was published",
        "cold commands: the wall time of the whole process, files in the page cache; a bare python beside them",
    ]
    return findings


def _drops(folder: Path, count: int) -> list[float]:
    """Seconds from drop to published, of `count` drops one after the other."""
    times = []
    with running_daemon(folder) as daemon, Arrivals(daemon.publish) as arrivals:
        for step in range(count + 3):
            write_safetensors(folder / "draft", TENSORS, BYTES)
            with (folder / "draft").open("rb") as file:
                os.fsync(file.fileno())  # the trainer's bytes are not the daemon's to sync
            began = time.perf_counter()
            (folder / "draft").rename(daemon.watch / f"ckpt-{step}.safetensors")
            times.append(arrivals.wait_for(str(step), timeout_seconds=30) - began)
            time.sleep(PAUSE_SECONDS)
    emptied(folder)
    return times[3:]  # the first import what an export needs


def _fsyncs(path: Path, count: int) -> list[float]:
    """Seconds that the disk needs to make a small file durable; a publication waits for several of these."""
    times = []
    for _ in range(count):
        with path.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
        path.unlink()
    return times


def _cold(settings: Settings) -> dict[str, list[float]]:
    source = settings.disk / "small.safetensors"
    write_safetensors(source, TENSORS, BYTES)

    def wall(command: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        return time.perf_counter() - began

    def export(parent: Path) -> float:
        return wall([SMDAEMON, "export", "--quiet", str(source), str(emptied(parent / "out") / "model")])

    peers = {
        "python -c pass": partial(wall, [sys.executable, "-c", "pass"]),
        "import smdaemon": partial(wall, [sys.executable, "-c", "import smdaemon"]),
        "smdaemon --help": partial(wall, [SMDAEMON, "--help"]),
        "smdaemon export, disk": partial(export, settings.disk),
        "smdaemon export, tmpfs": partial(export, settings.memory),
    }
    for measure in peers.values():
        measure()  # fills the page cache
    return alternate(peers, settings)


BENCHMARK = Benchmark("latency", "Drop to published, and cold commands", run, rounds=11)
