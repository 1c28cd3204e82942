"""TensorProto messages as numpy arrays and back: the values of constants in graphs, and the defaults of signatures.

Format: `tensor.proto`. A value stands in `tensor_content` (little-endian, row-major) or as a list in the field of its type; a list
that is shorter than the tensor means that its last element stands for the rest.
"""

from math import prod
from typing import TYPE_CHECKING, Any

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import TensorProto
from smdaemon.tensorbundle.dtypes import STRING, DType, dtype_numbered
from smdaemon.tensorbundle.tensors import ArrayTensor

if TYPE_CHECKING:
    import numpy as np

UNFOLDED_LIMIT_BYTES = 1 << 26
"""A list that is shorter than its tensor is unfolded up to this; beyond it, only a single element is (it takes no memory)."""

RANK_LIMIT = 32

# the field of each dtype whose values stand in a list, where it is not int_val
_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "string": "string_val",
}
_HALVES = frozenset(["float16", "bfloat16"])


def array_of(tensor: TensorProto) -> "np.ndarray[Any, Any]":
    """The value of a TensorProto, read-only; strings as an object array of bytes.

    Raises DropError `savedmodel-corrupt` where it contradicts itself or unfolds too far, `dtype-unsupported`.
    """
    import numpy as np

    dtype = dtype_numbered(tensor.dtype)
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or len(shape) > RANK_LIMIT or any(size < 0 for size in shape):
        raise DropError("savedmodel-corrupt", f"a constant has no array's shape: {shape}")
    size = prod(shape)
    if tensor.tensor_content:
        if dtype is STRING or len(tensor.tensor_content) != size * dtype.itemsize:
            raise DropError(
                "savedmodel-corrupt",
                f"a constant of {dtype} and shape {shape} has {len(tensor.tensor_content)} bytes of content",
            )
        return np.frombuffer(tensor.tensor_content, dtype.numpy).reshape(shape)
    listed = _listed(tensor, dtype)
    if len(listed) > size or (size and not len(listed)):
        raise DropError("savedmodel-corrupt", f"a constant of shape {shape} has {len(listed)} values")
    if len(listed) < size:
        listed = _unfolded(listed, size)
    if size:
        return listed.reshape(shape) if len(listed) == size else np.broadcast_to(listed.reshape(()), shape)
    return np.zeros(shape, dtype.numpy)


def _listed(tensor: TensorProto, dtype: DType) -> "np.ndarray[Any, Any]":
    """The elements that the message lists."""
    import numpy as np

    if dtype is STRING:
        strings = np.empty(len(tensor.string_val), dtype=object)
        strings[:] = list(tensor.string_val)
        return strings
    if dtype.name in _HALVES:
        return _checked(tensor.half_val, 16).view(dtype.numpy)
    if dtype.name.startswith("float8"):
        return np.frombuffer(tensor.float8_val, np.uint8).view(dtype.numpy)
    values = getattr(tensor, _FIELDS.get(dtype.name, "int_val"))
    if dtype.name.startswith("complex"):
        parts = np.array(values, "<f4" if dtype.name == "complex64" else "<f8")
        if len(parts) % 2:
            raise DropError("savedmodel-corrupt", "a complex constant has half a number")
        return parts.view(dtype.numpy)
    return np.array(values).astype(dtype.numpy)


def _checked(values: Any, bits: int) -> "np.ndarray[Any, Any]":
    """The low bits of a list of integers."""
    import numpy as np

    array = np.array(values, np.int64)
    if array.size and not 0 <= array.min() <= array.max() < 1 << bits:
        raise DropError("savedmodel-corrupt", f"a constant holds a value of more than {bits} bits")
    return array.astype("<u2")


def _unfolded(listed: "np.ndarray[Any, Any]", size: int) -> "np.ndarray[Any, Any]":
    """The list with its last element repeated up to `size`; a single element is left to be broadcast."""
    import numpy as np

    if len(listed) == 1:
        return listed
    if size * listed.itemsize > UNFOLDED_LIMIT_BYTES:
        raise DropError("savedmodel-corrupt", f"a constant of {size} elements lists only {len(listed)}")
    return np.concatenate([listed, np.broadcast_to(listed[-1:], (size - len(listed),))])


def tensor_proto(value: Any) -> TensorProto:
    """The TensorProto of an array, a number, a string or nested lists of these, as TensorFlow's `make_tensor_proto` makes it.

    Raises DropError `dtype-unsupported`.
    """
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind == "f" and not isinstance(value, np.ndarray | np.generic):
        array = array.astype(np.float32)  # Python's numbers are TensorFlow's float32 and int32
    elif array.dtype.kind == "i" and not isinstance(value, np.ndarray | np.generic):
        array = _narrow(array)
    tensor = ArrayTensor(array)
    made = TensorProto(dtype=tensor.dtype.enum)  # type: ignore[arg-type]  # enum values are ints
    made.tensor_shape.SetInParent()
    for size in array.shape:
        made.tensor_shape.dim.add().size = size
    if tensor.dtype is STRING:
        made.string_val.extend(bytes(element) for element in tensor.buffers())
    elif array.size > 1:
        made.tensor_content = b"".join(bytes(buffer) for buffer in tensor.buffers())
    elif array.size:
        _list_one(made, tensor.dtype, array.reshape(-1))
    return made


def _narrow(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """int32 if the numbers fit."""
    import numpy as np

    if array.size and not -(1 << 31) <= array.min() <= array.max() < 1 << 31:
        return array
    return array.astype(np.int32)


def _list_one(made: TensorProto, dtype: DType, element: "np.ndarray[Any, Any]") -> None:
    """Put a single element into the field of its type."""
    if dtype.name in _HALVES:
        made.half_val.append(int(element.view("<u2")[0]))
    elif dtype.name.startswith("float8"):
        made.float8_val = element.tobytes()
    elif dtype.name.startswith("complex"):
        number = complex(element[0])
        getattr(made, _FIELDS[dtype.name]).extend([number.real, number.imag])
    else:
        getattr(made, _FIELDS.get(dtype.name, "int_val")).append(_scalar(dtype, element[0]))


def _scalar(dtype: DType, value: Any) -> float | int | bool:
    if dtype.name == "bool":
        return bool(value)
    return float(value) if dtype.name.startswith("float") else int(value)
