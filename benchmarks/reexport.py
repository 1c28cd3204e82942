"""A checkpoint and the SavedModel that was traced once become a new SavedModel; TensorFlow loads, restores and saves."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.child import fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate, times_faster
from benchmarks.inputs import warm_up
from benchmarks.memory import fresh_with_peak
from benchmarks.scratch import emptied

TENSORS = 64


def smdaemon_reexport(target: str, template: str, checkpoint: str, shards: int, *, verify: bool) -> float:
    """The export of a checkpoint with a template, as the command and the daemon do it."""
    from smdaemon.export.pipeline import export
    from smdaemon.export.plan import ExportPlan
    from smdaemon.proto.tensorflow import SavedModel
    from smdaemon.savedmodel import reexport as _  # noqa: F401 - imported before the clock starts

    SavedModel()  # the first message of a process makes the descriptors
    warm_up(target)
    plan = ExportPlan(Path(checkpoint), template=Path(template), shards=shards, sync=False, verify=verify)
    began = time.perf_counter()
    export(plan, Path(target, "model"))
    return time.perf_counter() - began


def tensorflow_reexport(target: str, template: str, checkpoint: str) -> float:
    """`tf.saved_model.load`, `tf.train.Checkpoint.restore`, `tf.saved_model.save`; importing TensorFlow does not count."""
    import tensorflow as tf  # type: ignore[import-untyped] # it ships no types

    tf.saved_model.save(tf.Module(), str(Path(target, "warm")))  # the first save imports half of TensorFlow
    began = time.perf_counter()
    loaded = tf.saved_model.load(template)
    tf.train.Checkpoint(loaded).read(checkpoint).assert_existing_objects_matched()
    tf.saved_model.save(loaded, str(Path(target, "model")), signatures=loaded.signatures)
    return time.perf_counter() - began


def is_same(ours: str, theirs: str) -> bool:
    """Whether TensorFlow, having loaded both, finds the same values in them and gets the same answers from them."""
    import tensorflow as tf

    one, other = tf.saved_model.load(ours), tf.saved_model.load(theirs)
    x = tf.linspace(0.0, 1.0, 5)
    return all(bool(tf.reduce_all(a == b)) for a, b in zip(one.all, other.all, strict=True)) and all(
        bool(tf.reduce_all(one.signatures[key](x=x)["y"] == other.signatures[key](x=x)["y"])) for key in one.signatures
    )


def run(settings: Settings) -> Findings:
    """All on a tmpfs: template, checkpoint and export are in memory, and nobody waits for a disk."""
    nbytes = settings.size(2 << 30, 64 << 20)
    paths = {"template": settings.memory / "template", "checkpoint": settings.memory / "ckpt-1"}
    release = fresh(models.train, **paths, tensors=TENSORS, nbytes=nbytes)
    out = settings.memory / "out"
    peaks: dict[str, list[float]] = {}
    kept: dict[str, Path] = {}

    def measured(name: str, function: Any, **arguments: Any) -> float:
        seconds: float
        seconds, peak = fresh_with_peak(function, target=emptied(out), **paths, **arguments)
        peaks.setdefault(name, []).append(peak / 2**20)
        if settings.quick:
            kept[name] = (out / "model").rename(emptied(settings.memory / f"kept-{len(kept)}") / "model")
        emptied(out)
        return seconds

    ours, read_back, theirs = "smdaemon, 1 worker", "smdaemon, 2 workers, read back", "TensorFlow: load, restore, save"
    times = alternate(
        {
            ours: partial(measured, ours, smdaemon_reexport, shards=1, verify=False),
            read_back: partial(measured, read_back, smdaemon_reexport, shards=2, verify=True),
            theirs: partial(measured, theirs, tensorflow_reexport),
        },
        settings,
    )
    if kept and not fresh(is_same, ours=kept[ours], theirs=kept[theirs]):
        raise RuntimeError("the two exports are not of the same model")
    findings = Findings([Row(name, samples, "s", nbytes) for name, samples in times.items()])
    findings.rows += [Row(f"{name}: peak memory", samples, "MiB") for name, samples in peaks.items()]
    for name in (ours, read_back):
        findings.at_least(f"{name}, against TensorFlow", times_faster(times[name], times[theirs]), 4)
        findings.at_least(f"{name}: memory, against TensorFlow", times_faster(peaks[name], peaks[theirs]), 4)
    findings.notes += [
        f"{nbytes / 2**20:.0f} MiB of float32 in {TENSORS} variables, two signatures, made by TensorFlow {release}; all on a tmpfs",
        "the time is that of the re-export alone; everybody has imported what it needs and made a tiny save before",
        "memory is that of the process at its highest, imports included: RssAnon + RssShmem, sampled every 2 ms",
        "a quick run also lets TensorFlow load both exports and compare values and answers",
    ]
    return findings


BENCHMARK = Benchmark("reexport", "2 GiB re-exported from a checkpoint and a template", run, rounds=3)
