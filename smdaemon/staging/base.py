"""What every stager is: it takes tensors of one kind out of where they live, and puts their bytes into host memory.

A new kind of tensor is one module with a `Stager`, named in `stagers.py`. No stager imports the library of its tensors: who has
tensors has imported it, so that it is found in `sys.modules`.
"""

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.tensorbundle.dtypes import STRING, dtype_named

SUB_BYTE = frozenset(["int4", "uint4", "int2", "uint2", "float4_e2m1fn"])
"""On a device these may lie packed; in numpy's memory, and in a bundle, each takes a byte."""


class Spec(NamedTuple):
    """A tensor as it will lie in host memory: little-endian, row-major, a byte an element for what is narrower than one.

    `dtype` is numpy's or ml_dtypes' name.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Stager(Protocol):
    """One way out of one kind of memory. Called from the trainer's threads; keeps no tensor longer than its caller does.

    The errors of all methods: DropError `handoff-tensor` and `dtype-unsupported` for a tensor that cannot be handed over, and
    EnvironmentFault `handoff-tensor` where a device failed, `memory-short` where it has no memory left. After any of them nothing
    is written to the buffers any more.
    """

    name: str
    guarantee: str
    """What it promises the trainer, in a sentence."""
    snapshots: bool
    """Whether `snapshot` is so cheap that a save need not copy before it returns."""
    views: bool = False
    """Whether a snapshot takes no memory of what has been computed, so that a save in mode "direct" takes one, too."""

    def claims(self, tensor: Any) -> bool:
        """Whether the tensor is of this kind. Must not import what the trainer has not imported."""
        ...

    def spec(self, tensor: Any) -> Spec:
        """How the tensor will lie in host memory."""
        ...

    def snapshot(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """What `copy` takes in place of the tensors, with the values they have now, whatever the trainer does with its own next.

        Only asked for where `snapshots`. Returns in milliseconds, though the values may not have been computed yet. After
        `memory-short` the tensors themselves can still be copied: before the save returns, or while the trainer waits in a barrier.
        """
        ...

    def warm(self, tensors: Sequence[Any]) -> None:  # noqa: ARG002 - most need nothing
        """Do now what the first `snapshot` of such tensors would take time for, such as compiling; nothing is copied."""
        return

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:
        """Fill each buffer, which has `spec(tensor).nbytes` bytes, with its tensor; blocks until all bytes are there.

        `tensors` are what `snapshot` returned, or the tensors themselves: these the trainer must leave alone meanwhile.
        """
        ...

    def prepare(self, buffer: memoryview) -> None:  # noqa: ARG002 - most need nothing
        """A buffer will be copied into again and again; to be called after `spec` of a tensor, before the first copy.

        Takes seconds for gigabytes the first time, and nothing when it is called again for a buffer that was not released.
        """
        return

    def release(self, buffer: memoryview) -> None:  # noqa: ARG002 - most need nothing
        """A buffer that was prepared will be unmapped; nothing is being copied into it."""
        return


def make_spec(dtype_name: str, shape: Sequence[int]) -> Spec:
    """The Spec of a tensor of that dtype and shape; DropError `dtype-unsupported` where TensorFlow has no variables of the dtype.

    Text is among those: its bytes are no array.
    """
    dtype = dtype_named(dtype_name)
    if not dtype.variable or dtype is STRING:
        raise DropError("dtype-unsupported", f"TensorFlow has no variables of dtype {dtype_name!r}")
    whole = tuple(int(size) for size in shape)
    return Spec(dtype_name, whole, math.prod(whole) * dtype.itemsize)


@lru_cache
def name_of(dtype: Any) -> str:
    """The name of a dtype of numpy or JAX; numpy makes it anew each time, at a cost that thousands of tensors feel."""
    return str(dtype.name)


def loaded(module: str, attribute: str) -> Any:
    """An attribute of a module if the process has imported it, else None; also while another thread still imports it."""
    return getattr(sys.modules.get(module), attribute, None)


def memory_short(nbytes: int, device: str) -> EnvironmentFault:
    """The fault of a device that has no room for a snapshot of so many bytes; 0 where they are not known."""
    size = f" of {nbytes} bytes" if nbytes else ""
    return EnvironmentFault(
        "memory-short",
        f"{device} has no memory left for a snapshot{size}",
        remedy='save with mode="direct" and wait in barrier() before the next update, or leave the device more memory',
    )
