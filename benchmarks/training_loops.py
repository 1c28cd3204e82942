"""Training loops that compute without a pause, each in a process of its own, now and then with a save that is written beside them."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.handoff_peers import Tree, changed, make_tree
from benchmarks.machine import cpu_ticks, share_of
from benchmarks.service import cpu_seconds

WINDOW_SECONDS = 2.0

Step = Callable[[Tree], Tree]
Samples = dict[str, list[float]]


def train(loop: str, threads: int, nbytes: int, saves: int, *, socket: str, daemon: int) -> Samples:
    """Steps a second of a loop, by turns without and with a save: "kept", what was left of its speed while the save was written.

    Also by sample: "stall", the seconds that the save took; "written", those from its return until it was published; "lost", those that
    all of it cost: the stall, and the steps that were not made meanwhile; "daemon", the processor time of the process `daemon`; "stolen", the
    share of all processors that the hypervisor took for itself.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)  # numpy is not imported yet
    from smdaemon.handoff import attach

    tree, step = _started(loop, nbytes)
    samples = Samples()
    with attach(socket) as sidecar:
        sidecar.reserve(tree)
        for number in range(1 + saves):
            quiet, tree = _window(step, tree)
            used, began = cpu_seconds(daemon), time.perf_counter()
            handle = sidecar.save(number, tree, model="bench")
            stall = time.perf_counter() - began
            busy, tree = _window(step, tree, partial(_is_pending, handle))
            used = cpu_seconds(daemon) - used
            shutil.rmtree(handle.result().check().export_dir)
            if number:  # the first one imports and compiles
                _add(samples, quiet, busy, stall=stall, daemon=used)
    return samples


def train_beside_dd(loop: str, threads: int, nbytes: int, saves: int, *, source: str, target: str) -> Samples:
    """As `train`, beside a `dd` that copies the file `source`, of as many bytes, past the page cache to `target`: what the disk alone costs."""
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    tree, step = _started(loop, nbytes)
    samples = Samples()
    command = ["dd", f"if={source}", f"of={target}", "bs=32M", "oflag=direct", "conv=fdatasync", "status=none"]
    for _ in range(saves):
        quiet, tree = _window(step, tree)
        with subprocess.Popen(command) as copying:
            busy, tree = _window(step, tree, partial(_runs, copying))
        Path(target).unlink()
        _add(samples, quiet, busy)
    return samples


def _started(loop: str, nbytes: int) -> tuple[Tree, Step]:
    """The tree of a loop, and its step, compiled."""
    kind = "numpy" if loop == "numpy" else "jax"
    tree, step = make_tree(kind, nbytes), LOOPS[loop]()
    return step(step(changed(kind, tree))), step


def _runs(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is None


def _is_pending(handle: Any) -> bool:
    return bool(handle.result(0).state == "pending")


def _add(samples: Samples, quiet: "_Steps", busy: "_Steps", stall: float = 0.0, **others: float) -> None:
    speed = quiet.steps / quiet.seconds
    found = {"kept": busy.speed_while_pending / speed, "written": busy.pending_seconds, "stall": stall}
    found |= {"lost": stall + busy.seconds - busy.steps / speed, "stolen": busy.stolen, **others}
    for name, sample in found.items():
        samples.setdefault(name, []).append(sample)


class _Steps:
    """Steps since it was made, and how many of them while a save was pending."""

    def __init__(self) -> None:
        self._began, self._ticks = time.perf_counter(), cpu_ticks()
        self.steps = self._pending_steps = 0
        self.seconds = self.pending_seconds = self.stolen = 0.0

    def count(self, *, pending: bool) -> None:
        """One step more."""
        self.steps += 1
        self.seconds = time.perf_counter() - self._began
        if pending:
            self._pending_steps, self.pending_seconds = self.steps, self.seconds
            self.stolen = share_of(self._ticks, cpu_ticks(), idle=False)

    @property
    def speed_while_pending(self) -> float:
        """Steps a second."""
        return self._pending_steps / self.pending_seconds


def _window(step: Step, tree: Tree, pending: Callable[[], bool] = lambda: False) -> tuple[_Steps, Tree]:
    """Steps while something is pending, and at least for two seconds; the tree after them."""
    counted = _Steps()
    while (is_pending := pending()) or counted.seconds < WINDOW_SECONDS:
        tree = step(tree)
        counted.count(pending=is_pending)
    return counted, tree


def _numpy_loop() -> Step:
    """A step of a few milliseconds of products of matrices; one of the tensors is changed in place."""
    import numpy as np

    x, w = (np.random.default_rng(7).random((384, 384), np.float32) / 384 for _ in range(2))

    def step(tree: Tree) -> Tree:
        y = x
        for _ in range(4):
            y = np.tanh(y @ w)
        tree[next(iter(tree))].ravel()[:1000] += y[0, 0]
        return tree

    return step


def _jax_loop() -> Step:
    """A jitted step of some ten milliseconds of products of matrices, which takes the memory of the tree and gives all of it back."""
    import jax
    import jax.numpy as jnp

    def products(tree: Tree, x: Any) -> Tree:
        first = next(iter(tree))
        y = x
        for _ in range(8):
            y = jnp.tanh(y @ (x / 512))
        return {**tree, first: tree[first] + y[0, 0]}

    compiled = jax.jit(products, donate_argnums=0)
    x = jnp.ones((512, 512), jnp.float32)
    return lambda tree: jax.block_until_ready(compiled(tree, x))


def _jax_update_loop() -> Step:
    """A step that updates every parameter, in donated memory: the bandwidth of the memory bounds it."""
    return lambda tree: changed("jax", tree)


LOOPS: dict[str, Callable[[], Step]] = {"numpy": _numpy_loop, "jax": _jax_loop, "jax, update": _jax_update_loop}
