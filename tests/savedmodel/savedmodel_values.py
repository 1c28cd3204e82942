"""Small tensors of every dtype, and what two values must have in common to be equal."""

from collections.abc import Iterable

import numpy as np

from smdaemon.tensorbundle.dtypes import DTYPES, STRING, DType
from smdaemon.tensorbundle.tensors import ArrayTensor

VARIABLE_DTYPES = [dtype for dtype in DTYPES if dtype.variable]


def values_of(dtype: DType) -> dict[str, np.ndarray]:
    """A vector of every value of few bits or of some values, a scalar, and an empty matrix."""
    if dtype is STRING:
        vector = np.array([b"", b"one", "zwölf".encode(), b"\0\xff"], dtype=object)
    elif dtype.name == "bool":
        vector = np.array([True, False, True])
    else:
        small = [0, 1] if dtype.name.startswith("uint") else [0, 1, -1]
        vector = np.array(small).astype(dtype.numpy)
    return {
        "vector": vector,
        "scalar": vector[1].reshape(()) if dtype is not STRING else np.array(b"x", dtype=object),
        "empty": np.zeros((0, 3), dtype.numpy),
    }


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, ArrayTensor]:
    """The arrays as tensors."""
    return {name: ArrayTensor(array) for name, array in arrays.items()}


def floats(names: Iterable[str]) -> dict[str, ArrayTensor]:
    """A float32 scalar for each name: 0, 1, 2, ... in the order given."""
    return tensors({name: np.array(number, np.float32) for number, name in enumerate(names)})


def content(array: object) -> tuple[str, tuple[int, ...], object]:
    """Dtype, shape and bytes: what equal arrays share, NaN or not."""
    array = np.asarray(array)
    if array.dtype.kind == "S":  # TensorFlow gives a string scalar so
        array = array.astype(object)
    return array.dtype.name, array.shape, array.tolist() if array.dtype == object else array.tobytes()
