"""Staging from a real GPU: run these where there is one, `pytest -m gpu tests/staging`; nothing else of the suite needs it.

What takes how long is compared within the same run: a copy out of the device against the same copy into pinned memory.
"""

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from staging_kit import same, segment_for

from smdaemon.staging.base import Stager
from smdaemon.staging.cuda import find_runtime
from smdaemon.staging.cuda_copy import address_of, contiguous_rows
from smdaemon.staging.stagers import stager_of

pytestmark = pytest.mark.gpu

COUNT, SIDE = 8, 4096
"""So many matrices of float32, 512 MiB together."""

STALL_SECONDS = 0.1
"""No training step may be kept longer; a copy of these bytes through pageable memory takes twice as long."""


class Gpu(NamedTuple):
    """A library with arrays on a GPU."""

    name: str
    make: Callable[[np.ndarray], Any]
    """An array on the GPU of these values."""
    overwrite: Callable[[Any], Any]
    """A step that takes the array's memory for another value; not waited for."""
    wait: Callable[[Any], Any]
    """Until arrays, or what a step gave, are computed."""
    pointer: Callable[[Any], int]


def jax_gpu() -> Gpu:
    """JAX, with a step that donates."""
    jax = pytest.importorskip("jax")
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("JAX finds no GPU")
    step = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    return Gpu(
        "jax-gpu",
        lambda values: jax.device_put(values, device),
        step,
        jax.block_until_ready,
        lambda array: array.unsafe_buffer_pointer(),
    )


def cupy_gpu() -> Gpu:
    """cupy, with a step in place."""
    cupy: ModuleType = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("cupy finds no GPU")
    return Gpu(
        "cupy",
        cupy.asarray,
        lambda array: array.fill(-7),
        lambda _: cupy.cuda.Device().synchronize(),
        lambda array: array.data.ptr,
    )


def torch_gpu() -> Gpu:
    """torch, with a step in place."""
    torch: ModuleType = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return Gpu(
        "torch-cuda",
        lambda values: torch.from_numpy(values).cuda().requires_grad_(values.dtype == np.float32),
        lambda tensor: tensor.detach().fill_(-7),
        lambda _: torch.cuda.synchronize(),
        lambda tensor: tensor.data_ptr(),
    )


@pytest.fixture(params=[jax_gpu, cupy_gpu, torch_gpu], ids=["jax", "cupy", "torch"])
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """Each library that has a GPU here."""
    made: Gpu = request.param()
    return made


@pytest.fixture(scope="module")
def values() -> list[np.ndarray]:
    """Matrices that differ in every element."""
    return [np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) + i for i in range(COUNT)]


class Staged(NamedTuple):
    """What one save did."""

    arrays: list[np.ndarray]
    stall_seconds: float
    copy_seconds: float


def save(stager: Stager, tensors: list[Any], into: list[memoryview], gpu: Gpu) -> Staged:
    """Snapshot; a step that overwrites all; the copy beside it."""
    began = time.perf_counter()
    held = stager.snapshot(tensors)
    stall = time.perf_counter() - began
    results = [gpu.overwrite(tensor) for tensor in tensors]
    began = time.perf_counter()
    stager.copy(held, into, 2)
    took = time.perf_counter() - began
    gpu.wait(results)
    return Staged([np.frombuffer(buffer, np.float32).reshape(SIDE, SIDE) for buffer in into], stall, took)


def test_a_step_beside_the_copy_changes_nothing(gpu: Gpu, values: list[np.ndarray], record_property: Any) -> None:
    """The values are those of before, the trainer is not kept, and the bytes come as fast as into pinned memory."""
    segment, into = segment_for([each.nbytes for each in values])
    stager = stager_of("w", gpu.make(values[0]))
    assert stager.name == gpu.name
    stager.spec(gpu.make(values[0]))
    stager.prepare(segment)
    try:
        for _ in range(2):  # the first compiles, and warms up
            tensors = [gpu.make(each) for each in values]
            gpu.wait(tensors)
            staged = save(stager, tensors, into, gpu)
            for got, wanted in zip(staged.arrays, values, strict=True):
                same(got, wanted)
    finally:
        stager.release(segment)
    raw = raw_seconds(gpu, values)
    nbytes = sum(each.nbytes for each in values)
    record_property("stall_ms", round(staged.stall_seconds * 1000, 2))
    record_property("copy_gb_per_s", round(nbytes / staged.copy_seconds / 1e9, 1))
    record_property("pinned_gb_per_s", round(nbytes / raw / 1e9, 1))
    assert staged.stall_seconds < STALL_SECONDS
    # the device also runs the step meanwhile
    assert staged.copy_seconds < 3 * raw + 0.05


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_all_shapes_and_dtypes_come_from_the_gpu(gpu: Gpu, mode: str) -> None:
    """Bit by bit, with a snapshot and without."""
    base = np.arange(60).reshape(3, 4, 5)
    wanted = [base.astype(name) for name in ("float32", "float64", "int8", "int32", "bool", "float16", "complex64")]
    wanted += [np.float32([2.5]), np.zeros((0, 3), np.float32)]
    if gpu.name == "jax-gpu":
        wanted = [each for each in wanted if each.dtype != np.float64]
    tensors = [gpu.make(each) for each in wanted]
    stager = stager_of("w", tensors[0])
    specs = [stager.spec(tensor) for tensor in tensors]
    segment, into = segment_for([spec.nbytes for spec in specs])
    stager.prepare(segment)
    stager.copy(stager.snapshot(tensors) if mode == "auto" else tensors, into, 2)
    stager.release(segment)
    for buffer, spec, each in zip(into, specs, wanted, strict=True):
        assert (spec.dtype, spec.shape) == (each.dtype.name, each.shape)
        assert bytes(buffer) == each.tobytes()


def raw_seconds(gpu: Gpu, values: list[np.ndarray]) -> float:
    """How long the same bytes take from the device into pinned memory, with nothing else going on."""
    runtime = find_runtime()
    assert runtime is not None
    segment, into = segment_for([each.nbytes for each in values])
    tensors = [gpu.make(each) for each in values]
    gpu.wait(tensors)
    copies = [contiguous_rows(buffer, gpu.pointer(tensor)) for buffer, tensor in zip(into, tensors, strict=True)]
    runtime.use_device(0)
    runtime.register(address_of(segment), len(segment))
    stream = runtime.new_stream()
    taken = []
    try:
        for _ in range(3):
            began = time.perf_counter()
            for each in copies:
                runtime.copy(each, stream)
            runtime.wait(stream)
            taken.append(time.perf_counter() - began)
    finally:
        runtime.end_stream(stream)
        runtime.unregister(address_of(segment))
    return min(taken)
