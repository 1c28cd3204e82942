"""`smdaemon inspect` against `saved_model_cli show --all`, whole processes: what somebody waits for who wants to know what is in a model."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import models
from benchmarks.child import ENVIRONMENT, ROOT, SMDAEMON, fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate, times_faster

SAVED_MODEL_CLI = str(Path(sys.executable).parent / "saved_model_cli")
VARIABLES, FUNCTIONS = 200, 8
TARGET = 20


def run(settings: Settings) -> Findings:
    """A small model, one of middling size, and both printed as JSON."""
    mid, small = settings.disk / "mid", settings.disk / "small"
    shape = {"tensors": settings.size(VARIABLES, 20), "functions": settings.size(FUNCTIONS, 3)}
    graph_bytes = fresh(models.serve, export_dir=mid, nbytes=shape["tensors"] << 12, **shape)
    fresh(models.serve, export_dir=small, tensors=3, nbytes=3 << 12, functions=1)
    peers: dict[str, Callable[[], float]] = {}
    for name, folder in (("small", small), ("mid-size", mid)):
        peers |= {
            f"{name}: smdaemon inspect": partial(_wall, [SMDAEMON, "inspect", str(folder)]),
            f"{name}: smdaemon inspect --json": partial(_wall, [SMDAEMON, "inspect", str(folder), "--json"]),
            f"{name}: saved_model_cli show --all": partial(
                _wall, [SAVED_MODEL_CLI, "show", "--dir", str(folder), "--all"]
            ),
        }
    peers["python -c pass"] = partial(_wall, [sys.executable, "-c", "pass"])
    for name, measure in peers.items():
        if "saved_model_cli" not in name:  # whose files were read when TensorFlow made the models
            measure()  # fills the page cache
    times = alternate(peers, settings)
    findings = Findings([Row(name, samples) for name, samples in times.items()])
    for name in ("small", "mid-size"):
        ours, theirs = times[f"{name}: smdaemon inspect"], times[f"{name}: saved_model_cli show --all"]
        findings.at_least(f"{name} model, against saved_model_cli", times_faster(ours, theirs), TARGET)
    findings.notes += [
        f"mid-size: {shape['tensors']} variables, {shape['functions']} signatures, saved_model.pb of {graph_bytes >> 10} KiB",
        "the wall time of the whole process, start included; output goes to a pipe; files lie in the page cache",
    ]
    return findings


def _wall(command: list[str]) -> float:
    """Seconds of a command from its start to its end."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(
            f"{command[0]} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')[-3000:]}"
        )
    return seconds


BENCHMARK = Benchmark("inspect", "What is in a SavedModel", run, rounds=3)
