"""Staging as the trainer's side of a handoff does it, into memory of a test's own."""

import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smdaemon.staging.base import Stager
from smdaemon.staging.host import as_array

ALIGNMENT = 64


def nothing() -> None:
    """What a trainer does that waits."""


def stage(
    stager: Stager,
    tensors: Sequence[Any],
    *,
    mode: str = "auto",
    threads: int = 2,
    after_save: Callable[[], None] = nothing,
) -> list[np.ndarray]:
    """The tensors as they lie in the buffers in the end; `after_save` is what the trainer does once its save has returned."""
    specs = [stager.spec(tensor) for tensor in tensors]
    segment, into = segment_for([spec.nbytes for spec in specs])
    stager.prepare(segment)
    if mode == "auto" and stager.snapshots:
        held = stager.snapshot(tensors)
        after_save()
        stager.copy(held, into, threads)
    else:
        stager.copy(tensors, into, threads)
        after_save()
    stager.release(segment)
    return [as_array(buffer, spec.dtype, spec.shape).copy() for buffer, spec in zip(into, specs, strict=True)]


def segment_for(sizes: Sequence[int]) -> tuple[memoryview, list[memoryview]]:
    """A mapped segment, and a buffer of each size in it; its bytes are 0xEE before anything is copied."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += size + -size % ALIGNMENT
    whole = memoryview(mmap.mmap(-1, max(end, ALIGNMENT)))
    whole[:] = b"\xee" * len(whole)
    return whole, [whole[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def same(got: np.ndarray, wanted: Any) -> None:
    """Fail unless dtype, shape and bytes are the same."""
    wanted = np.asarray(wanted)
    assert got.dtype.name == wanted.dtype.name
    assert got.shape == wanted.shape
    assert got.tobytes() == np.ascontiguousarray(wanted).astype(wanted.dtype.newbyteorder("<")).tobytes()
