"""As `handoff`, to a disk: trees of 1 and 4 GiB. It takes half an hour."""

from benchmarks.handoff import measure
from benchmarks.harness import Benchmark, Findings, Settings


def run(settings: Settings) -> Findings:
    """A small and a large tree; numpy and JAX; all peers in turns."""
    return measure(settings, [(settings.size(1 << 30, 32 << 20), "disk"), (settings.size(4 << 30, 64 << 20), "disk")])


BENCHMARK = Benchmark("handoff_disk", "Tensors handed over by a trainer, published to a disk", run, rounds=3)
