"""cupy's arrays and torch's tensors, as far as they can be had without these libraries: see fake_libraries.py."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from fake_cuda import FakeCuda, FakeDevice
from fake_libraries import FakeArray, FakeCupyArray, FakeDTensor, FakeTensor
from staging_kit import same, segment_for, stage

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.staging.cuda_clones import CloneStager
from smdaemon.staging.cupy_cuda import CupyStager
from smdaemon.staging.stagers import specs_of, stager_of, stagers_of
from smdaemon.staging.torch_cpu import TorchCpuStager
from smdaemon.staging.torch_cuda import TorchCudaStager


class Library(NamedTuple):
    """A library on CUDA devices."""

    stager: Callable[..., CloneStager]
    array: type[FakeArray]


LIBRARIES = {"cupy": Library(CupyStager, FakeCupyArray), "torch": Library(TorchCudaStager, FakeTensor)}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    """Cupy and torch, imported."""
    request.getfixturevalue(request.param)
    return LIBRARIES[request.param]


@pytest.fixture
def devices() -> list[FakeDevice]:
    """Two devices."""
    return [FakeDevice(0), FakeDevice(1)]


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_tensors_of_all_devices_are_staged(
    library: Library, mode: str, cuda: FakeCuda, devices: list[FakeDevice]
) -> None:
    """Each from its own device; values that are still computed are waited for; strides are gone."""
    values = [
        (np.arange(12, dtype=np.float32).reshape(3, 4), 0),
        (np.arange(12).reshape(3, 4).astype(ml_dtypes.bfloat16), 1),
        (np.array(3.5), 1),
        (np.zeros((0, 4)), 0),
    ]
    tensors: list[Any] = [library.array(np.zeros_like(each), devices[at]).compute(each) for each, at in values]
    wide = np.arange(20, dtype=np.int16).reshape(4, 5)
    tensors.append(library.array(np.zeros_like(wide).T, devices[0]).compute(wide.T))
    got = stage(library.stager(lambda: cuda), tensors, mode=mode)
    for each, wanted in zip(got, [*(each for each, _ in values), wide.T], strict=True):
        same(each, wanted)
    assert cuda.copied_from == {0: 48 + 40, 1: 24 + 8}
    assert cuda.unpinned_bytes == 0
    assert not cuda.streams


def test_tensors_may_be_overwritten_once_save_has_returned(
    library: Library, cuda: FakeCuda, devices: list[FakeDevice]
) -> None:
    """On the trainer's stream, where the clones were made before."""
    tensors = [library.array(np.arange(9.0), device) for device in devices]
    got = stage(library.stager(lambda: cuda), tensors, after_save=lambda: [tensor.overwrite(-1) for tensor in tensors])
    assert all(np.array_equal(each, np.arange(9.0)) for each in got)
    assert all(device.position - device.done == 1 for device in devices)  # the step was not waited for


def test_a_device_without_room_for_clones_says_so(library: Library, cuda: FakeCuda, devices: list[FakeDevice]) -> None:
    """The remedy is the mode "direct", which then works."""
    stager = library.stager(lambda: cuda)
    tensors = [library.array(np.arange(9.0), devices[0]) for _ in range(3)]
    devices[0].free_bytes = 100
    with pytest.raises(EnvironmentFault, match="216 bytes") as caught:
        stager.snapshot(tensors)
    assert caught.value.code == "memory-short"
    assert 'mode="direct"' in caught.value.remedy
    got = stage(stager, tensors, mode="direct")
    assert all(np.array_equal(each, np.arange(9.0)) for each in got)


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_what_computes_a_tensor_may_fail(
    library: Library, mode: str, cuda: FakeCuda, devices: list[FakeDevice]
) -> None:
    """An error of the device comes out as one of the environment."""

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    tensor = library.array(np.arange(9.0), devices[0])
    devices[0].set_off(fail)
    with pytest.raises(EnvironmentFault, match="illegal memory access") as caught:
        stage(library.stager(lambda: cuda), [tensor], mode=mode)
    assert caught.value.code == "handoff-tensor"
    assert not cuda.streams


def test_a_failing_copy_is_a_fault(library: Library, cuda: FakeCuda, devices: list[FakeDevice]) -> None:
    """The error has the status of CUDA."""
    cuda.fail("copy", 700)
    with pytest.raises(EnvironmentFault, match="700"):
        stage(library.stager(lambda: cuda), [library.array(np.arange(9.0), devices[1])])


def test_only_the_device_of_the_tensors_is_opened(library: Library, cuda: FakeCuda, devices: list[FakeDevice]) -> None:
    """Pinning and copying for device 1 take no memory of device 0."""
    stage(library.stager(lambda: cuda), [library.array(np.arange(9.0), devices[1])])
    assert cuda.contexts == {1}


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_torch_copies_without_a_cuda_runtime(torch: ModuleType, mode: str, devices: list[FakeDevice]) -> None:
    """As on AMD's devices, which are called "cuda" too."""
    tensor = FakeTensor(np.zeros((2, 3), np.float32), devices[0]).compute(np.arange(6).reshape(2, 3))
    [got] = stage(TorchCudaStager(lambda: None), [tensor], mode=mode)
    same(got, np.arange(6, dtype=np.float32).reshape(2, 3))


def test_cupy_without_a_device_is_a_fault(cupy: ModuleType, devices: list[FakeDevice]) -> None:
    """Not a silent nothing."""
    with pytest.raises(EnvironmentFault, match="no device"):
        stage(CupyStager(lambda: None), [FakeCupyArray(np.ones(3), devices[0])])


def test_torch_tensors_of_the_host_are_staged(torch: ModuleType) -> None:
    """By address: whatever their dtype, strides and gradient; one that is conjugated lazily is conjugated."""
    conjugated = FakeTensor(np.array([1 + 2j, 3j]))
    conjugated.conjugate = True
    tensors = [
        FakeTensor(np.arange(6, dtype=np.float32).reshape(2, 3)),
        FakeTensor(np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)),
        FakeTensor(np.arange(6).reshape(2, 3).T),
        FakeTensor(np.zeros((0, 2))),
        FakeTensor(np.array(True)),
        conjugated,
    ]
    got = stage(TorchCpuStager(), tensors)
    for each, tensor in zip(got[:-1], tensors[:-1], strict=True):
        same(each, tensor.values)
    assert np.array_equal(got[-1], [1 - 2j, -3j])


@pytest.mark.parametrize(
    ("tensor", "code", "told"),
    [
        (FakeDTensor(np.ones(2)), "handoff-tensor", "full_tensor"),
        (FakeTensor(np.ones(2), layout="torch.sparse_coo"), "handoff-tensor", "to_dense"),
        (FakeTensor(np.ones(2), dtype="qint8"), "dtype-unsupported", "qint8"),
        (FakeTensor(np.ones(2), dtype="float8_e4m3fnuz"), "dtype-unsupported", "float8_e4m3fnuz"),
        (FakeTensor(np.ones(2), dtype="float4_e2m1fn_x2"), "dtype-unsupported", "float4_e2m1fn_x2"),
        (FakeTensor(np.ones(2), dtype="int4"), "dtype-unsupported", "int4"),
    ],
    ids=["dtensor", "sparse", "quantized", "fnuz", "packed", "int4"],
)
def test_torch_tensors_that_are_no_arrays_are_refused(
    torch: ModuleType, tensor: FakeTensor, code: str, told: str
) -> None:
    """The error says what they are, and what to hand over; with the name of the tensor where it is known."""
    tensors = {"layer/w": tensor}
    with pytest.raises(DropError, match="'layer/w': ") as caught:
        specs_of(tensors, stagers_of(tensors))
    assert caught.value.code == code
    assert told in caught.value.message + caught.value.remedy


def test_a_torch_tensor_without_memory_is_refused(torch: ModuleType) -> None:
    """As while torch traces: there is nothing to read at address 0."""
    tensor = FakeTensor(np.ones(2))
    tensor.memory = False
    _, into = segment_for([16])
    with pytest.raises(DropError, match="no memory") as caught:
        TorchCpuStager().copy([tensor], into, 1)
    assert caught.value.code == "handoff-tensor"


def test_each_tensor_has_one_stager(torch: ModuleType, cupy: ModuleType, devices: list[FakeDevice]) -> None:
    """By library and device."""
    tensors = {
        "cupy": FakeCupyArray(np.ones(2), devices[0]),
        "torch-cuda": FakeTensor(np.ones(2), devices[0]),
        "torch-cpu": FakeTensor(np.ones(2)),
        "host": np.ones(2),
    }
    assert {name: stager.name for name, stager in stagers_of(tensors).items()} == {name: name for name in tensors}
    meta = FakeTensor(np.ones(2), devices[0])
    meta.device = type("Meta", (), {"type": "meta"})()
    with pytest.raises(DropError, match="FakeTensor") as caught:
        stager_of("w", meta)
    assert caught.value.code == "handoff-tensor"
