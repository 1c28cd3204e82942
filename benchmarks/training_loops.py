"""Training loops that compute without a pause, each in a process of its own, now and then with a save that is written beside them."""

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

from benchmarks.handoff_peers import Tree, changed, make_tree
from benchmarks.service import cpu_seconds

QUIET_SECONDS = WINDOW_SECONDS = 2.0

Step = Callable[[Tree], Tree]
Samples = dict[str, list[float]]


def train(loop: str, threads: int, nbytes: int, saves: int, *, socket: str, daemon: int) -> Samples:
    """Steps a second of a loop, by turns without and with a save: "kept", what was left of its speed while the save was written.

    Also by sample: "stall", the seconds that the save took; "written", those from its return until it was published; "lost", those that
    all of it cost: the stall, and the steps that were not made meanwhile; "daemon", the processor time of the process `daemon`.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)  # numpy is not imported yet
    from smdaemon.handoff import attach

    kind = "numpy" if loop == "numpy" else "jax"
    tree, step = make_tree(kind, nbytes), LOOPS[loop]()
    tree = step(step(changed(kind, tree)))
    samples: Samples = {"kept": [], "stall": [], "written": [], "lost": [], "daemon": []}
    with attach(socket) as sidecar:
        sidecar.reserve(tree)
        for number in range(1 + saves):
            quiet, tree = _speed(step, tree)
            used, began = cpu_seconds(daemon), time.perf_counter()
            handle = sidecar.save(number, tree, model="bench")
            saved = time.perf_counter()
            busy = _Steps()
            while (pending := handle.result(0).state == "pending") or busy.seconds < WINDOW_SECONDS:
                tree = step(tree)
                busy.count(pending=pending)
            shutil.rmtree(handle.result().check().export_dir)
            if number:  # the first one imports and compiles
                samples["kept"].append(busy.speed_while_pending / quiet)
                samples["stall"].append(saved - began)
                samples["written"].append(busy.pending_seconds)
                samples["lost"].append(saved - began + busy.seconds - busy.steps / quiet)
                samples["daemon"].append(cpu_seconds(daemon) - used)
    return samples


class _Steps:
    """Steps since it was made, and how many of them while a save was pending."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.steps = self._pending_steps = 0
        self.seconds = self.pending_seconds = 0.0

    def count(self, *, pending: bool) -> None:
        """One step more."""
        self.steps += 1
        self.seconds = time.perf_counter() - self._began
        if pending:
            self._pending_steps, self.pending_seconds = self.steps, self.seconds

    @property
    def speed_while_pending(self) -> float:
        """Steps a second."""
        return self._pending_steps / self.pending_seconds


def _speed(step: Step, tree: Tree) -> tuple[float, Tree]:
    """Steps a second while nothing is saved, and the tree after them."""
    counted = _Steps()
    while counted.seconds < QUIET_SECONDS:
        tree = step(tree)
        counted.count(pending=False)
    return counted.steps / counted.seconds, tree


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
