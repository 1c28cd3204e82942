"""Run by test_staging_sharded.py, in a process of its own: JAX on four devices, which a process can only have from its start.

Prints one JSON object: for each case nothing, or what went wrong.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from fake_cuda import FakeCuda
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from staging_kit import same, stage

from smdaemon.staging.base import Stager
from smdaemon.staging.jax_arrays import copies
from smdaemon.staging.jax_cpu import JaxCpuStager
from smdaemon.staging.jax_gpu import JaxGpuStager
from smdaemon.staging.jax_tpu import JaxTpuStager

CUDA = FakeCuda(devices=4)
STAGERS: dict[str, Stager] = {
    "cpu": JaxCpuStager(),
    "raw": JaxGpuStager(lambda: CUDA),
    "pinned": JaxGpuStager(lambda: None),
    "tpu": JaxTpuStager(),
}
SPECS = {
    "rows": PartitionSpec("a"),
    "columns": PartitionSpec(None, "a"),
    "both": PartitionSpec("a", "b"),
    "crossed": PartitionSpec("b", None, "a"),
    "last": PartitionSpec(None, None, ("b", "a")),
    "first": PartitionSpec(("a", "b")),
    "replicated": PartitionSpec(),
}

devices = np.array(jax.devices()).reshape(2, 2)
mesh = Mesh(devices, ("a", "b"))
backward = Mesh(devices[::-1, ::-1], ("a", "b"))
values = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
tensors = {name: jax.device_put(values, NamedSharding(mesh, spec)) for name, spec in SPECS.items()}
tensors["backward"] = jax.device_put(values, NamedSharding(backward, PartitionSpec("a", "b")))
tensors["third device"] = jax.device_put(values, jax.devices()[2])
tensors["bfloat16"] = jax.device_put(values.astype(jnp.bfloat16), NamedSharding(mesh, PartitionSpec(None, "b", "a")))
tensors["int4"] = jax.device_put((values % 5).astype(jnp.int4), NamedSharding(mesh, PartitionSpec(None, None, "a")))


def staged(stager: Stager, mode: str) -> None:
    """Every kind of sharding at once; JAX keeps nothing of the parts in host memory."""
    fresh = [jax.jit(jnp.copy)(tensor) for tensor in tensors.values()]
    for got, tensor in zip(stage(stager, fresh, mode=mode), tensors.values(), strict=True):
        same(got, tensor)
    assert all(part.data._npy_value is None for tensor in fresh for part in tensor.addressable_shards)


def raw_from_each_device() -> None:
    """Replicas are copied once, from one device."""
    CUDA.copied_from.clear()
    stage(STAGERS["raw"], [tensors["rows"], tensors["both"], tensors["replicated"]])
    nbytes = values.nbytes
    both, rows = nbytes // 4, nbytes // 2
    assert sum(CUDA.copied_from.values()) == 3 * nbytes, CUDA.copied_from
    assert sorted(CUDA.copied_from.values()) == [both, both, both + rows, both + rows + nbytes], CUDA.copied_from
    assert CUDA.unpinned_bytes == 0


def donated() -> None:
    """A sharded step may donate once the snapshot is launched."""
    step = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    for name, stager in STAGERS.items():
        x = jax.device_put(values.copy(), NamedSharding(mesh, PartitionSpec("a", "b")))
        results: list[jax.Array] = []
        [got] = stage(stager, [x], after_save=lambda x=x, results=results: results.append(step(x)))
        same(got, values)
        assert float(results[0].max()) == -7, name


def inside_a_mesh() -> None:
    """What the trainer's thread is inside of does not hold for the snapshot."""
    explicit = jax.make_mesh((2, 2), ("a", "b"))
    with jax.set_mesh(explicit):
        for stager in STAGERS.values():
            held = stager.snapshot([tensors["both"], tensors["third device"], jax.random.key(1)])
            assert len(held) == 3


def replicas_are_not_copied() -> None:
    """Of what is the same everywhere one device makes a copy."""
    [copied] = copies([tensors["replicated"]])
    assert len(copied.sharding.device_set) == 1


def keys() -> None:
    """Keys of random numbers that are spread over devices."""
    spread = jax.device_put(jax.random.split(jax.random.key(0), 8), NamedSharding(mesh, PartitionSpec("a")))
    for stager in STAGERS.values():
        [got] = stage(stager, [spread])
        same(got, jax.random.key_data(spread))


CASES: dict[str, Callable[[], None]] = {
    **{
        f"{name}-{mode}": lambda stager=stager, mode=mode: staged(stager, mode)
        for name, stager in STAGERS.items()
        for mode in ("auto", "direct")
    },
    "raw_from_each_device": raw_from_each_device,
    "donated": donated,
    "inside_a_mesh": inside_a_mesh,
    "replicas_are_not_copied": replicas_are_not_copied,
    "keys": keys,
}

if __name__ == "__main__":
    results = {}
    for name, case in CASES.items():
        try:
            case()
            results[name] = ""
        except Exception:  # noqa: BLE001 - the test is told
            results[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(results))
