"""What a tensor costs that has hardly any bytes, and whether time grows in proportion to tensors and to bytes."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.child import fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate
from benchmarks.inputs import in_memory, warm_up, write_safetensors
from benchmarks.scratch import emptied

FLOATS = 16
STEPS = (1, 2, 4, 8)
LINEAR = 1.25
"""A step of eight may cost this much more than eight times the first before it is called not linear."""


def saved_model(target: str, tensors: int, nbytes: int) -> float:
    """The SavedModel library with arrays of this process."""
    from smdaemon.savedmodel.weights import write_weights
    from smdaemon.tensorbundle.tensors import ArrayTensor

    warm_up(target)
    wrapped = {name: ArrayTensor(array) for name, array in in_memory(tensors, nbytes).items()}
    began = time.perf_counter()
    write_weights(Path(target, "model"), wrapped, sync=False)
    return time.perf_counter() - began


def exported(target: str, source: str, *, verify: bool) -> float:
    """The export of a file, as the command and the daemon do it."""
    from smdaemon.export.pipeline import export
    from smdaemon.export.plan import ExportPlan

    warm_up(target)
    began = time.perf_counter()
    export(ExportPlan(Path(source), shards=1, sync=False, verify=verify), Path(target, "model"))
    return time.perf_counter() - began


def bundle(target: str, tensors: int, nbytes: int) -> float:
    """The checkpoint alone, no SavedModel around it."""
    from smdaemon.tensorbundle.tensors import ArrayTensor
    from smdaemon.tensorbundle.writer import write_bundle

    warm_up(target)
    wrapped = {name: ArrayTensor(array) for name, array in in_memory(tensors, nbytes).items()}
    began = time.perf_counter()
    write_bundle(Path(target, "variables"), wrapped, sync=False)
    return time.perf_counter() - began


def tensorflow_save(target: str, tensors: int, nbytes: int) -> float:
    """`tf.saved_model.save` of so many variables, which are made before."""
    import tensorflow as tf  # type: ignore[import-untyped] # it ships no types

    module = tf.Module()
    module.all = [tf.Variable(array) for array in in_memory(tensors, nbytes).values()]
    began = time.perf_counter()
    tf.saved_model.save(module, str(Path(target, "model")))
    return time.perf_counter() - began


def run(settings: Settings) -> Findings:
    """Many small variables, many small tensors, and the growth of both."""
    findings = Findings()
    folder = settings.memory / "out"

    def measured(function: Callable[..., float], **arguments: Any) -> float:
        emptied(folder)
        seconds: float = fresh(function, target=folder, **arguments)
        return seconds

    variables = settings.size(20_000, 500)
    source = settings.memory / "source.safetensors"
    write_safetensors(source, variables, variables * FLOATS * 4)
    few = {"tensors": variables, "nbytes": variables * FLOATS * 4}
    largest = settings.size(100_000, 800)
    by_tensors = {step: largest * step // STEPS[-1] for step in STEPS}
    by_bytes = {step: settings.size(2 << 30, 8 << 20) * step // STEPS[-1] for step in STEPS}
    peers = {
        "SavedModel of arrays": partial(measured, saved_model, **few),
        "SavedModel of a safetensors file": partial(measured, exported, source=source, verify=False),
        "SavedModel of a safetensors file, read back": partial(measured, exported, source=source, verify=True),
    }
    peers |= {
        _tensors(count): partial(measured, bundle, tensors=count, nbytes=count * FLOATS * 4)
        for count in by_tensors.values()
    }
    peers |= {_bytes(nbytes): partial(measured, saved_model, tensors=64, nbytes=nbytes) for nbytes in by_bytes.values()}
    sizes = {_bytes(nbytes): nbytes for nbytes in by_bytes.values()}
    rows = {name: Row(name, samples, nbytes=sizes.get(name, 0)) for name, samples in alternate(peers, settings).items()}
    findings.rows += rows.values()
    first = f"SavedModel of {variables:,} variables"
    findings.at_most(f"{first}, arrays", rows["SavedModel of arrays"].median, 0.5, "s")
    findings.at_most(f"{first}, safetensors", rows["SavedModel of a safetensors file"].median, 0.5, "s")
    findings.at_most(_tensors(largest), rows[_tensors(largest)].median, 0.6, "s")
    growth = rows[_tensors(largest)].median / rows[_tensors(by_tensors[1])].median / STEPS[-1]
    findings.at_most("time a tensor, 8x the tensors against 1x", growth, LINEAR, "x")
    growth = rows[_bytes(by_bytes[8])].median / rows[_bytes(by_bytes[1])].median / STEPS[-1]
    findings.at_most("time a byte, 8x the bytes against 1x", growth, LINEAR, "x")
    findings.notes.append("every sample is of a fresh process that made one tiny export before")
    findings.notes.append(
        f"tensors have {FLOATS} float32; everything lies on a tmpfs; bytes are spread over 64 tensors"
    )
    findings.notes.append(f"linear means here: 8x costs at most {LINEAR} times 8 times as much")
    if settings.quick:
        findings.notes.append("a quick run leaves tf.saved_model.save out")
    else:
        settings.say("  tf.saved_model.save, once; this takes more than a minute")
        findings.rows.append(Row("tf.saved_model.save of as many variables, once", [measured(tensorflow_save, **few)]))
    emptied(folder)
    return findings


def _tensors(count: int) -> str:
    return f"bundle of {count:,} tensors"


def _bytes(nbytes: int) -> str:
    return f"SavedModel of {nbytes / 2**20:,.0f} MiB"


BENCHMARK = Benchmark("many_tensors", "Many small tensors, and growth", run, rounds=3)
