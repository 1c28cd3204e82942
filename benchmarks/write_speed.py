"""Bytes a second from a training output to a SavedModel, against a plain write() and against the other writers.

Every measurement is a fresh process that makes its input ready, then times the writing alone. The sources lie on a tmpfs, so
that their values are in memory and nothing is read from a disk; `arrays` are held by the measuring process itself.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.child import fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate, times_faster
from benchmarks.inputs import in_memory, warm_up, write_npz, write_safetensors
from benchmarks.scratch import emptied

TENSORS = 64


def plain_write(target: str, tensors: int, nbytes: int, *, sync: bool) -> float:
    """One write() a tensor into one file; with `sync` an fsync at the end."""
    arrays = in_memory(tensors, nbytes)
    began = _ready(sync)
    handle = os.open(Path(target, "data"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    for array in arrays.values():
        view: memoryview = array.reshape(-1).view("u1").data
        while view:
            view = view[os.write(handle, view) :]
    if sync:
        os.fsync(handle)
    os.close(handle)
    return time.perf_counter() - began


def plain_copy(target: str, source: str) -> float:
    """The bytes of a mapped file written by write(), 4 MiB at a time: what reading costs without any work on the bytes."""
    import mmap

    began = _ready(sync=False)
    with Path(source).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = memoryview(mapped)
        handle = os.open(Path(target, "data"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        for start in range(0, len(view), 4 << 20):
            os.write(handle, view[start : start + (4 << 20)])
        os.close(handle)
        view.release()
    return time.perf_counter() - began


def smdaemon_export(target: str, source: str, shards: int, *, sync: bool, verify: bool = False) -> float:
    """The export of a file, as the command and the daemon do it."""
    from smdaemon.export.pipeline import export
    from smdaemon.export.plan import ExportPlan

    plan = ExportPlan(Path(source), shards=shards, sync=sync, verify=verify)
    warm_up(target)
    began = _ready(sync)
    export(plan, Path(target, "model"))
    return time.perf_counter() - began


def smdaemon_arrays(target: str, tensors: int, nbytes: int, shards: int, *, sync: bool) -> float:
    """The SavedModel library, called with numpy arrays."""
    from smdaemon.savedmodel.weights import write_weights
    from smdaemon.tensorbundle.tensors import ArrayTensor

    warm_up(target)
    arrays = in_memory(tensors, nbytes)
    began = _ready(sync)
    wrapped = {name: ArrayTensor(array) for name, array in arrays.items()}
    write_weights(Path(target, "model"), wrapped, shards=shards, sync=sync)
    return time.perf_counter() - began


def safetensors_save(target: str, tensors: int, nbytes: int, *, sync: bool) -> float:
    """`safetensors.numpy.save_file`, another format, as the nearest kin in speed."""
    from safetensors.numpy import save_file

    arrays = in_memory(tensors, nbytes)
    path = Path(target, "model.safetensors")
    began = _ready(sync)
    save_file(arrays, path)
    if sync:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def tensorflow_save(target: str, tensors: int, nbytes: int) -> dict[str, float]:
    """`tf.saved_model.save` of a module; making the variables counts, importing TensorFlow does not."""
    import tensorflow as tf  # type: ignore[import-untyped] # it ships no types

    arrays = in_memory(tensors, nbytes)
    tf.saved_model.save(tf.Module(), str(Path(target, "warm")))  # the first save imports half of TensorFlow
    began = _ready(sync=False)
    module = tf.Module()
    module.all = [tf.Variable(array) for array in arrays.values()]
    made = time.perf_counter()
    tf.saved_model.save(module, str(Path(target, "model")))
    return {"total": time.perf_counter() - began, "save": time.perf_counter() - made}


def _ready(sync: bool) -> float:
    """The start of a measurement; where the disk is measured, what others left to write is written first."""
    if sync:
        os.sync()
    return time.perf_counter()


def run(settings: Settings) -> Findings:
    """All writers on a tmpfs, then those that can sync on a disk."""
    nbytes = settings.size(2 << 30, 64 << 20)
    size: dict[str, Any] = {"tensors": TENSORS, "nbytes": nbytes}
    safetensors, npz = settings.memory / "source.safetensors", settings.memory / "source.npz"
    write_safetensors(safetensors, **size)
    write_npz(npz, **size)
    findings = Findings()
    _on_tmpfs(settings, findings, size, safetensors, npz)
    _on_disk(settings, findings, size, safetensors)
    findings.notes += [
        f"{nbytes / 2**20:.0f} MiB of float32 in {TENSORS} tensors; a worker is a thread that writes one data shard",
        "npz and safetensors are files on a tmpfs, read into a small buffer while they are exported; arrays are in the process already",
        "TensorFlow's time is that of making the variables and saving them",
        "whoever imports much, TensorFlow and smdaemon, makes a first tiny save before the clock starts",
        "unless the row says otherwise the export is not read back; the command and the daemon do read it back by default",
    ]
    return findings


def _measured(function: Callable[..., Any], *, folder: Path, **arguments: Any) -> Any:
    """`function` in a fresh process, writing to `folder`, which is emptied before and after."""
    emptied(folder)
    try:
        return fresh(function, target=folder, **arguments)
    finally:
        emptied(folder)


def _on_tmpfs(settings: Settings, findings: Findings, size: dict[str, Any], safetensors: Path, npz: Path) -> None:
    measured = partial(_measured, folder=settings.memory / "out")
    saves: list[float] = []

    def tensorflow() -> float:
        times = measured(tensorflow_save, **size)
        saves.append(times["save"])
        total: float = times["total"]
        return total

    def export(source: Path, shards: int, *, verify: bool = False) -> Callable[[], float]:
        return partial(measured, smdaemon_export, source=source, shards=shards, sync=False, verify=verify)

    def arrays(shards: int) -> Callable[[], float]:
        return partial(measured, smdaemon_arrays, shards=shards, sync=False, **size)

    peers: dict[str, Callable[[], float]] = {
        "plain write() of arrays": partial(measured, plain_write, sync=False, **size),
        "safetensors, 1 worker": export(safetensors, 1),
        "npz, 1 worker": export(npz, 1),
        "arrays, 1 worker": arrays(1),
        "safetensors, 2 workers": export(safetensors, 2),
        "npz, 2 workers": export(npz, 2),
        "arrays, 2 workers": arrays(2),
        "safetensors, 2 workers, read back": export(safetensors, 2, verify=True),
        "plain write() of a mapped file": partial(measured, plain_copy, source=safetensors),
        "safetensors.numpy.save_file of arrays": partial(measured, safetensors_save, sync=False, **size),
        "tf.saved_model.save of arrays": tensorflow,
    }
    times = alternate(peers, settings)
    findings.rows += [Row(f"tmpfs: {name}", samples, "s", size["nbytes"]) for name, samples in times.items()]
    findings.rows.append(Row("tmpfs: tf.saved_model.save, variables made before", saves, "s", size["nbytes"]))
    plain, kin = times["plain write() of arrays"], times["safetensors.numpy.save_file of arrays"]
    for source in ("safetensors", "npz", "arrays"):
        one, two = times[f"{source}, 1 worker"], times[f"{source}, 2 workers"]
        findings.at_least(f"tmpfs, {source}: 1 worker against plain write()", times_faster(one, plain), 0.95)
        findings.at_least(f"tmpfs, {source}: 2 workers against plain write()", times_faster(two, plain), 1.7)
    for source in ("safetensors", "npz", "arrays"):
        one, two = times[f"{source}, 1 worker"], times[f"{source}, 2 workers"]
        tf = times["tf.saved_model.save of arrays"]
        findings.at_least(f"tmpfs, {source}: 1 worker against tf.saved_model.save", times_faster(one, tf), 4)
        findings.at_least(f"tmpfs, {source}: 2 workers against tf.saved_model.save", times_faster(two, tf), 4)
        findings.at_least(f"tmpfs, {source}: 1 worker against safetensors save_file", times_faster(one, kin), 1)
        findings.at_least(f"tmpfs, {source}: 2 workers against safetensors save_file", times_faster(two, kin), 1)


def _on_disk(settings: Settings, findings: Findings, size: dict[str, Any], safetensors: Path) -> None:
    measured = partial(_measured, folder=settings.disk / "out")
    peers: dict[str, Callable[[], float]] = {
        "plain write() of arrays": partial(measured, plain_write, sync=True, **size),
        "safetensors, 1 worker": partial(measured, smdaemon_export, source=safetensors, shards=1, sync=True),
        "safetensors, 2 workers": partial(measured, smdaemon_export, source=safetensors, shards=2, sync=True),
        "arrays, 1 worker": partial(measured, smdaemon_arrays, shards=1, sync=True, **size),
        "safetensors.numpy.save_file of arrays": partial(measured, safetensors_save, sync=True, **size),
    }
    times = alternate(peers, settings)
    findings.rows += [Row(f"disk, fsync: {name}", samples, "s", size["nbytes"]) for name, samples in times.items()]
    plain = times["plain write() of arrays"]
    for name in ("safetensors, 1 worker", "safetensors, 2 workers", "arrays, 1 worker"):
        claim = f"disk with fsync, {name} against plain write() and fsync"
        findings.at_least(claim, times_faster(times[name], plain), 1)


BENCHMARK = Benchmark("write_speed", "2 GiB to a SavedModel", run, rounds=3)
