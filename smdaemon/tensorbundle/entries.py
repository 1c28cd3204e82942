"""The values of the index: the header under the empty key, and one entry for each tensor and each slice.

Format: `tensor_bundle.proto`, `tensor_shape.proto` and `tensor_slice.proto` of TensorFlow, proto3 wire format. They are coded by
hand: an index of 100,000 entries is written in a fraction of the time, and a reader needs no protobuf.

    BundleHeaderProto : 1 num_shards, 2 endianness (0 little), 3 version {1 producer, 2 min_consumer}
    BundleEntryProto  : 1 dtype, 2 shape {2 dim {1 size}}, 3 shard_id, 4 offset, 5 size, 6 fixed32 masked crc32c,
                        7 slices {1 extent {1 start, 2 length}}

Fields that are 0 are left out; the shape is always there, `12 00` for a scalar.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from smdaemon.tensorbundle.coding import corrupt, read_fixed32, read_varint, varint
from smdaemon.tensorbundle.dtypes import DType, dtype_numbered
from smdaemon.tensorbundle.slices import FULL, TensorSlice

PRODUCER = 1
READER_VERSION = 1
RANK_LIMIT = 254
ELEMENTS_LIMIT = 1 << 58
"""Of any dtype: their bytes can be counted in 63 bits."""

_CACHED_SHAPE_BYTES = 64
_INT64_SIGN = 1 << 63
_CRC_FIELD = struct.Struct("<BI").pack


@dataclass(frozen=True)
class BundleHeader:
    """What holds for the whole bundle."""

    shards: int


@dataclass(frozen=True)
class BundleEntry:
    """Where a tensor or a slice lies: shard number, offset and size in bytes, masked checksum.

    With `slices` the entry stands for a partitioned tensor and holds no data of its own.
    """

    dtype: DType
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[TensorSlice, ...] = ()


def encode_header(shards: int) -> bytes:
    """The value of the empty key: `08 01 1a 02 08 01` for one shard."""
    return b"\x08" + varint(shards) + b"\x1a\x02\x08" + varint(PRODUCER)


def encode_kind(dtype: DType, shape: Sequence[int], shard: int = 0) -> bytes:
    """The fields of an entry that many tensors have in common: type, shape and shard."""
    dims = b"".join(_message(0x12, b"\x08" + varint(dim) if dim else b"") for dim in shape)
    kind = b"\x08" + varint(dtype.enum) + _message(0x12, dims)
    return kind + b"\x18" + varint(shard) if shard else kind


def encode_place(offset: int, size: int, crc: int) -> bytes:
    """The fields of an entry that are its own: where it lies, and its masked checksum."""
    return b"".join(
        (
            b"\x20" + varint(offset) if offset else b"",
            b"\x28" + varint(size) if size else b"",
            _CRC_FIELD(0x35, crc) if crc else b"",
        )
    )


def encode_slices(slices: Sequence[TensorSlice]) -> bytes:
    """The fields of an entry that stands for a partitioned tensor."""
    return b"".join(
        _message(0x3A, b"".join(_message(0x0A, _extent(extent)) for extent in part.extents)) for part in slices
    )


def _extent(extent: tuple[int, int]) -> bytes:
    if extent == FULL:
        return b""
    start, length = extent
    return (b"\x08" + varint(start) if start else b"") + b"\x10" + varint(length)


def _message(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + varint(len(content)) + content


def decode_header(value: bytes) -> BundleHeader:
    """The header; DropError `bundle-corrupt` where it cannot be read or asks for a newer reader."""
    shards = 0
    for number, content in _fields(value):
        if number == 1:
            shards = _int(content)
        elif number == 2 and content != 0:
            raise corrupt("the bundle was written by a big-endian machine")
        elif number == 3:
            wanted = _int(dict(_fields(_bytes(content))).get(2, 0))
            if wanted > READER_VERSION:
                raise corrupt(f"the bundle wants a reader of version {wanted}, not {READER_VERSION}")
    if shards < 1:
        raise corrupt(f"the bundle claims {shards} data files")
    return BundleHeader(shards)


def decode_entry(value: bytes) -> BundleEntry:
    """The entry, each number in its range; whether it fits the data files is the reader's to check.

    Raises DropError `bundle-corrupt`, or `dtype-unsupported` for a type that no tensor of ours has.
    """
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    slices: list[TensorSlice] = []
    for number, content in _fields(value):
        if number == 2:
            raw = _bytes(content)
            shape += _shape(raw) if len(raw) > _CACHED_SHAPE_BYTES else _cached_shape(raw)
        elif number == 7:
            slices.append(_slice(_bytes(content)))
        elif number in numbers:
            numbers[number] = _int(content)
    if len(shape) > RANK_LIMIT:
        raise corrupt(f"a tensor of rank {len(shape)} is beyond TensorFlow's limit of {RANK_LIMIT}")
    if prod(max(dim, 1) for dim in shape) > ELEMENTS_LIMIT:
        raise corrupt(f"a tensor of shape {shape} is beyond {ELEMENTS_LIMIT} elements")
    negative = [number for number in (*numbers.values(), *shape) if number < 0]
    if negative:
        raise corrupt(f"an entry of the index holds the negative number {negative[0]}")
    return BundleEntry(dtype_numbered(numbers[1]), shape, numbers[3], numbers[4], numbers[5], numbers[6], tuple(slices))


def _shape(value: bytes) -> tuple[int, ...]:
    dims = []
    for number, content in _fields(value):
        if number == 2:
            dims.append(_int(dict(_fields(_bytes(content))).get(1, 0)))
        elif number == 3 and content:
            raise corrupt("an entry of the index has a shape of unknown rank")
    return tuple(dims)


# Many tensors have the same shape.
_cached_shape = lru_cache(maxsize=256)(_shape)


def _slice(value: bytes) -> TensorSlice:
    extents = []
    for number, content in _fields(value):
        if number == 1:
            extent = dict(_fields(_bytes(content)))
            start, length = _int(extent.get(1, 0)), _int(extent.get(2, -1))
            extents.append((start, length))
    return TensorSlice(tuple(extents))


def _fields(value: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and content of each field: varints as signed 64-bit, fixed words unsigned, the rest as bytes."""
    position, end = 0, len(value)
    while position < end:
        tag, position = read_varint(value, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            raw, position = read_varint(value, position, end)
            yield number, raw - 2 * _INT64_SIGN if raw & _INT64_SIGN else raw
            continue
        if wire == 2:
            length, position = read_varint(value, position, end)
        elif wire in {1, 5}:
            length = 8 if wire == 1 else 4
        else:
            raise corrupt(f"a field of the index has the wire type {wire}")
        if position + length > end:
            raise corrupt(f"a field of the index of {length} bytes crosses its end")
        yield number, read_fixed32(value, position) if wire == 5 else value[position : position + length]
        position += length


def _int(content: int | bytes) -> int:
    if isinstance(content, bytes):
        raise corrupt("a field of the index holds bytes in the place of a number")
    return content


def _bytes(content: int | bytes) -> bytes:
    if isinstance(content, int):
        raise corrupt("a field of the index holds a number in the place of bytes")
    return content
