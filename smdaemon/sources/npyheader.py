"""The header of a `.npy` array, versions 1.0, 2.0 and 3.0.

Follows the description of the format in numpy's documentation (numpy.lib.format): magic, version, length of the header
(2 bytes little-endian, from version 2.0 on 4), then a Python dict literal of `descr`, `fortran_order` and `shape`.
"""

import ast
import re
from math import prod
from typing import NamedTuple

from smdaemon.errors import DropError
from smdaemon.sources.extents import DeflatedExtent, Extent, RowMajorExtent, StoredExtent
from smdaemon.sources.values import NumberTensor, TextTensor
from smdaemon.tensorbundle.dtypes import DType, dtype_named

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 65_536
"""numpy's own headers of plain arrays take about 120 bytes; only structured dtypes, which are refused, take more."""
USUAL_HEADER_BYTES = 256
"""A read of this many bytes holds the whole header of nearly every array."""

# what numpy writes for a plain array: parsed without the general parser, which takes ten times as long
_USUAL = re.compile(r"\{'descr': '([^'\\]+)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n")
_DESCR = re.compile(r"([<>|=]?)([A-Za-z])([0-9]*)")
_NUMBERS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}


class NpyHeader(NamedTuple):
    """What the header says; `data_start` is in bytes from the magic, `width_bytes` that of an element."""

    kind: str
    big_endian: bool
    width_bytes: int
    fortran_order: bool
    shape: tuple[int, ...]
    data_start: int

    @property
    def data_bytes(self) -> int:
        """Bytes of the value."""
        return prod(self.shape) * self.width_bytes


def header_bytes(start: bytes, name: str) -> int | None:
    """Bytes from the magic to the value, by the first bytes of an array; None if they are too few to tell.

    DropError `source-corrupt` where they begin no array, `source-header-too-large` for a length that none has.
    """
    if start[:6] != MAGIC[: len(start)]:
        raise DropError("source-corrupt", f"{name!r} does not begin like a .npy array: {start[:6]!r}")
    if len(start) >= 8 and (start[6] not in {1, 2, 3} or start[7] != 0):
        raise DropError("source-corrupt", f"{name!r} has the unknown .npy version {start[6]}.{start[7]}")
    if len(start) < 12:  # no array is so short, whatever its version
        return None
    length_end = 10 if start[6] == 1 else 12
    length = int.from_bytes(start[8:length_end], "little")
    if length > MAX_HEADER_BYTES:
        raise DropError(
            "source-header-too-large", f"{name!r} claims a header of {length} bytes, over {MAX_HEADER_BYTES}"
        )
    return length_end + length


def parse_header(header: bytes, name: str) -> NpyHeader:
    """The header from all its bytes, the magic included; `name` names the array in errors."""
    begin = 10 if header[6] == 1 else 12
    try:
        text = header[begin:].decode("utf-8" if header[6] == 3 else "latin-1")
    except UnicodeDecodeError as error:
        raise DropError("source-corrupt", f"the header of {name!r} is not text: {error}") from error
    usual = _USUAL.fullmatch(text)
    if usual is not None:
        descr: object = usual[1]
        fortran_order: object = usual[2] == "True"
        sizes = [part.strip() for part in usual[3].split(",")]
        # (3,) has a comma and () nothing, but ( ,3) is no tuple: leave what is odd to the general parser
        if (sizes == [""] or (len(sizes) > 1 and all(sizes[:-1]))) and all(part.isdigit() for part in sizes if part):
            return _checked(descr, fortran_order, tuple(int(part) for part in sizes if part), len(header), name)
    try:
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DropError("source-corrupt", f"the header of {name!r} is not a dict: {error}") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise DropError("source-corrupt", f"the header of {name!r} does not hold just descr, fortran_order and shape")
    return _checked(fields["descr"], fields["fortran_order"], fields["shape"], len(header), name)


def _checked(descr: object, fortran_order: object, shape: object, data_start: int, name: str) -> NpyHeader:
    if type(fortran_order) is not bool:
        raise DropError("source-corrupt", f"fortran_order of {name!r} is {fortran_order!r}, not True or False")
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise DropError("source-corrupt", f"the shape of {name!r} is {shape!r}, not a tuple of sizes")
    if isinstance(descr, list | tuple):
        raise DropError(
            "dtype-unsupported", f"{name!r} is a structured array", remedy="save each field as its own array"
        )
    match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
    if match is None:
        if isinstance(descr, str) and descr.lstrip("<>|=")[:1] in {"M", "m"}:
            raise DropError("dtype-unsupported", f"{name!r} has the dtype {descr!r}")
        raise DropError("source-corrupt", f"the dtype of {name!r} is {descr!r}, which is none")
    order, kind, width = match.groups()
    if kind == "O":
        raise DropError("source-pickled", f"{name!r} is an array of Python objects")
    if kind in "Vv":
        raise DropError(
            "dtype-unsupported",
            f"{name!r} has the dtype {descr!r}: .npy does not record which type its bytes are",
            remedy="save bfloat16, float8 and other extended types as .safetensors, or convert the tensor to float32",
        )
    width_bytes = int(width or "1") * (4 if kind == "U" else 1)
    return NpyHeader(kind, order == ">", width_bytes, fortran_order, shape, data_start)


def tensor_of(header: NpyHeader, extent: StoredExtent | DeflatedExtent, name: str) -> NumberTensor | TextTensor:
    """The array as a tensor, its bytes given by `extent`; DropError `dtype-unsupported` for what TensorFlow cannot store."""
    ordered: Extent = extent
    # the orders differ only where two axes are longer than one
    if header.fortran_order and extent.nbytes and sum(size > 1 for size in header.shape) > 1:
        ordered = RowMajorExtent(extent, header.shape, header.width_bytes)
    if header.kind == "S":
        return TextTensor(name, header.shape, ordered, header.width_bytes, None)
    if header.kind == "U":
        encoding = "utf-32-be" if header.big_endian else "utf-32-le"
        return TextTensor(name, header.shape, ordered, header.width_bytes, encoding)
    dtype = _number(header, name)
    word_bytes = dtype.itemsize // (2 if header.kind == "c" else 1)
    return NumberTensor(dtype, header.shape, ordered, word_bytes if header.big_endian else 0)


def _number(header: NpyHeader, name: str) -> DType:
    if header.kind == "b" and header.width_bytes == 1:
        return dtype_named("bool")
    try:
        return dtype_named(f"{_NUMBERS[header.kind]}{header.width_bytes * 8}")
    except (KeyError, DropError):
        raise DropError(
            "dtype-unsupported",
            f"{name!r} has the dtype '{header.kind}{header.width_bytes}', which TensorFlow does not store",
        ) from None
