"""The element types that TensorFlow stores, by name, enum number and size.

Names are numpy's and ml_dtypes' (`bfloat16`, `float8_e4m3fn`, ...); numbers are those of `tensorflow.DataType`. In a bundle
elements are little-endian; sub-byte types take one byte an element; strings have a layout of their own (see strings.py).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from smdaemon.errors import DropError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """One element type; the instances of `DTYPES` are all there are, so that they compare by identity. `itemsize` is in bytes, 0 for strings; `enum` is the number in `tensorflow.DataType`."""

    name: str
    enum: int
    itemsize: int
    # TensorFlow has a kernel that assigns it to a variable
    variable: bool = True
    # TensorFlow can join slices of it when it restores a partitioned tensor
    sliceable: bool = True

    @cached_property
    def numpy(self) -> "np.dtype[Any]":
        """The numpy dtype, little-endian; numpy's object dtype for strings."""
        import numpy as np

        if self is STRING:
            return np.dtype(object)
        if self.name in _NUMPY_OWN:
            native: np.dtype[Any] = np.dtype(self.name)
            return native.newbyteorder("<")
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.name))
        return extended

    def __str__(self) -> str:
        return self.name


STRING = DType("string", 7, 0)

DTYPES: tuple[DType, ...] = (
    DType("float32", 1, 4),
    DType("float64", 2, 8),
    DType("int32", 3, 4),
    DType("uint8", 4, 1),
    DType("int16", 5, 2),
    DType("int8", 6, 1),
    STRING,
    DType("complex64", 8, 8),
    DType("int64", 9, 8),
    DType("bool", 10, 1),
    DType("bfloat16", 14, 2),
    DType("uint16", 17, 2, sliceable=False),
    DType("complex128", 18, 16),
    DType("float16", 19, 2, sliceable=False),
    DType("uint32", 22, 4, sliceable=False),
    DType("uint64", 23, 8, sliceable=False),
    DType("float8_e5m2", 24, 1, sliceable=False),
    DType("float8_e4m3fn", 25, 1, sliceable=False),
    DType("float8_e4m3fnuz", 26, 1, variable=False, sliceable=False),
    DType("float8_e4m3b11fnuz", 27, 1, variable=False, sliceable=False),
    DType("float8_e5m2fnuz", 28, 1, variable=False, sliceable=False),
    DType("int4", 29, 1),
    DType("uint4", 30, 1),
    DType("int2", 31, 1, sliceable=False),
    DType("uint2", 32, 1, sliceable=False),
    DType("float4_e2m1fn", 33, 1, sliceable=False),
)

_NUMPY_OWN = frozenset(
    [
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "complex64",
        "complex128",
    ]
)
_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_BY_ENUM = {dtype.enum: dtype for dtype in DTYPES}


def dtype_named(name: str) -> DType:
    """The DType of that name; DropError `dtype-unsupported` where TensorFlow stores no such type."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise DropError("dtype-unsupported", f"TensorFlow stores no dtype {name!r}") from None


def dtype_numbered(enum: int) -> DType:
    """The DType of that number in `tensorflow.DataType`; DropError `dtype-unsupported` for any other number."""
    try:
        return _BY_ENUM[enum]
    except KeyError:
        raise DropError("dtype-unsupported", f"no tensor is stored as data type number {enum}") from None
