"""JAX's arrays on the CPU, and the ways that need no GPU of the other stagers of JAX."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from staging_kit import nothing, same, segment_for, stage

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.staging import jax_arrays
from smdaemon.staging.base import Stager
from smdaemon.staging.jax_cpu import JaxCpuStager, _computed
from smdaemon.staging.jax_gpu import JaxGpuStager
from smdaemon.staging.jax_tpu import JaxTpuStager
from smdaemon.staging.stagers import stager_of

STAGERS: dict[str, Callable[[], Stager]] = {
    "cpu": JaxCpuStager,
    "gpu": lambda: JaxGpuStager(find=lambda: None),
    "tpu": JaxTpuStager,
}
SHAPE = (256, 1024)

# its result takes the place of its argument
step = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)


@pytest.fixture(params=STAGERS)
def stager(request: pytest.FixtureRequest) -> Iterator[Stager]:
    """Each stager of JAX, on arrays of the CPU."""
    return STAGERS[request.param]()


def arrays() -> list[jax.Array]:
    """Arrays of many dtypes and shapes."""
    base = jnp.arange(24).reshape(2, 3, 4)
    names = ["float32", "int32", "uint8", "bool", "complex64", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"]
    return [*(base.astype(name) for name in names), jnp.float32(3.5), jnp.zeros((0, 3)), base.astype(jnp.int4)]


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_every_dtype_is_staged_bit_by_bit(stager: Stager, mode: str) -> None:
    """What lies in the buffer afterwards is what numpy has of the array; of sub-byte types a byte an element."""
    tensors = arrays()
    for got, tensor in zip(stage(stager, tensors, mode=mode), tensors, strict=True):
        same(got, tensor)


def test_a_step_may_donate_once_save_has_returned(stager: Stager) -> None:
    """The snapshot has the values of before, and the step gives what it should."""
    x = jnp.arange(SHAPE[0] * SHAPE[1], dtype=jnp.float32).reshape(SHAPE)
    wanted = np.array(x)
    results = []
    [got] = stage(stager, [x], after_save=lambda: results.append(step(x)))
    same(got, wanted)
    assert float(results[0].max()) == float(results[0].min()) == -7


def test_values_that_are_still_computed_are_staged(stager: Stager) -> None:
    """Also where the step that computes them is followed by one that donates them."""
    a = jnp.ones((600, 600))
    tensors = [jax.jit(lambda a, i: a @ a @ a + i)(a, float(i)) for i in range(4)]
    got = stage(stager, tensors, after_save=lambda: [step(tensor) for tensor in tensors])
    for i, each in enumerate(got):
        assert np.all(each == 600 * 600 + i)


def test_the_first_snapshot_after_warm_compiles_nothing(stager: Stager) -> None:
    """What takes a tenth of a second was done before training; the tensors are only looked at."""
    jax_arrays._copier.cache_clear()
    compiled: list[str] = []
    a = jnp.ones((601, 601))
    products = jax.jit(lambda a: [a @ a @ a, a @ a])
    products(a)
    jax.monitoring.register_event_duration_secs_listener(lambda event, _seconds, **_options: compiled.append(event))
    try:
        stager.warm(products(a))
        assert "/jax/core/compile/backend_compile_duration" in compiled
        compiled.clear()
        stager.snapshot(products(a))
        assert "/jax/core/compile/backend_compile_duration" not in compiled
    finally:
        jax.monitoring.clear_event_listeners()


def test_what_is_computed_while_one_asks_is_asked_again() -> None:
    """Else a part of a step's results would be copied, and JAX compile that for the first time."""

    class Computed:
        def __init__(self, *answers: bool) -> None:
            self.is_ready = iter(answers).__next__

    assert _computed([Computed(False, True), Computed(True, True)]) == [True, True]
    assert _computed([Computed(False, False), Computed(True, True)]) == [False, True]
    assert _computed([Computed(False), Computed(False)]) == [False, False]


def test_an_array_may_be_deleted_once_save_has_returned(stager: Stager) -> None:
    """What JAX is told to forget is in the snapshot."""
    x = jnp.arange(1000)
    [got] = stage(stager, [x], after_save=x.delete)
    same(got, np.arange(1000, dtype=np.int32))


@pytest.mark.parametrize("ask", ["spec", "snapshot", "copy"])
def test_a_donated_array_is_refused(stager: Stager, ask: str) -> None:
    """The error says what happened; the buffer is not touched."""
    x, y = jnp.ones(8), jnp.ones(8)
    step(x)
    segment, into = segment_for([32, 32])
    with pytest.raises(DropError, match="deleted or donated") as caught:
        {
            "spec": lambda: stager.spec(x),
            "snapshot": lambda: stager.snapshot([y, x]),
            "copy": lambda: stager.copy([y, x], into, 1),
        }[ask]()
    assert caught.value.code == "handoff-tensor"
    assert "barrier" in caught.value.remedy
    assert bytes(segment) == b"\xee" * len(segment)


def test_keys_of_random_numbers_are_their_data(stager: Stager) -> None:
    """A key that is saved can be made again of what is loaded."""
    keys = jax.random.split(jax.random.key(3), 5)
    got = stage(stager, [keys, jax.random.key(4)])
    same(got[0], jax.random.key_data(keys))
    same(got[1], jax.random.key_data(jax.random.key(4)))
    assert jax.random.wrap_key_data(jnp.asarray(got[0]))[2] == keys[2]


@pytest.mark.parametrize(
    "name", ["float8_e4m3", "float8_e3m4", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz"]
)
def test_dtypes_that_tensorflow_has_no_variables_of_are_refused(stager: Stager, name: str) -> None:
    """The error names the dtype."""
    with pytest.raises(DropError, match=name) as caught:
        stager.spec(jnp.asarray(np.zeros(3, getattr(ml_dtypes, name))))
    assert caught.value.code == "dtype-unsupported"


def test_a_traced_value_is_refused() -> None:
    """Inside of jit there is nothing to hand over."""

    @jax.jit
    def inside(x: Any) -> Any:
        with pytest.raises(DropError, match=r"'w' is a jax\S*Tracer") as caught:
            stager_of("w", x)
        assert "outside of jit" in caught.value.remedy
        return x

    inside(jnp.ones(3))


def test_a_snapshot_is_compiled_once() -> None:
    """Saves after the first find the compiled copy, whatever the values and however many stagers there are."""
    jax.clear_caches()
    for value in range(3):
        for make in (STAGERS["gpu"], STAGERS["tpu"]):
            stage(make(), [jnp.full((3, 5), value), jnp.full(7, value)])
    assert jax_arrays._copier()._cache_size() == 1


def test_what_holds_for_the_trainers_thread_does_not_hold_for_a_snapshot(stager: Stager) -> None:
    """Inside of a mesh, of a transfer guard, of jit switched off: a snapshot is what it is elsewhere."""
    mesh = jax.make_mesh((1,), ("x",))
    x = jnp.arange(5)
    with jax.set_mesh(mesh), jax.transfer_guard("disallow"), jax.disable_jit():
        held = stager.snapshot([x])
    _, into = segment_for([20])
    stager.copy(held, into, 1)
    same(np.frombuffer(into[0], np.int32), x)


@pytest.mark.parametrize("mode", ["auto", "direct"])
def test_nothing_of_an_array_is_kept(stager: Stager, mode: str) -> None:
    """After the copy a step can donate the array again, in place, and no copy of it stays in host memory."""
    x, packed = jnp.zeros(SHAPE), jnp.zeros(SHAPE, jnp.int4)
    stage(stager, [x, packed], mode=mode)
    gc.collect()
    assert x._npy_value is None
    assert packed._npy_value is None
    where = x.unsafe_buffer_pointer()
    assert step(x).unsafe_buffer_pointer() == where


@pytest.mark.parametrize("nbytes", [1, 4000, 1 << 30])
@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_batches_of_any_size_are_fetched(kind: str, nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger arrays than a batch, several in one, all in one."""
    stager = STAGERS[kind]()
    monkeypatch.setattr(stager, "batch_bytes", nbytes)
    tensors = [jnp.arange(size) for size in (300, 0, 500, 5000, 1, 700)]
    for got, tensor in zip(stage(stager, tensors), tensors, strict=True):
        same(got, tensor)


def test_a_gpu_without_pinned_memory_is_read_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where JAX cannot copy to pinned memory the values are fetched all the same."""

    def refuse(*_: Any) -> None:
        raise ValueError("memory kind pinned_host is not known")

    monkeypatch.setattr(jax, "device_put", refuse)
    tensors = [jnp.arange(9), jnp.ones((3, 4), jnp.bfloat16)]
    for got, tensor in zip(stage(STAGERS["gpu"](), tensors), tensors, strict=True):
        same(got, tensor)


def test_arrays_in_the_hosts_memory_are_staged(stager: Stager) -> None:
    """What a trainer has moved out of the device is handed over like the rest."""
    host = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    tensors = [jax.device_put(jnp.arange(6.0), host), jnp.arange(3)]
    for got, tensor in zip(stage(stager, tensors), tensors, strict=True):
        same(got, tensor)


def test_arrays_of_another_layout_are_staged(stager: Stager) -> None:
    """Row-major in the buffer, however they lie on the device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    x = jax.device_put(jnp.arange(12.0).reshape(3, 4), Format(Layout((1, 0)), sharding))
    for mode in ("auto", "direct"):
        [got] = stage(stager, [x], mode=mode)
        same(got, np.arange(12, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_without_room_for_a_snapshot_says_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is the mode "direct", which then works."""

    def full(_: Any) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 400 bytes.")

    monkeypatch.setattr(jax_arrays, "_copier", lambda: full)
    stager = STAGERS[kind]()
    with pytest.raises(EnvironmentFault, match="400 bytes") as caught:
        stager.snapshot([jnp.ones(100)])
    assert caught.value.code == "memory-short"
    assert 'mode="direct"' in caught.value.remedy
    [got] = stage(stager, [jnp.ones(100)], mode="direct", after_save=nothing)
    assert np.all(got == 1)


def test_an_error_of_the_device_is_one_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device did wrong is not the trainer's tensors."""

    def broken(_: Any) -> None:
        raise RuntimeError("INTERNAL: the device is gone\nand a trace")

    monkeypatch.setattr(jax_arrays, "_copier", lambda: broken)
    with pytest.raises(EnvironmentFault, match=r"the device is gone$") as caught:
        STAGERS["tpu"]().snapshot([jnp.ones(3)])
    assert caught.value.code == "handoff-tensor"


def test_platforms_have_their_stagers() -> None:
    """One stager each; what is no CPU and no GPU is fetched by JAX alone."""
    assert stager_of("w", jnp.ones(2)).name == "jax-cpu"
    for platform, name in [("cpu", "jax-cpu"), ("gpu", "jax-gpu"), ("rocm", "jax-gpu"), ("tpu", "jax-tpu")]:
        claiming = [make().name for make in STAGERS.values() if make().claims_platform(platform)]
        assert claiming == [name]
