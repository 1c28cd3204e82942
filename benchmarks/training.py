"""What a training loop loses while its tensors are handed over and written: it computes without a pause, on one core or on all."""

import os
import statistics
from collections.abc import Callable
from functools import partial

from benchmarks import training_loops as loops
from benchmarks.child import fresh
from benchmarks.handoff_peers import TENSORS
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate
from benchmarks.inputs import write_safetensors
from benchmarks.scratch import emptied
from benchmarks.service import Value, running_daemon

SAVES = 3
LEAST = 95
NICE, RATE = 15, "75MB"
CONSIDERATE = f"nice = {NICE}, write_rate = {RATE}"
BESIDE_DD = "numpy on all cores, beside dd"


def run(settings: Settings) -> Findings:
    """All publish to a disk. Loops take turns, each with a daemon of its own."""
    nbytes = settings.size(1 << 30, 32 << 20)
    found: dict[str, list[loops.Samples]] = {}

    def keep(name: str, samples: loops.Samples) -> float:
        found.setdefault(name, []).append(samples)
        return statistics.median(samples["kept"])

    def measured(name: str, loop: str, threads: int, nice: int, write_rate: str) -> float:
        folder = emptied(settings.disk / "daemon")
        daemon: dict[str, Value] = {"handoff_socket": "handoff.sock", "handoff_memory": f"{3 * nbytes}B", "nice": nice}
        with running_daemon(folder, daemon=daemon, write_rate=write_rate) as running:
            arguments = {"loop": loop, "threads": threads, "nbytes": nbytes, "saves": SAVES}
            samples = fresh(loops.train, **arguments, socket=running.handoff, daemon=running.pid)
        emptied(folder)
        return keep(name, samples)

    def beside_dd(threads: int) -> float:
        folder = emptied(settings.memory / "dd")
        write_safetensors(folder / "source", TENSORS, nbytes)
        arguments = {"loop": "numpy", "threads": threads, "nbytes": nbytes, "saves": SAVES}
        samples = fresh(loops.train_beside_dd, **arguments, source=folder / "source", target=settings.disk / "copy")
        emptied(folder)
        return keep(BESIDE_DD, samples)

    cores = os.cpu_count() or 1
    turns: dict[str, Callable[[], float]] = {BESIDE_DD: partial(beside_dd, cores)}
    for name, loop, threads, nice, write_rate in (
        ("numpy on one core", "numpy", 1, 0, ""),
        ("numpy on all cores", "numpy", cores, 0, ""),
        (f"numpy on one core, {CONSIDERATE}", "numpy", 1, NICE, RATE),
        (f"numpy on all cores, {CONSIDERATE}", "numpy", cores, NICE, RATE),
        ("JAX on all cores", "jax", cores, 0, ""),
        (f"JAX on all cores, {CONSIDERATE}", "jax", cores, NICE, RATE),
        (f"JAX that updates all parameters, {CONSIDERATE}", "jax, update", cores, NICE, RATE),
    ):
        turns[name] = partial(measured, name, loop, threads, nice, write_rate)
    alternate(turns, settings)
    findings = Findings()
    for title, what, unit, factor in (
        ("speed left while it is written", "kept", "%", 100),
        ("lost in all by a save", "lost", "s", 1),
        ("stall", "stall", "s", 1),
        ("from save to published", "written", "s", 1),
        ("processor time of the daemon", "daemon", "s", 1),
        ("taken by the hypervisor meanwhile", "stolen", "% of all cores", 100),
    ):
        for name, processes in found.items():
            samples = [factor * sample for process in processes for sample in process.get(what, [])]
            if not samples or (name == BESIDE_DD and what == "stall"):
                continue
            findings.rows.append(Row(f"{title}: {name}", samples, unit))
            if what == "kept" and CONSIDERATE in name:
                findings.at_least(f"{title}: {name}", findings.rows[-1].median, LEAST, "%")
    findings.notes += [
        f"{nbytes / 2**20:.0f} MiB in {TENSORS} tensors, published to a disk, synced and read back, while the loop goes on",
        f"against the same loop in the {loops.WINDOW_SECONDS:.0f} s before each save",
        "the numpy loop multiplies matrices, on one core or on all; what is saved is copied before it goes on",
        "the JAX loop multiplies matrices on all cores and takes the memory of its parameters (donated): while a save copies these, JAX copies them too",
        "lost in all: the stall, and the time of the steps that were not made until the version was published",
        "nice and write_rate: settings of the daemon and the model; beside dd: no daemon, dd writes as many bytes to the disk, past the page cache",
    ]
    return findings


BENCHMARK = Benchmark("training", "A training loop while its tensors are written", run, rounds=3)
