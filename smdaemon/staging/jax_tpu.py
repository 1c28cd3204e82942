"""JAX's arrays on TPUs, and on every other device that only JAX can read."""

from collections.abc import Sequence
from typing import Any

from smdaemon.staging.jax_arrays import BATCH_BYTES, JaxStager, fetch, parts_of, start_to_host


class JaxTpuStager(JaxStager):
    """Snapshots on the device, fetched by JAX: the host holds two batches beside the buffers."""

    name = "jax-tpu"
    guarantee = "save returns once a copy on the device is launched; a step may donate the arrays at once"
    batch_bytes = BATCH_BYTES

    def claims_platform(self, platform: str) -> bool:
        """See `JaxStager`."""
        return platform not in ("cpu", "gpu", "cuda", "rocm")

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:
        """See `Stager`."""
        # made one by one: with a part lives what JAX fetched of it
        parts = (part for tensor, buffer in zip(tensors, into, strict=True) for part in parts_of(tensor, buffer))
        fetch(parts, start_to_host, threads, self.batch_bytes)
