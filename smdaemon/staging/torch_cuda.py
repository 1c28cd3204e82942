"""torch's tensors on CUDA devices, and on AMD's, which torch calls so too."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from smdaemon.errors import EnvironmentFault
from smdaemon.staging.base import Spec, loaded, memory_short
from smdaemon.staging.cuda_clones import CloneStager, Work
from smdaemon.staging.torch_tensors import contiguous, is_tensor_on, pointer_of, spec_of


class TorchCudaStager(CloneStager):
    """See `CloneStager`."""

    name = "torch-cuda"

    def claims(self, tensor: Any) -> bool:
        """Whether it is a tensor of torch on a CUDA device."""
        return is_tensor_on(tensor, "cuda")

    def spec(self, tensor: Any) -> Spec:
        """See `Stager`."""
        self.saw_device(self.device_of(tensor))
        return spec_of(tensor)

    def device_of(self, tensor: Any) -> int:
        """See `CloneStager`."""
        return int(tensor.device.index)

    def clone(self, tensor: Any) -> Any:
        """See `CloneStager`. torch conjugates and negates what it has put off doing."""
        return tensor.detach().clone(memory_format=loaded("torch", "contiguous_format"))

    def event(self, tensor: Any) -> Any:
        """See `CloneStager`."""
        cuda = loaded("torch", "cuda")
        event = cuda.Event(blocking=True)
        event.record(cuda.current_stream(tensor.device))
        return event

    def synchronize(self, tensor: Any) -> None:
        """See `CloneStager`."""
        loaded("torch", "cuda").synchronize(tensor.device)

    def contiguous(self, tensor: Any) -> Any:
        """See `CloneStager`."""
        return contiguous(tensor)

    def pointer_of(self, tensor: Any) -> int:
        """See `CloneStager`."""
        return pointer_of(tensor)

    def copy_without_runtime(self, work: Sequence[Work]) -> None:
        """See `CloneStager`. torch copies into memory that is not its own as fast as into pageable memory."""
        frombuffer = loaded("torch", "frombuffer")
        with self.errors([]):
            for tensor, (_, buffer) in zip(self.computed([tensor for tensor, _ in work]), work, strict=True):
                frombuffer(buffer, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)

    @contextmanager
    def errors(self, tensors: Sequence[Any]) -> Iterator[None]:
        """See `CloneStager`."""
        try:
            yield
        except loaded("torch", "cuda").OutOfMemoryError as error:
            raise memory_short(sum(tensor.nbytes for tensor in tensors), "the device") from error
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise EnvironmentFault("handoff-tensor", f"torch could not give a tensor: {reason}") from error
