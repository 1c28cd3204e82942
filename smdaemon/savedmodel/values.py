"""Values from wherever they come, as tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import ArrayTensor, Buffer, Tensor


class StringScalar:
    """A string tensor of one element. An ArrayTensor would do, but for it numpy is loaded, which takes 0.2 s."""

    dtype = STRING
    shape = ()

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return len(self._content)

    def buffers(self) -> Iterator[Buffer]:
        """The one element."""
        yield self._content


def tensors_of(variables: Any) -> dict[str, Tensor | PartitionedTensor]:
    """Tensors by name of a mapping to arrays or Tensors, or of anything with such a mapping as its `tensors`."""
    named: Mapping[str, Any] = getattr(variables, "tensors", variables)
    return {name: tensor_of(value) for name, value in named.items()}


def tensor_of(value: Any) -> Tensor | PartitionedTensor:
    """A Tensor as it is; of an array, a number or nested lists of numbers an ArrayTensor."""
    if hasattr(value, "buffers") or isinstance(value, PartitionedTensor):
        tensor: Tensor | PartitionedTensor = value
        return tensor
    import numpy as np

    return ArrayTensor(np.asarray(value))
