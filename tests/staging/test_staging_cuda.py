"""The CUDA runtime from three libraries, pinned buffers, and raw copies: against a runtime whose devices' memory is the host's."""

import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_cuda import NOT_REGISTERED, FakeBindings, FakeCuda, FakeCupyRuntime, FakeLibrary
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from staging_kit import same, segment_for, stage

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.staging import cuda as cuda_module
from smdaemon.staging.cuda import BindingsRuntime, CudaError, CudaRuntime, CupyRuntime, LibraryRuntime
from smdaemon.staging.cuda_copy import address_of, copy_out
from smdaemon.staging.jax_gpu import JaxGpuStager
from smdaemon.staging.shards import Rows

RUNTIMES: dict[str, Callable[[FakeCuda], CudaRuntime]] = {
    "cupy": lambda cuda: CupyRuntime(FakeCupyRuntime(cuda)),
    "cuda.bindings": lambda cuda: BindingsRuntime(FakeBindings(cuda)),
    "libcudart": lambda cuda: LibraryRuntime(FakeLibrary(cuda)),
}
DEVICE_LOST = 719
REFUSED = 304


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, cuda: FakeCuda) -> CudaRuntime:
    """The fake as each library has it."""
    return RUNTIMES[request.param](cuda)


def rows_between(target: np.ndarray, source: np.ndarray) -> Rows:
    """The copy of the whole of two contiguous arrays."""
    return Rows(target.ctypes.data, target.nbytes, source.ctypes.data, source.nbytes, source.nbytes, 1)


def test_each_library_copies(runtime: CudaRuntime, cuda: FakeCuda) -> None:
    """All calls, with the flags, the types and the order of arguments that each library wants."""
    source, target = np.arange(24, dtype=np.uint8).reshape(4, 6), np.zeros((4, 9), np.uint8)
    whole = np.zeros_like(source)
    assert runtime.devices() == 2
    runtime.register(target.ctypes.data, target.nbytes)
    runtime.use_device(1)
    stream = runtime.new_stream()
    runtime.copy(Rows(target.ctypes.data + 2, 9, source.ctypes.data, 6, 6, 4), stream)
    runtime.copy(Rows(whole.ctypes.data, 6, source.ctypes.data, 6, 6, 4), stream)
    assert not target.any()
    runtime.wait(stream)
    runtime.end_stream(stream)
    runtime.unregister(target.ctypes.data)
    assert np.array_equal(target[:, 2:8], source)
    assert np.array_equal(whole, source)
    assert cuda.copied_from == {1: 48}
    assert cuda.unpinned_bytes == 24
    assert not cuda.pinned
    assert not cuda.streams


@pytest.mark.parametrize(
    "call",
    [
        ("devices",),
        ("use_device", 0),
        ("register", 64, 64),
        ("unregister", 64),
        ("new_stream",),
        ("wait", 1001),
        ("copy", Rows(1, 1, 1, 1, 1, 1), 1001),
        ("copy", Rows(1, 2, 1, 1, 1, 2), 1001),
    ],
    ids=lambda call: call[0],
)
def test_each_library_tells_the_status(runtime: CudaRuntime, cuda: FakeCuda, call: tuple[Any, ...]) -> None:
    """A failing call is a CudaError with the status."""
    runtime.new_stream()
    cuda.fail(call[0], DEVICE_LOST)
    with pytest.raises(CudaError, match=str(DEVICE_LOST)) as caught:
        getattr(runtime, call[0])(*call[1:])
    assert caught.value.status == DEVICE_LOST


def test_the_first_library_with_a_device_is_found(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails or has no device is passed over; what was found stays."""
    none, broken = FakeCuda(devices=0), FakeCuda()
    broken.fail("devices", 35)
    monkeypatch.setattr(cuda_module, "_found", [])
    monkeypatch.setattr(cuda_module, "candidates", lambda: iter([broken, none, cuda, FakeCuda()]))
    assert cuda_module.find_runtime() is cuda
    monkeypatch.setattr(cuda_module, "candidates", lambda: iter([]))
    assert cuda_module.find_runtime() is cuda


def test_without_a_device_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is asked again the next time."""
    monkeypatch.setattr(cuda_module, "_found", [])
    monkeypatch.setattr(cuda_module, "candidates", lambda: iter([FakeCuda(devices=0)]))
    assert cuda_module.find_runtime() is None
    monkeypatch.setattr(cuda_module, "candidates", lambda: iter([FakeCuda()]))
    assert cuda_module.find_runtime() is not None


def test_cupy_comes_before_bindings_and_these_before_the_library(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cupy only if it is imported; a library only if it can be loaded."""
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = FakeBindings(cuda)
    cupy = ModuleType("cupy")
    cupy.cuda = SimpleNamespace(runtime=FakeCupyRuntime(cuda))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", bindings.runtime)
    monkeypatch.setattr(cuda_module, "_library_names", lambda: iter(["libabsent.so.9", "libc.so.6"]))
    assert [type(each) for each in cuda_module.candidates()] == [CupyRuntime, BindingsRuntime, LibraryRuntime]
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert [type(each) for each in cuda_module.candidates()] == [LibraryRuntime]


def test_a_library_that_is_loaded_already_is_tried_first() -> None:
    """Names come from what the process has mapped, then from the linker's, then from NVIDIA's packages."""
    names = list(cuda_module._library_names())
    assert "libcudart.so.12" in names
    assert len(set(names)) == len(names)


def test_threads_of_the_trainer_keep_their_device(cuda: FakeCuda) -> None:
    """A copy from device 1 opens nothing on device 0, and leaves the calling thread as it was."""
    source, target = np.arange(9), np.zeros(9, np.int64)
    copy_out(cuda, {1: lambda: [rows_between(target, source)]})
    assert np.array_equal(source, target)
    assert cuda.contexts == {1}
    assert not hasattr(cuda._thread, "device")


def test_devices_copy_side_by_side(cuda: FakeCuda) -> None:
    """Neither waits until the other has copied."""
    source, targets = np.arange(9), [np.zeros(9, np.int64), np.zeros(9, np.int64)]
    meeting = threading.Barrier(2, timeout=60)
    cuda.before_wait = meeting.wait
    copy_out(cuda, {i: lambda target=target: [rows_between(target, source)] for i, target in enumerate(targets)})
    assert cuda.copied_from == {0: 72, 1: 72}
    assert all(np.array_equal(target, source) for target in targets)


@pytest.mark.parametrize("call", ["use_device", "new_stream", "copy", "wait"])
def test_a_failing_copy_is_a_fault_and_writes_no_more(call: str, cuda: FakeCuda) -> None:
    """What was set off before is waited for; the error names the device, the call and the status."""
    cuda.fail(call, DEVICE_LOST)
    source, target = np.arange(9), np.zeros(9, np.int64)
    with pytest.raises(EnvironmentFault, match=f"CUDA device 1 did not give its tensors: {call} .* {DEVICE_LOST}") as c:
        copy_out(cuda, {1: lambda: [rows_between(target, source)] * 2})
    assert c.value.code == "handoff-tensor"
    assert not cuda.streams


def test_a_copy_that_fails_later_waits_for_the_earlier(cuda: FakeCuda) -> None:
    """The buffer is at rest when the error is raised."""
    source, target = np.arange(9), np.zeros(9, np.int64)

    def rows() -> Any:
        yield rows_between(target, source)
        cuda.fail("copy", DEVICE_LOST)
        yield rows_between(target, source)

    with pytest.raises(EnvironmentFault):
        copy_out(cuda, {0: rows})
    assert np.array_equal(source, target)
    assert not cuda.streams


# JAX's arrays lie in host memory here, as the fake's devices do.


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_jax_arrays_are_copied_raw_into_pinned_memory(mode: str, cuda: FakeCuda) -> None:
    """All but sub-byte types, which lie packed on a device; the buffer is pinned once, and let go of."""
    base = jnp.arange(24).reshape(2, 3, 4)
    tensors = [*(base.astype(name) for name in ("float32", "bfloat16", "bool", "complex64")), jnp.float32(2), base[:0]]
    tensors.append(base.astype(jnp.int4))
    for got, tensor in zip(stage(JaxGpuStager(lambda: cuda), tensors, mode=mode), tensors, strict=True):
        same(got, tensor)
    assert cuda.copied_from == {0: 24 * (4 + 2 + 1 + 8) + 4}
    assert cuda.unpinned_bytes == 0
    assert cuda.calls["register"] == cuda.calls["unregister"] == 1
    assert not cuda.streams


def test_what_lies_otherwise_on_the_device_is_not_copied_raw(cuda: FakeCuda) -> None:
    """Arrays of another layout, and arrays in the host's memory, come by JAX itself."""
    device = jax.devices()[0]
    turned = Format(Layout((1, 0)), SingleDeviceSharding(device))
    values = jnp.arange(12.0).reshape(3, 4)
    tensors = [
        jax.device_put(values, turned),
        jax.device_put(values, SingleDeviceSharding(device, memory_kind="pinned_host")),
    ]
    for got in stage(JaxGpuStager(lambda: cuda), tensors, mode="direct"):
        same(got, np.arange(12, dtype=np.float32).reshape(3, 4))
    assert not cuda.copied_from


def test_a_donated_step_beside_the_copy_changes_nothing(cuda: FakeCuda) -> None:
    """The snapshot is copied raw while the step already runs."""
    step = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    x = jnp.arange(5000.0)
    [got] = stage(JaxGpuStager(lambda: cuda), [x], after_save=lambda: step(x))
    same(got, np.arange(5000, dtype=np.float32))
    assert cuda.copied_from == {0: 20000}


def test_an_array_that_is_donated_during_a_direct_copy_is_refused(cuda: FakeCuda) -> None:
    """JAX does not know of raw copies: what it gave away meanwhile may be anything."""
    x, y = jnp.arange(50), jnp.arange(50)
    cuda.before_wait = x.delete
    _, into = segment_for([200, 200])
    with pytest.raises(DropError, match="while it was copied out") as caught:
        JaxGpuStager(lambda: cuda).copy([x, y], into, 1)
    assert caught.value.code == "handoff-tensor"
    assert "barrier()" in caught.value.remedy


def test_a_buffer_is_prepared_once(cuda: FakeCuda) -> None:
    """Called again, nothing happens; after release it is pinned anew; one that was never prepared is not let go of."""
    stager = JaxGpuStager(lambda: cuda)
    segment, _ = segment_for([4096])
    stager.prepare(segment)  # no tensor yet: on which device is not known
    assert cuda.calls["register"] == 0
    stager.spec(jnp.ones(3))
    for _ in range(3):
        stager.prepare(segment)
    assert cuda.pinned == {address_of(segment): 4096}
    for _ in range(2):
        stager.release(segment)
    assert cuda.calls["register"] == cuda.calls["unregister"] == 1
    stager.prepare(segment)
    assert cuda.pinned == {address_of(segment): 4096}


def test_two_stagers_share_a_pinned_buffer(cuda: FakeCuda) -> None:
    """Who came second finds it pinned, and leaves it so."""
    first, second = JaxGpuStager(lambda: cuda), JaxGpuStager(lambda: cuda)
    segment, _ = segment_for([4096])
    for stager in (first, second):
        stager.spec(jnp.ones(3))
        stager.prepare(segment)
    second.release(segment)
    assert cuda.pinned
    first.release(segment)
    assert not cuda.pinned


def test_memory_that_cannot_be_pinned_is_used_as_it_is(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    """That is logged once; copies go on."""
    cuda.fail("register", REFUSED)
    stager = JaxGpuStager(lambda: cuda)
    for _ in range(2):
        [got] = stage(stager, [jnp.arange(10)])
        same(got, np.arange(10, dtype=np.int32))
    [record] = [each for each in caplog.records if each.name == "smdaemon.handoff"]
    assert "cannot pin" in record.getMessage()
    assert str(REFUSED) in record.getMessage()
    assert cuda.unpinned_bytes == 80
    assert cuda.calls["unregister"] == 0


def test_memory_that_cannot_be_let_go_of_is_told(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged: the trainer goes on."""
    stager = JaxGpuStager(lambda: cuda)
    segment, _ = segment_for([4096])
    stager.spec(jnp.ones(3))
    stager.prepare(segment)
    cuda.fail("unregister", NOT_REGISTERED)
    stager.release(segment)
    assert "let go" in caplog.text


def test_nothing_keeps_a_segment_from_being_unmapped(cuda: FakeCuda) -> None:
    """No view of the buffer is left after preparing, copying and releasing."""
    segment, into = segment_for([40, 12])
    stager = JaxGpuStager(lambda: cuda)
    tensors = [jnp.arange(10), jnp.zeros(3)]
    for tensor in tensors:
        stager.spec(tensor)
    stager.prepare(segment)
    stager.copy(stager.snapshot(tensors), into, 2)
    stager.release(segment)
    for buffer in (*into, segment):
        buffer.release()
