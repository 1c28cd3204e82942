"""Whether a daemon that exports thousands of versions keeps its memory, its descriptors and its threads."""

import time
from pathlib import Path

from benchmarks.harness import Benchmark, Findings, Row, Settings
from benchmarks.scratch import emptied
from benchmarks.service import Daemon, running_daemon

BATCH = 50
PATIENCE_SECONDS = 120


def run(settings: Settings) -> Findings:
    """Drops in batches; after each the daemon is measured. The first tenth warms it up, then nothing may grow."""
    import numpy as np

    exports = settings.size(10_000, 200)
    folder = emptied(settings.memory / "soak")
    findings = Findings()
    memory: list[float] = []
    descriptors: list[float] = []
    threads: list[float] = []
    with running_daemon(folder, on_backlog="all", keep_last=20) as daemon:
        np.savez(folder / "seed.npz", **{f"layer/{item}/kernel": np.ones((16, 16), np.float32) for item in range(8)})
        seed = (folder / "seed.npz").read_bytes()
        began = time.perf_counter()
        for first in range(1, exports + 1, BATCH):
            for step in range(first, first + BATCH):
                scratch = folder / "writing"
                scratch.write_bytes(seed)
                scratch.rename(daemon.watch / f"ckpt-{step}.npz")
            _wait_for(daemon, first + BATCH - 1)
            for step in range(first, first + BATCH):
                (daemon.watch / f"ckpt-{step}.npz").unlink()
            memory.append(daemon.memory("RssAnon", "RssShmem") / 2**20)
            descriptors.append(sum(1 for _ in Path(f"/proc/{daemon.pid}/fd").iterdir()))
            threads.append(daemon.threads())
        seconds = time.perf_counter() - began
    warm = max(1, len(memory) // 10)
    settled, last = memory[warm : 2 * warm] or memory, memory[-warm:]
    growth = sum(last) / len(last) - sum(settled) / len(settled)
    findings.rows += [
        Row("own memory", memory[warm:], "MiB"),
        Row("descriptors", descriptors[warm:], ""),
        Row("threads", threads[warm:], ""),
        Row("exports", [exports / seconds], "exports/s"),
    ]
    findings.at_most(f"memory that {exports - warm * BATCH:,} exports add", growth, 10, "MiB")
    findings.at_most("descriptors more at the end than when warm", descriptors[-1] - descriptors[warm], 5, "")
    findings.at_most("threads more at the end than when warm", threads[-1] - threads[warm], 5, "")
    findings.notes.append(
        f"one model, {exports:,} drops of 8 small tensors in batches of {BATCH}; the last 20 versions are kept"
    )
    return findings


def _wait_for(daemon: Daemon, version: int) -> None:
    """Wait until the version is there; drops of one model are published in order."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    target = Path(daemon.publish, str(version))
    while not target.exists():
        daemon.check_alive()
        if time.perf_counter() > deadline:
            raise RuntimeError(f"version {version} has not appeared in {PATIENCE_SECONDS} s")
        time.sleep(0.005)


BENCHMARK = Benchmark("soak", "Ten thousand exports by one daemon", run, rounds=1)
