"""torch's tensors in host memory."""

from collections.abc import Sequence
from typing import Any

from smdaemon.staging.base import Spec, Stager
from smdaemon.staging.host import bytes_at, copy_pieces, pieces
from smdaemon.staging.torch_tensors import contiguous, is_tensor_on, pointer_of, spec_of


class TorchCpuStager(Stager):
    """Tensors that an optimizer overwrites in place: they are copied before a save returns."""

    name = "torch-cpu"
    guarantee = "the bytes are copied before save returns, unless the mode is direct"
    snapshots = False

    def claims(self, tensor: Any) -> bool:
        """Whether it is a tensor of torch on the CPU."""
        return is_tensor_on(tensor, "cpu")

    def spec(self, tensor: Any) -> Spec:
        """See `Stager`."""
        return spec_of(tensor)

    def snapshot(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Not cheap here."""
        raise NotImplementedError

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:
        """See `Stager`. By addresses, since numpy knows neither bfloat16 nor float8 of torch."""
        import numpy as np

        # held until the end: `contiguous` may have made new ones
        plain = [contiguous(tensor) for tensor in tensors]
        copy_pieces(
            (
                piece
                for tensor, buffer in zip(plain, into, strict=True)
                if len(buffer)
                for piece in pieces(np.frombuffer(buffer, np.uint8), bytes_at(pointer_of(tensor), len(buffer)))
            ),
            threads,
        )
