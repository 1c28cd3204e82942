"""What a tensor is to everyone who reads, moves or writes one: a type, a shape, and a stream of buffers.

A source makes tensors, the bundle writer consumes them; between the two no one needs the whole value. Nothing here copies.
"""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from smdaemon.errors import DropError
from smdaemon.tensorbundle.dtypes import STRING, DType, dtype_named

if TYPE_CHECKING:
    import numpy as np

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes; a memoryview is one-dimensional with format B, so that len() is its bytes."""

CHUNK_BYTES = 4 << 20
"""No buffer is longer than this: a checksum and the write that follows it share the cache."""


class Tensor(Protocol):
    """A lazy tensor: known type and shape, a value that is read when it is asked for."""

    @property
    def dtype(self) -> DType:
        """The element type."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions; () for a scalar."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the value in a bundle; for strings the sum of the elements' lengths."""
        ...

    def buffers(self) -> Iterator[Buffer]:
        """The value, little-endian in row-major order, as buffers of at most CHUNK_BYTES that together have `nbytes` bytes.

        A buffer may be reused for the next one: consume it before you ask for the next. Strings: one buffer an element.
        """
        ...


class ArrayTensor:
    """A numpy array (ml_dtypes included) as a Tensor, in any order and any byte order.

    Arrays of str, bytes or objects of these become strings, UTF-8 encoded. Raises DropError `dtype-unsupported` for what
    TensorFlow does not store.
    """

    def __init__(self, array: "np.ndarray[Any, Any]") -> None:
        self._array = array
        self.dtype = _dtype_of(array)
        self.shape: tuple[int, ...] = array.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        if self.dtype is STRING:
            return sum(len(element) for element in self.buffers())
        return prod(self.shape) * self.dtype.itemsize

    def buffers(self) -> Iterator[Buffer]:
        """The value chunk by chunk; no copy is made of a contiguous little-endian array."""
        array = self._array
        if self.dtype is STRING:
            yield from (_encoded(element) for element in array.flat)
        elif array.flags.c_contiguous and array.dtype.byteorder != ">":
            view = memoryview(array.reshape(-1).view("u1"))  # type: ignore[arg-type]
            if len(view) <= CHUNK_BYTES:
                yield view
                return
            for start in range(0, len(view), CHUNK_BYTES):
                yield view[start : start + CHUNK_BYTES]
        else:
            step = CHUNK_BYTES // self.dtype.itemsize
            for start in range(0, array.size, step):
                # .flat walks in row-major order whatever the strides; only this chunk is copied
                part = array.flat[start : start + step].astype(self.dtype.numpy, copy=False)
                yield memoryview(part.view("u1"))  # type: ignore[arg-type]


_BY_NUMPY: dict["np.dtype[Any]", DType] = {}


def array_of(tensor: Tensor) -> "np.ndarray[Any, Any]":
    """A copy of the tensor as a numpy array: ml_dtypes for what numpy lacks, objects of bytes for strings.

    `nbytes` are allocated before they are read: for a tensor of unknown origin, check them first.
    """
    import numpy as np

    if tensor.dtype is STRING:
        elements = [bytes(element) for element in tensor.buffers()]
        strings = np.empty(len(elements), dtype=object)
        strings[:] = elements
        return strings.reshape(tensor.shape)
    content = np.empty(tensor.nbytes, dtype=np.uint8)
    position = 0
    for buffer in tensor.buffers():
        content[position : position + len(buffer)] = np.frombuffer(buffer, dtype=np.uint8)
        position += len(buffer)
    return content.view(tensor.dtype.numpy).reshape(tensor.shape)


def _dtype_of(array: "np.ndarray[Any, Any]") -> DType:
    """The DType of a numpy array."""
    # numpy makes a dtype's name anew each time, which with many small tensors is felt
    known = _BY_NUMPY.get(array.dtype)
    if known is None and array.dtype.kind not in "SUO":
        known = _BY_NUMPY[array.dtype] = dtype_named(array.dtype.name)
    if known is not None:
        return known
    if array.dtype.kind == "O":
        strays = {type(element).__name__ for element in array.flat if not isinstance(element, str | bytes)}
        if strays:
            raise DropError("dtype-unsupported", f"an object array holds {', '.join(sorted(strays))}, not only strings")
    return STRING


def _encoded(element: str | bytes) -> bytes:
    return element.encode() if isinstance(element, str) else bytes(element)
