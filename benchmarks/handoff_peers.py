"""Trainers, each in a process of its own, that save a tree of tensors again and again: through smdaemon and through its peers.

Each function returns samples by name: "stall", how long a save keeps the trainer; "staged", until the tensors are copied; "done", until
they are published, or written and synced. The first save of the process is told apart: "first stall", "first done".
"""

import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inputs import generated

TENSORS = 64
COPY_BYTES = 1 << 30
PATIENCE_SECONDS = 600

Tree = dict[str, Any]
Samples = dict[str, list[float]]


def by_smdaemon(kind: str, nbytes: int, saves: int, socket: str, *, reserve: bool) -> Samples:
    """`Sidecar.save`; between two saves a bare copy of the same tensors, "memcpy", and for JAX a save of what is still computed."""
    from smdaemon.handoff import attach

    tree, samples = make_tree(kind, nbytes), Samples()
    copy = bare_copy(tree)
    with attach(socket) as sidecar:
        if reserve:
            began = time.perf_counter()
            sidecar.reserve(tree)
            samples["reserve"] = [time.perf_counter() - began]

        def save(step: int, tree: Tree, prefix: str) -> None:
            began = time.perf_counter()
            handle = sidecar.save(step, tree, model="bench")
            _add(samples, f"{prefix}stall", time.perf_counter() - began)
            handle.staged(PATIENCE_SECONDS)
            _add(samples, f"{prefix}staged", time.perf_counter() - began)
            outcome = handle.result(PATIENCE_SECONDS).check()
            _add(samples, f"{prefix}done", time.perf_counter() - began)
            shutil.rmtree(outcome.export_dir)

        for step in range(1 + saves):
            tree = changed(kind, tree)
            save(step, tree, "" if step else "first ")
            tree = changed(kind, tree)
            _add(samples, "memcpy", copy(tree))
        if kind == "jax" and reserve:
            for step in range(1 + saves, 4 + saves):
                tree = changed(kind, tree, wait=False)
                save(step, tree, "in flight: " if step > 1 + saves else "in flight: first ")
    return samples


def by_orbax(kind: str, nbytes: int, saves: int, folder: str) -> Samples:
    """The `StandardCheckpointer` of orbax, which is its `AsyncCheckpointer` with the handler for pytrees."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        trainer = _Trainer(kind, nbytes, saves, folder)
        return trainer.measured(
            lambda tree, path: checkpointer.save(path, tree), lambda _: checkpointer.wait_until_finished()
        )


def by_torch(kind: str, nbytes: int, saves: int, folder: str) -> Samples:
    """`torch.distributed.checkpoint.async_save`, its staging memory kept between saves, with as many writing threads as processors."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    # all of its options but the second, shared memory, need a GPU
    stager = DefaultStager(StagingOptions(False, True, False, False))
    state: Tree = {}

    def save(tree: Tree, path: Path) -> Any:
        if not state:  # the same tensors each time: by these it knows its staging memory again
            state.update((name, torch.from_numpy(array)) for name, array in tree.items())
        writer = FileSystemWriter(path, thread_count=os.cpu_count() or 1)
        return dcp.async_save(state, storage_writer=writer, async_stager=stager)

    def finish(response: Any) -> None:
        getattr(response, "upload_completion", response).result()

    try:
        return _Trainer(kind, nbytes, saves, folder).measured(save, finish)
    finally:
        stager.close()
        dist.destroy_process_group()


def by_savez(kind: str, nbytes: int, saves: int, folder: str) -> Samples:
    """`np.savez` into one file, and fsync."""
    import numpy as np

    def save(tree: Tree, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **tree)
            _sync(file)

    return _Trainer(kind, nbytes, saves, folder).measured(save, _nothing)


def by_save(kind: str, nbytes: int, saves: int, folder: str) -> Samples:
    """`np.save` into a file a tensor, and fsync of each."""
    import numpy as np

    def save(tree: Tree, path: Path) -> None:
        path.mkdir()
        for number, array in enumerate(tree.values()):
            with (path / f"{number}.npy").open("wb") as file:
                np.save(file, array)
                _sync(file)

    return _Trainer(kind, nbytes, saves, folder).measured(save, _nothing)


@dataclass(frozen=True)
class _Trainer:
    """It changes its tree and saves it, 1 + `saves` times, into `folder`; what a save wrote is removed before the next."""

    kind: str
    nbytes: int
    saves: int
    folder: str

    def measured(self, save: Callable[[Tree, Path], Any], finish: Callable[[Any], object]) -> Samples:
        """The samples of `save(tree, path)`, which keeps the trainer, and `finish(what it returned)`, which ends when all is written."""
        tree, samples = make_tree(self.kind, self.nbytes), Samples()
        for step in range(1 + self.saves):
            tree = changed(self.kind, tree)
            path, prefix = Path(self.folder, str(step)), "" if step else "first "
            began = time.perf_counter()
            saved = save(tree, path)
            _add(samples, f"{prefix}stall", time.perf_counter() - began)
            finish(saved)
            _add(samples, f"{prefix}done", time.perf_counter() - began)
            del saved
            _remove(path)
        return samples


def make_tree(kind: str, nbytes: int) -> Tree:
    """A tree of `TENSORS` float32 arrays of numpy or of JAX, every page of them touched."""
    if kind == "numpy":
        return dict(generated(TENSORS, nbytes))
    import jax

    one_more = jax.jit(lambda array: array + 1)  # what it returns is JAX's own memory
    return {name: jax.block_until_ready(one_more(array)) for name, array in generated(TENSORS, nbytes)}


def changed(kind: str, tree: Tree, *, wait: bool = True) -> Tree:
    """The tree after a step that changes everything: numpy's arrays in place, JAX's donated."""
    if kind == "numpy":
        import numpy as np

        for array in tree.values():
            np.add(array, 1, out=array)
        return tree
    import jax

    if not _STEP:
        _STEP.append(jax.jit(lambda tree: {name: array + 1 for name, array in tree.items()}, donate_argnums=0))
    stepped: Tree = _STEP[0](tree)
    return jax.block_until_ready(stepped) if wait else stepped


_STEP: list[Callable[[Tree], Tree]] = []


def bare_copy(tree: Tree) -> Callable[[Tree], float]:
    """Copies a tree like this one by memcpy, with as many threads as a save has, into touched memory; returns the seconds.

    The memory is taken again and again, so that 4 GiB need only 1 GiB of it: both are far more than any cache.
    """
    import numpy as np

    sizes = [array.nbytes for array in tree.values()]
    threads = min(4, os.cpu_count() or 1)
    room = [np.ones(min(sum(sizes), COPY_BYTES) // threads, np.uint8) for _ in range(threads)]

    def copy_some(arrays: list[Any], target: Any) -> None:
        at = 0
        for array in arrays:
            if at + array.nbytes > len(target):
                at = 0
            ctypes.memmove(target.ctypes.data + at, array.ctypes.data, array.nbytes)
            at += array.nbytes

    def copy(tree: Tree) -> float:
        arrays = [np.asarray(array) for array in tree.values()]
        workers = [
            threading.Thread(target=copy_some, args=(arrays[number::threads], room[number]))
            for number in range(threads)
        ]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - began

    return copy


def _add(samples: Samples, name: str, seconds: float) -> None:
    samples.setdefault(name, []).append(seconds)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _nothing(_saved: object) -> None:
    """It was done when the save returned."""
