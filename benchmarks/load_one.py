"""One variable out of many: reading it alone, through the loader, and as TensorFlow's checkpoint reader and loader do."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.child import fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate, times_faster
from benchmarks.inputs import shapes
from benchmarks.memory import fresh_with_peak
from benchmarks.scratch import emptied

CHECKPOINT_KEY = "{}/.ATTRIBUTES/VARIABLE_VALUE"


def by_bundle(export_dir: str, name: str) -> list[float]:
    """`BundleReader.array`; seconds until the values are there, and their sum."""
    import numpy as np

    from smdaemon.tensorbundle.reader import BundleReader

    began = time.perf_counter()
    with BundleReader(Path(export_dir, "variables/variables")) as bundle:
        array = bundle.array(CHECKPOINT_KEY.format(name))
    return [time.perf_counter() - began, float(np.sum(array, dtype=np.float64))]


def by_load(export_dir: str, name: str) -> list[float]:
    """`smdaemon.savedmodel.load` and the variable by its name."""
    import numpy as np

    from smdaemon.proto.tensorflow import SavedModel, TrackableObjectGraph
    from smdaemon.savedmodel.loader import load

    SavedModel(), TrackableObjectGraph()  # the first message of a process makes the descriptors
    began = time.perf_counter()
    with load(export_dir, "serve") as model:
        array = model.variables[name].read()
    return [time.perf_counter() - began, float(np.sum(array, dtype=np.float64))]


def by_tensorflow_checkpoint(export_dir: str, name: str) -> list[float]:
    """`tf.train.load_checkpoint` and `get_tensor`."""
    import numpy as np
    import tensorflow as tf  # type: ignore[import-untyped] # it ships no types

    began = time.perf_counter()
    reader = tf.train.load_checkpoint(str(Path(export_dir, "variables/variables")))
    array = reader.get_tensor(CHECKPOINT_KEY.format(name))
    return [time.perf_counter() - began, float(np.sum(array, dtype=np.float64))]


def by_tensorflow_load(export_dir: str, name: str) -> list[float]:
    """`tf.saved_model.load`, which restores every variable, and the one that is wanted."""
    import numpy as np
    import tensorflow as tf

    began = time.perf_counter()
    found = tf.saved_model.load(export_dir)
    for part in name.split("/"):
        found = getattr(found, part)
    array = found.numpy()
    return [time.perf_counter() - began, float(np.sum(array, dtype=np.float64))]


PEERS: dict[str, Any] = {
    "smdaemon: BundleReader.array": by_bundle,
    "smdaemon: savedmodel.load": by_load,
    "tf.train.load_checkpoint, get_tensor": by_tensorflow_checkpoint,
    "tf.saved_model.load": by_tensorflow_load,
}


def run(settings: Settings) -> Findings:
    """The variable in the middle, by everybody in turns; whole processes are timed on the way."""
    tensors, nbytes = settings.size(2000, 100), settings.size(2000 << 20, 20 << 20)
    export_dir = emptied(settings.memory / "model") / "1"
    fresh(models.weights, export_dir=export_dir, tensors=tensors, nbytes=nbytes)
    name = list(shapes(tensors, nbytes))[tensors // 2]
    sums: set[float] = set()
    walls: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}

    def measured(peer: str) -> float:
        began = time.perf_counter()
        (seconds, total), peak = fresh_with_peak(PEERS[peer], export_dir=export_dir, name=name)
        walls.setdefault(peer, []).append(time.perf_counter() - began)
        peaks.setdefault(peer, []).append(peak / 2**20)
        sums.add(round(total, 3))
        return 1000 * float(seconds)

    times = alternate({peer: partial(measured, peer) for peer in PEERS}, settings)
    if len(sums) > 1:
        raise RuntimeError(f"the peers read different values: {sums}")
    findings = Findings([Row(peer, samples, "ms") for peer, samples in times.items()])
    findings.rows += [Row(f"{peer}: whole process", samples) for peer, samples in walls.items()]
    findings.rows += [Row(f"{peer}: peak memory", samples, "MiB") for peer, samples in peaks.items()]
    bundle, load, checkpoint, whole = PEERS
    findings.at_least(f"{bundle}, against {checkpoint}", times_faster(times[bundle], times[checkpoint]), 1)
    findings.at_least(f"{load}, against {whole}", times_faster(times[load], times[whole]), 20)
    findings.notes += [
        f"one of {tensors:,} variables, {nbytes / tensors / 2**20:.3g} MiB each, on a tmpfs; the sums of what was read are the same",
        "the time is that of opening and reading, imports and the first protobuf message excluded; whole processes include them",
    ]
    return findings


BENCHMARK = Benchmark("load_one", "One variable of 2,000 (2 GiB)", run, rounds=3)
