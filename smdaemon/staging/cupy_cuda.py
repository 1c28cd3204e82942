"""cupy's arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from smdaemon.errors import EnvironmentFault
from smdaemon.staging.base import Spec, loaded, make_spec, memory_short, name_of
from smdaemon.staging.cuda_clones import CloneStager


class CupyStager(CloneStager):
    """See `CloneStager`."""

    name = "cupy"

    def claims(self, tensor: Any) -> bool:
        """Whether it is an array of cupy."""
        array_type = loaded("cupy", "ndarray")
        return array_type is not None and isinstance(tensor, array_type)

    def spec(self, tensor: Any) -> Spec:
        """See `Stager`."""
        self.saw_device(self.device_of(tensor))
        return make_spec(name_of(tensor.dtype), tensor.shape)

    def device_of(self, tensor: Any) -> int:
        """See `CloneStager`."""
        return int(tensor.device.id)

    def clone(self, tensor: Any) -> Any:
        """See `CloneStager`."""
        # cupy copies to the device that is current
        with tensor.device:
            return tensor.copy(order="C")

    def event(self, tensor: Any) -> Any:
        """See `CloneStager`."""
        cuda = loaded("cupy", "cuda")
        with tensor.device:
            event = cuda.Event(block=True, disable_timing=True)
            event.record(cuda.get_current_stream())
            return event

    def synchronize(self, tensor: Any) -> None:
        """See `CloneStager`."""
        tensor.device.synchronize()

    def contiguous(self, tensor: Any) -> Any:
        """See `CloneStager`."""
        return loaded("cupy", "ascontiguousarray")(tensor)

    def pointer_of(self, tensor: Any) -> int:
        """See `CloneStager`."""
        return int(tensor.data.ptr)

    @contextmanager
    def errors(self, tensors: Sequence[Any]) -> Iterator[None]:
        """See `CloneStager`."""
        try:
            yield
        except MemoryError as error:
            raise memory_short(sum(tensor.nbytes for tensor in tensors), "the device") from error
        except RuntimeError as error:
            raise EnvironmentFault("handoff-tensor", f"cupy could not give an array: {error}") from error
