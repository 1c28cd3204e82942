"""The tensors of the golden bundles: what TensorFlow was given (make_golden.py) and what the tests give to our writer.

A row is (name, slice spec, full shape, value); the spec is empty for a tensor that is not partitioned.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smdaemon.errors import DropError
from smdaemon.tensorbundle import (
    DTYPES,
    STRING,
    ArrayTensor,
    PartitionedTensor,
    Tensor,
    TensorSlice,
    dtype_named,
)

GOLDEN = Path(__file__).parent / "golden"
SMALL = ("dtypes", "strings", "slices", "empty")
"""Cases whose files are committed."""
LARGE = ("many", "blocks", "megabyte")
"""Cases of which length and SHA-256 are committed."""


def drop_code(action: Callable[[], object]) -> str | None:
    """The code of the DropError that `action` raises; None where it raises none."""
    try:
        action()
    except DropError as error:
        return error.code
    return None


class Row(NamedTuple):
    """One tensor or slice that is saved."""

    name: str
    spec: str
    shape: tuple[int, ...]
    value: np.ndarray[Any, Any]


def rows(case: str) -> list[Row]:
    """The rows of that case, names in the order of their bytes."""
    return sorted(globals()[f"_{case}"](), key=lambda row: row.name.encode())


def tensors(case: str) -> dict[str, Tensor | PartitionedTensor]:
    """The same for our writer."""
    made: dict[str, Tensor | PartitionedTensor] = {}
    parts: dict[str, list[Row]] = {}
    for row in rows(case):
        if row.spec:
            parts.setdefault(row.name, []).append(row)
        else:
            made[row.name] = ArrayTensor(row.value)
    for name, saved in parts.items():
        slices = [(TensorSlice.parse(row.spec), ArrayTensor(row.value)) for row in saved]
        made[name] = PartitionedTensor(slices[0][1].dtype, saved[0].shape, slices)
    return made


def value_of(dtype_name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Some value of that type, the same each time."""
    dtype = dtype_named(dtype_name)
    count = int(np.prod(shape, dtype=int))
    if dtype is STRING:
        strings = np.empty(count, dtype=object)
        strings[:] = [b"s%d" % index * (index % 4) for index in range(count)]
        return strings.reshape(shape)
    # 0 and 1 are values of every type but float8_e8m0; sub-byte integers of one bit and a sign hold them too
    return (np.arange(count) % 2).astype(np.float32).astype(dtype.numpy).reshape(shape)


def _row(name: str, value: Any) -> Row:
    array = np.asarray(value)
    return Row(name, "", array.shape, array)


def _dtypes() -> Iterator[Row]:
    for dtype in DTYPES:
        for label, shape in (("scalar", ()), ("matrix", (3, 5)), ("none", (0, 2))):
            yield _row(f"{dtype.name}/{label}", value_of(dtype.name, shape))


def _strings() -> Iterator[Row]:
    elements = [b"", b"a", "größe".encode(), b"\x00\xff" * 3, b"x" * 127, b"y" * 128, b"z" * 300]
    column = np.empty(len(elements), dtype=object)
    column[:] = elements
    yield _row("column", column)
    yield _row("grid", column[:6].reshape(2, 3))
    yield _row("schlüssel/été", np.array(b"value", dtype=object))


def _slices() -> Iterator[Row]:
    whole = np.arange(24, dtype=np.float32).reshape(8, 3)
    for start in (0, 4):
        yield Row("part", f"{start},4:-", (8, 3), whole[start : start + 4])
    grid = np.arange(200 * 70, dtype=np.int16).reshape(200, 70)[:, :3].copy()
    for row, column in ((0, 0), (0, 1), (100, 0), (100, 1)):
        length = 1 if column == 0 else 2
        box = grid[row : row + 100, column : column + length]
        yield Row("grid\xff", f"{row},100:{column},{length}", (200, 3), np.ascontiguousarray(box))
    yield Row("single", "-:-", (8, 3), whole)
    yield Row("single/explicit", "0,8:0,3", (8, 3), whole)
    words = value_of("string", (4,))
    for start in (0, 2):
        yield Row("words", f"{start},2", (4,), words[start : start + 2])


def _empty() -> Iterator[Row]:
    # TensorFlow refuses to save nothing at all; a tensor without elements is the least that it takes
    yield _row("nothing", np.zeros((0,), np.float32))


def _many() -> Iterator[Row]:
    for index in range(100_000):
        yield _row(f"layer_{index // 10}/weight_{index}", np.full(16, index, np.float32))


def _blocks() -> Iterator[Row]:
    """Keys that close blocks early and late, and separators that can and cannot be shortened."""
    for index in range(200):
        yield _row(f"{index:03d}" + "k" * 5000, np.float32(index))
    yield _row("1" * 530_000, np.float32(1))
    yield _row("\x7f" * 600_000, np.float32(2))
    yield _row("ü" * 70_000, np.float32(3))
    yield _row("ü" * 200_000, np.float32(4))


def _megabyte() -> Iterator[Row]:
    yield _row("big", np.arange(3_000_000, dtype=np.float32).reshape(1500, 2000))
    yield _row("bigger", np.arange(2_000_001, dtype=np.int64))
    yield _row("small", np.float64(3))
