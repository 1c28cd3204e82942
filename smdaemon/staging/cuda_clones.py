"""Tensors of libraries that overwrite them in place, on streams: cloned on their CUDA device, copied out from there."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

from smdaemon.errors import EnvironmentFault
from smdaemon.staging.cuda_copy import CudaStager, contiguous_rows, copy_out
from smdaemon.staging.shards import Rows


class Clone(NamedTuple):
    """A contiguous copy of a tensor on its device, and the event after which it is there."""

    tensor: Any
    made: Any


Work = tuple[Any, memoryview]
"""A clone, or a tensor of the trainer's; and its buffer."""


class CloneStager(CudaStager):
    """Clones on the device, copied out beside what the trainer does next.

    They are made on the stream that the trainer is on, before whatever it sets off next: on another stream they would race with
    what overwrites the tensors, or make it wait as long. Where device memory is too short for clones the trainer chooses
    mode="direct" and waits in barrier() before it overwrites the tensors.
    """

    guarantee = (
        "save returns once a copy on the device is set off; then the tensors may be overwritten on the same stream"
    )
    snapshots = True

    def device_of(self, tensor: Any) -> int:
        """The number of the CUDA device that the tensor is on."""
        raise NotImplementedError

    def clone(self, tensor: Any) -> Any:
        """A contiguous copy on the same device, made on the current stream of this thread there."""
        raise NotImplementedError

    def event(self, tensor: Any) -> Any:
        """An event that is recorded on the current stream of this thread on the tensor's device; waiting for it takes no processor."""
        raise NotImplementedError

    def synchronize(self, tensor: Any) -> None:
        """Wait for all that the tensor's device, which is the current one, has been given."""
        raise NotImplementedError

    def contiguous(self, tensor: Any) -> Any:
        """The tensor with its elements one after the other; itself if that is how it lies."""
        raise NotImplementedError

    def pointer_of(self, tensor: Any) -> int:
        """Where the elements of a contiguous tensor lie."""
        raise NotImplementedError

    def errors(self, tensors: Sequence[Any]) -> AbstractContextManager[None]:
        """What the library raises, as the errors of `Stager`; the tensors are those for which memory was asked."""
        raise NotImplementedError

    def snapshot(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """See `Stager`. The values are those that the current stream of the calling thread will have computed."""
        made: dict[int, Any] = {}
        with self.errors(tensors):
            clones = [self.clone(tensor) for tensor in tensors]
            for clone in {self.device_of(clone): clone for clone in clones}.values():
                made[self.device_of(clone)] = self.event(clone)
        return [Clone(clone, made[self.device_of(clone)]) for clone in clones]

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:  # noqa: ARG002 - devices copy
        """See `Stager`. Waits for what computes the tensors: for a clone's event, or else for all that the device has been given."""
        devices: dict[int, list[Work]] = {}
        for tensor, buffer in zip(tensors, into, strict=True):
            if len(buffer):
                plain = tensor.tensor if isinstance(tensor, Clone) else tensor
                devices.setdefault(self.device_of(plain), []).append((tensor, buffer))
        runtime = self.find()
        if runtime is None:
            for work in devices.values():
                self.copy_without_runtime(work)
            return
        # what is made contiguous on the way is held until all is copied
        held: list[Any] = []
        copy_out(runtime, {device: partial(self._rows, work, held) for device, work in devices.items()})

    def copy_without_runtime(self, work: Sequence[Work]) -> None:  # noqa: ARG002 - for those who can
        """Copy one device's tensors by the library's own means."""
        raise EnvironmentFault("handoff-tensor", "CUDA finds no device")

    def computed(self, tensors: Sequence[Any]) -> list[Any]:
        """Contiguous tensors of one device, which is the current one, once their values are there."""
        originals = [tensor for tensor in tensors if not isinstance(tensor, Clone)]
        with self.errors(originals):
            for event in {id(clone.made): clone.made for clone in tensors if isinstance(clone, Clone)}.values():
                event.synchronize()
            if not originals:
                return [clone.tensor for clone in tensors]
            # the stream that the trainer was on is not known here
            self.synchronize(originals[0])
            plain = [tensor.tensor if isinstance(tensor, Clone) else self.contiguous(tensor) for tensor in tensors]
            self.synchronize(originals[0])
            return plain

    def _rows(self, work: Sequence[Work], held: list[Any]) -> list[Rows]:
        """The raw copies of one device's tensors, in a thread that uses that device."""
        tensors = self.computed([tensor for tensor, _ in work])
        held.extend(tensors)
        return [
            contiguous_rows(buffer, self.pointer_of(tensor)) for tensor, (_, buffer) in zip(tensors, work, strict=True)
        ]
