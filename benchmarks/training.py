"""What a training loop loses while its tensors are handed over and written: it computes without a pause, on one core or on all."""

import os
import statistics
from functools import partial

from benchmarks import training_loops as loops
from benchmarks.child import fresh
from benchmarks.handoff_peers import TENSORS
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate
from benchmarks.scratch import emptied
from benchmarks.service import Value, running_daemon

SAVES = 4
LEAST = 95


def run(settings: Settings) -> Findings:
    """All publish to a disk. Loops take turns, each with a daemon of its own."""
    nbytes = settings.size(1 << 30, 32 << 20)
    cores = os.cpu_count() or 1
    found: dict[str, list[loops.Samples]] = {}

    def measured(name: str, loop: str, threads: int, nice: int) -> float:
        folder = emptied(settings.disk / "daemon")
        daemon: dict[str, Value] = {"handoff_socket": "handoff.sock", "handoff_memory": f"{3 * nbytes}B", "nice": nice}
        with running_daemon(folder, daemon=daemon) as running:
            arguments = {"loop": loop, "threads": threads, "nbytes": nbytes, "saves": SAVES}
            samples: loops.Samples = fresh(loops.train, **arguments, socket=running.handoff, daemon=running.pid)
        emptied(folder)
        found.setdefault(name, []).append(samples)
        return statistics.median(samples["kept"])

    alternate(
        {
            name: partial(measured, name, loop, threads, nice)
            for name, loop, threads, nice in (
                ("numpy on one core", "numpy", 1, 0),
                ("numpy on all cores", "numpy", cores, 0),
                ("numpy on all cores, nice = 10", "numpy", cores, 10),
                ("JAX on all cores", "jax", cores, 0),
                ("JAX on all cores, nice = 10", "jax", cores, 10),
                ("JAX that updates all parameters, nice = 10", "jax, update", cores, 10),
            )
        },
        settings,
    )
    findings = Findings()
    for title, what, unit, factor in (
        ("speed left while a save is written", "kept", "%", 100),
        ("from save to published", "written", "s", 1),
        ("stall", "stall", "s", 1),
        ("lost in all by a save", "lost", "s", 1),
        ("processor time of the daemon for it", "daemon", "s", 1),
    ):
        for name, processes in found.items():
            samples = [factor * sample for process in processes for sample in process[what]]
            findings.rows.append(Row(f"{title}: {name}", samples, unit))
            if what == "kept":
                findings.at_least(f"{title}: {name}", findings.rows[-1].median, LEAST, "%")
    findings.notes += [
        f"{nbytes / 2**20:.0f} MiB in {TENSORS} tensors, published to a disk, synced and read back, while the loop goes on",
        f"against the same loop in the {loops.QUIET_SECONDS:.0f} s before each save",
        "the numpy loop multiplies matrices, on one core or on all; what is saved is copied before it goes on",
        "the JAX loop multiplies matrices on all cores and takes the memory of its parameters (donated): while a save copies these, JAX copies them too",
        "lost in all: the stall, and the time of the steps that were not made until the version was published",
        "nice: the daemon's setting",
    ]
    return findings


BENCHMARK = Benchmark("training", "A training loop while its tensors are written", run, rounds=3)
