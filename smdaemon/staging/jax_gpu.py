"""JAX's arrays on GPUs.

Three ways to the host, for each part of a tensor the first that can be gone: a raw copy from the part's address into the pinned buffer;
JAX's own copy into pinned host memory, and on from there; what numpy gets by itself, which is a tenth as fast.
"""

import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from smdaemon.errors import DropError
from smdaemon.staging.base import SUB_BYTE, Spec
from smdaemon.staging.cuda import CudaRuntime
from smdaemon.staging.cuda_copy import CudaStager, address_of, copy_out
from smdaemon.staging.jax_arrays import BATCH_BYTES, JaxStager, Part, fetch, jax_errors, parts_of, start_to_host
from smdaemon.staging.shards import Rows, rows_of
from smdaemon.tensorbundle.dtypes import dtype_named


class JaxGpuStager(CudaStager, JaxStager):
    """Snapshots on the device, copied out beside the next step.

    A snapshot takes as much device memory as the tensors. Where that is too much the trainer chooses mode="direct": the tensors
    themselves are copied out, and it waits in barrier() before a step that donates them.
    """

    name = "jax-gpu"
    guarantee = "save returns once a copy on the device is launched; a step may donate the arrays at once"
    batch_bytes = BATCH_BYTES

    def claims_platform(self, platform: str) -> bool:
        """See `JaxStager`."""
        return platform in ("gpu", "cuda", "rocm")

    def spec(self, tensor: Any) -> Spec:
        """See `JaxStager`."""
        spec = super().spec(tensor)
        self.saw_device(_ordinal(tensor))
        return spec

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:
        """See `Stager`. DropError `handoff-tensor` also where a tensor was donated meanwhile: its bytes cannot be trusted."""
        runtime = self.find()
        raw: list[Part] = []
        others: deque[Part] = deque()
        with jax_errors():
            for tensor, buffer in zip(tensors, into, strict=True):
                for part in parts_of(tensor, buffer):
                    (raw if runtime is not None and _is_raw(part) else others).append(part)
            if runtime is not None:
                _copy_raw(runtime, raw)
            if any(tensor.is_deleted() for tensor in tensors):
                # JAX knows nothing of raw copies, and does not keep the memory for them
                raise DropError(
                    "handoff-tensor",
                    "an array was donated or deleted while it was copied out",
                    remedy="wait in barrier() before the step that donates it",
                )
        # each is let go of on its way: with it lives what JAX fetched of it
        fetch((others.popleft() for _ in range(len(others))), _start_pinned, threads, self.batch_bytes)


def _copy_raw(runtime: CudaRuntime, parts: Sequence[Part]) -> None:
    devices: dict[int, list[Rows]] = {}
    for part in parts:
        part.values.block_until_ready()
        devices.setdefault(_ordinal(part.values), []).extend(_rows(part))
    copy_out(runtime, {ordinal: partial(iter, rows) for ordinal, rows in devices.items()})


def _rows(part: Part) -> list[Rows]:
    """The raw copies of a part, by addresses."""
    target, source = address_of(part.buffer), part.values.unsafe_buffer_pointer()
    itemsize = dtype_named(part.whole.dtype).itemsize
    return [rows.at(target, source) for rows in rows_of(part.whole.shape, part.place, itemsize)]


def _is_raw(part: Part) -> bool:
    """Whether the part lies on the device as it will lie on the host."""
    if not part.values.size or part.whole.dtype in SUB_BYTE:
        return False
    layout = getattr(getattr(part.values, "format", None), "layout", None)
    if layout is None or layout.tiling or tuple(layout.major_to_minor) != tuple(range(part.values.ndim)):
        return False
    return part.values.sharding.memory_kind in (None, "device")


def _start_pinned(arrays: list[Any]) -> list[Any]:
    """Set off the arrays' way into pinned memory of the host; where JAX cannot do that, into what numpy gets."""
    try:
        pinned = [array.sharding.with_memory_kind("pinned_host") for array in arrays]
        started: list[Any] = sys.modules["jax"].device_put(arrays, pinned)
    except (ValueError, RuntimeError, NotImplementedError):
        return start_to_host(arrays)
    return started


def _ordinal(array: Any) -> int:
    """The number that CUDA has for a device of this host on which the array is."""
    return int(next(iter(array.sharding.addressable_devices)).local_hardware_id)
