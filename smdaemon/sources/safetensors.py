"""The safetensors format, one file: 8 bytes of header length (little-endian), a JSON header, then the values without gaps.

Follows the format's description at https://huggingface.co/docs/safetensors and is as strict as its reference reader: values
lie one after the other, cover the file to its last byte, and have the size that dtype and shape say.
"""

import json
import os
import re
from collections.abc import Mapping
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from smdaemon.errors import DropError
from smdaemon.sources.extents import StoredExtent
from smdaemon.sources.files import SourceFile
from smdaemon.sources.opened import FileSource, check_any, check_name
from smdaemon.sources.values import NumberTensor
from smdaemon.tensorbundle.dtypes import DType, dtype_named
from smdaemon.tensorbundle.tensors import Tensor

MAX_HEADER_BYTES = 100_000_000
"""The bound that the format itself sets."""

SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")

_DTYPES = {
    kind: dtype_named(name)
    for kind, name in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "C64": "complex64",
    }.items()
}
_FIELDS = {"dtype", "shape", "data_offsets"}
_LONG_HEADER_BYTES = 64 << 10

_Written: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Dtype, shape and offsets as they stand in the header."""


class Entry(NamedTuple):
    """One tensor of the header; offsets in bytes from the end of the header."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What a header says: the tensors in the order of their values, and the file's own metadata."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    data_start: int

    @property
    def file_bytes(self) -> int:
        """The size that a whole file of this header has."""
        return self.data_start + (self.entries[-1].end if self.entries else 0)


class SafetensorsFormat:
    """One `.safetensors` file; the shards of a larger checkpoint belong to its index."""

    name = "safetensors"
    suffix = ".safetensors"
    self_judging = True

    def claims(self, path: Path) -> bool:
        """See `Format`."""
        return path.name.endswith(self.suffix) and not SHARD_NAME.search(path.name) and not os.path.isdir(path)  # noqa: PTH112 - this one never raises

    def is_complete(self, path: Path, *, follow: bool = True) -> bool:
        """Whether the file is as long as its header says; `follow` is for a path that may be a symbolic link."""
        file = SourceFile(path, follow=follow)
        try:
            header = read_header(file)
        finally:
            file.close()
        if header is None or file.size < header.file_bytes:
            return False
        _check_size(file, header)
        return True

    def open(self, path: Path) -> FileSource:
        """See `Format`."""
        file = SourceFile(path)
        try:
            tensors, metadata = open_tensors(file)
            check_any(tensors, path)
        except BaseException:
            file.close()
            raise
        return FileSource(self.name, path, tensors, metadata, [file])


def open_tensors(file: SourceFile) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors and the metadata of a whole file; DropError where it is cut short or unsound."""
    header = read_header(file)
    if header is None:
        raise DropError("source-truncated", f"{str(file.path)!r} ends within its header, at byte {file.size}")
    _check_size(file, header)
    tensors: dict[str, Tensor] = {
        entry.name: NumberTensor(
            entry.dtype, entry.shape, StoredExtent(file, header.data_start + entry.begin, entry.end - entry.begin)
        )
        for entry in header.entries
    }
    return tensors, header.metadata


def read_header(file: SourceFile) -> Header | None:
    """The header; None while the file is too short to hold it."""
    if file.size < 8:
        return None
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER_BYTES:
        raise DropError(
            "source-header-too-large",
            f"{str(file.path)!r} claims a header of {length} bytes; the format allows {MAX_HEADER_BYTES}",
        )
    if file.size < 8 + length:
        return None
    return parse_header(file.read(8, length), str(file.path))


def parse_header(text: bytes, what: str) -> Header:
    """The header from its JSON; `what` names the file in errors."""
    written, metadata = _written(text, what)
    entries = [_entry(name, *each) for name, each in written.items()]
    entries.sort(key=attrgetter("begin", "end"))
    end = 0
    for entry in entries:
        if entry.begin != end:
            raise DropError("source-corrupt", f"the value of {entry.name!r} begins at {entry.begin}, not at {end}")
        end = entry.end
    return Header(tuple(entries), metadata, 8 + len(text))


def _written(text: bytes, what: str) -> tuple[dict[str, _Written], Mapping[str, str]]:
    """What stands in the header, by the tensors' names, and the metadata."""
    if len(text) >= _LONG_HEADER_BYTES:
        from smdaemon.sources.long_header import decoded

        if (found := decoded(text)) is not None:
            return found[0], _metadata(parse_object(found[1], what), what)
    fields = parse_object(text, what)
    metadata = _metadata(fields.pop("__metadata__", {}), what)
    return {name: _checked(name, value) for name, value in fields.items()}, metadata


def _metadata(value: Any, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise DropError("source-corrupt", f"the __metadata__ of {what!r} is not a map of strings")
    return value


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, at any depth."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise DropError("source-corrupt", f"the header of {what!r} is not sound JSON: {error}") from error
    if not isinstance(value, dict):
        raise DropError("source-corrupt", f"the header of {what!r} is not a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DropError("name-clash", f"the name {twice!r} stands twice in the header")
    return result


def _checked(name: str, value: Any) -> _Written:
    if type(value) is not dict or value.keys() != _FIELDS:
        raise DropError("source-corrupt", f"the header's entry of {name!r} is not dtype, shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(kind) is not str or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise DropError(
            "source-corrupt",
            f"{name!r} has dtype {kind!r}, shape {shape!r}, data_offsets {offsets!r}, which are unsound",
        )
    return kind, tuple(shape), tuple(offsets)


def _entry(name: str, kind: str, shape: tuple[int, ...], offsets: tuple[int, ...]) -> Entry:
    check_name(name)
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise DropError("dtype-unsupported", f"the tensor {name!r} has the dtype {kind!r}")
    begin, end = offsets
    nbytes = prod(shape) * dtype.itemsize
    if end - begin != nbytes:
        raise DropError(
            "source-corrupt",
            f"{name!r} of dtype {kind!r}, shape {list(shape)!r} has {nbytes} bytes, but its offsets span {end - begin}",
        )
    return Entry(name, dtype, shape, begin, end)


def _sizes(value: object) -> bool:
    """Whether the value is a list of sizes; bool is an int to Python, but true is no size."""
    return type(value) is list and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_size(file: SourceFile, header: Header) -> None:
    if file.size < header.file_bytes:
        raise DropError(
            "source-truncated",
            f"{str(file.path)!r} has {file.size} bytes of the {header.file_bytes} that its header tells of",
        )
    if file.size > header.file_bytes:
        raise DropError(
            "source-corrupt", f"{str(file.path)!r} has {file.size} bytes, but its header tells of {header.file_bytes}"
        )
