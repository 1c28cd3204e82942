"""JAX models to SavedModels: smdaemon traces, lowers and writes; TensorFlow does it through jax2tf and `tf.saved_model.save`."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import jax_models
from benchmarks.child import fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate, times_faster
from benchmarks.memory import fresh_with_peak
from benchmarks.scratch import emptied

PLATFORMS = ("cpu", "cuda")
SIGNATURE, OUTPUT = "serving_default", "output_0"
TOLERANCE = 1e-5


def by_smdaemon(model: str, target: str) -> list[float]:
    """`smdaemon.savedmodel.jax.save`: seconds for jax, flax and the parameters, for a first export with its imports, for a second one."""
    began_at = time.perf_counter()
    import jax

    function, params, example = jax_models.make(model)
    made = time.perf_counter() - began_at

    def export(name: str) -> float:
        began = time.perf_counter()
        from smdaemon.savedmodel.jax import save, symbolic

        shape = jax.ShapeDtypeStruct(example.shape, example.dtype)
        if jax_models.any_batch(model):
            shape = symbolic(", ".join(["batch", *map(str, example.shape[1:])]), example.dtype)
        save(function, params, Path(target, name), {"x": shape}, platforms=PLATFORMS, sync=False)
        return time.perf_counter() - began

    return [made, export("first"), export("second")]


def by_jax2tf(model: str, target: str) -> list[float]:
    """`jax2tf.convert` without gradients and `tf.saved_model.save`: the same seconds."""
    began_at = time.perf_counter()
    import jax

    function, params, example = jax_models.make(model)
    made = time.perf_counter() - began_at
    open_batch = jax_models.any_batch(model)
    shape = [None, *example.shape[1:]] if open_batch else example.shape

    def export(name: str) -> float:
        began = time.perf_counter()
        import tensorflow as tf  # type: ignore[import-untyped] # it ships no types
        from jax.experimental import jax2tf

        converted = jax2tf.convert(
            function,
            polymorphic_shapes=[None, "batch, ..." if open_batch else None],
            native_serialization_platforms=PLATFORMS,
            with_gradient=False,
        )
        module = tf.Module()
        module.params = jax.tree.map(tf.Variable, params)
        module.call = tf.function(
            lambda x: {OUTPUT: converted(module.params, x)},
            autograph=False,
            input_signature=[tf.TensorSpec(shape, example.dtype, name="x")],
        )
        tf.saved_model.save(module, str(Path(target, name)), signatures={SIGNATURE: module.call})
        return time.perf_counter() - began

    return [made, export("first"), export("second")]


def difference(model: str, ours: str, theirs: str) -> float:
    """The greatest difference of the answers that TensorFlow gets from both, of the greatest answer.

    ValueError where their signatures differ in a name, a shape or a dtype.
    """
    import numpy as np
    import tensorflow as tf

    def loaded(path: str) -> tuple[Any, Any]:
        signatures = tf.saved_model.load(path).signatures
        described = {
            key: (signature.structured_input_signature, signature.structured_outputs)
            for key, signature in signatures.items()
        }
        return str(described), signatures[SIGNATURE](x=tf.constant(jax_models.example_input(model)))[OUTPUT].numpy()

    (one, our), (other, their) = loaded(ours), loaded(theirs)
    if one != other:
        raise ValueError(f"the signatures differ: {one} and {other}")
    return float(np.max(np.abs(our - their)) / np.max(np.abs(their)))


PEERS: dict[str, Any] = {"smdaemon": by_smdaemon, "jax2tf": by_jax2tf}


class _Measured:
    """Exports in fresh processes, and what was seen of them by "model: peer"."""

    def __init__(self, folder: Path, models: Sequence[str]) -> None:
        self._folder, self.models = folder, models
        self.seconds: dict[str, list[float]] = {}
        self.again: dict[str, list[float]] = {}
        self.processes: dict[str, list[float]] = {}
        self.common: list[float] = []
        self.peaks: dict[str, list[float]] = {}
        self.bytes: dict[str, int] = {}

    def export(self, model: str, peer: str) -> float:
        """One sample: seconds that the first export took, imports included."""
        name, target = f"{model}: {peer}", emptied(self._target(model, peer))
        began = time.perf_counter()
        (made, first, second), peak = fresh_with_peak(PEERS[peer], model=model, target=target)
        self.common.append(made)
        self.seconds.setdefault(name, []).append(first)
        self.again.setdefault(name, []).append(second)
        self.processes.setdefault(name, []).append(time.perf_counter() - began - second)
        self.peaks.setdefault(name, []).append(peak / 2**20)
        self.bytes[name] = (target / "first" / "saved_model.pb").stat().st_size
        return float(first)

    def greatest_difference(self) -> float:
        """That of the answers of both exports of each model; RuntimeError where it is more than rounding."""
        found = {}
        for model in self.models:
            ours, theirs = (self._target(model, peer) / "first" for peer in PEERS)
            found[model] = fresh(difference, model=model, ours=ours, theirs=theirs)
        if max(found.values()) > TOLERANCE:
            raise RuntimeError(f"the two exports answer differently: {found}")
        return float(max(found.values()))

    def _target(self, model: str, peer: str) -> Path:
        return self._folder / f"{self.models.index(model)}-{peer}"


def run(settings: Settings) -> Findings:
    """All on a tmpfs. Models and peers take turns."""
    models = jax_models.MODELS[:2] if settings.quick else jax_models.MODELS
    measured = _Measured(emptied(settings.memory / "models"), models)
    alternate(
        {f"{model}: {peer}": partial(measured.export, model, peer) for model in models for peer in PEERS}, settings
    )
    findings = Findings()
    for kind, samples, unit in (
        ("imports and export", measured.seconds, "s"),
        ("second export", measured.again, "s"),
        ("whole process", measured.processes, "s"),
        ("peak memory", measured.peaks, "MiB"),
        ("saved_model.pb", {name: [size / 1024] for name, size in measured.bytes.items()}, "KiB"),
    ):
        findings.rows += [Row(f"{kind}: {name}", values, unit) for name, values in samples.items()]
    findings.rows.append(Row("for comparison: imports of jax and flax, parameters", measured.common))
    for kind, samples, least in (
        ("imports and export", measured.seconds, 5),
        ("whole process", measured.processes, 5),
        ("peak memory", measured.peaks, 1),
    ):
        for model in models:
            ours, theirs = (samples[f"{model}: {peer}"] for peer in PEERS)
            findings.at_least(f"{kind}: {model}", times_faster(ours, theirs), least)
    for model in models:
        our_bytes, their_bytes = (measured.bytes[f"{model}: {peer}"] for peer in PEERS)
        findings.at_most(f"size of saved_model.pb: {model}", our_bytes / their_bytes, 1.1, "x")
    apart = measured.greatest_difference()
    findings.notes += [
        "models of flax, exported with their float32 parameters to a tmpfs, for cpu and cuda, without gradients",
        "imports and export: in a process that has imported jax and flax and has the parameters, as a trainer has",
        "second export: the same model once more in that process, everything imported",
        "whole process: from the start of Python to its end, jax, flax and parameters included, the second export not",
        "memory is that of the process at its highest, imports included: RssAnon + RssShmem, sampled every 2 ms",
        "TensorFlow loaded both exports of each model: the signatures are equal in names, shapes and dtypes",
        f"the answers of both differ by {apart:.0e} of the greatest at most"
        if apart
        else "the answers of both are equal",
    ]
    return findings


BENCHMARK = Benchmark("jax_export", "JAX models to SavedModels", run, rounds=3)
