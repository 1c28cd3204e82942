"""Protobuf's wire format, encoded by hand: an export of 20,000 variables has 200,000 messages, too many for message classes.

Fields are put in the order of their numbers, map entries in the order of their keys, and defaults are left out, so that the
bytes are those of a deterministic C++ serialisation. Format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from functools import lru_cache

LENGTH = 2
"""The wire type of length-delimited fields."""

_SMALL = tuple(bytes((value,)) for value in range(128))


def varint(value: int) -> bytes:
    """An unsigned number of up to 64 bits, seven bits a byte, lowest first."""
    if value < 128:
        return _SMALL[value]
    if value < 16384:
        return bytes((value & 127 | 128, value >> 7))
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A varint field (int, bool, enum); nothing where the value is the default."""
    return _SMALL[field << 3] + varint(value) if value else b""


# Few lengths make up nearly all fields.
@lru_cache(4096)
def head(field: int, size: int) -> bytes:
    """What stands before the payload of a length-delimited field: its number (at most 15) and the payload's bytes."""
    return _SMALL[field << 3 | LENGTH] + varint(size)


def chunk(field: int, payload: bytes) -> bytes:
    """A length-delimited field (message, bytes), present even when it is empty."""
    return head(field, len(payload)) + payload


def tag(field: int) -> bytes:
    """What stands before the length of a length-delimited field."""
    return _SMALL[field << 3 | LENGTH]


def delimited(value: str) -> bytes:
    """The length and the bytes of a string: with `tag` before it a field, for strings that stand in several."""
    payload = value.encode()
    return varint(len(payload)) + payload


def parts_of(field: int, *parts: bytes) -> tuple[bytes, ...]:
    """As `chunk`, for a payload whose parts are joined later: a large message is copied once, not once for each level."""
    return (head(field, sum(map(len, parts))), *parts)


def text(field: int, value: str) -> bytes:
    """A string field of a repeated field or a map key, present even when it is empty."""
    payload = value.encode()
    return head(field, len(payload)) + payload


def entry(field: int, key: str, value: bytes) -> bytes:
    """An entry of a map from strings to messages."""
    return chunk(field, text(1, key) + chunk(2, value))


def shape(dims: tuple[int, ...]) -> bytes:
    """A TensorShapeProto; a scalar has no dims, a dim of size 0 is an empty message."""
    return b"".join(chunk(2, number(1, dim)) for dim in dims)


def fields(message: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message, which is all of `message` or the bytes from `at` to `end`: its number, and where it starts, where its payload starts and where both end.

    A varint's payload is the varint, a group's the fields in it and its end. Raises ValueError for what is no message.
    """
    end = len(message) if end is None else end
    while at < end:
        start = at
        key, payload = read_varint(message, at)
        if key & 7 == LENGTH:
            size, payload = read_varint(message, payload)
            at = payload + size
        else:
            at = _end(message, payload, key & 7)
        if at > end:
            raise ValueError(f"the field at byte {start} ends beyond the message")
        yield key >> 3, start, payload, at


def _end(message: bytes, at: int, wire_type: int) -> int:
    """Where the value ends whose payload (for length-delimited ones: the length) starts at byte `at`."""
    open_groups = 0
    while True:
        match wire_type:
            case 0:  # VARINT
                _, at = read_varint(message, at)
            case 1:  # FIXED64
                at += 8
            case 2:  # LENGTH
                size, at = read_varint(message, at)
                at += size
            case 3:  # GROUP_START
                open_groups += 1
            case 4 if open_groups:  # GROUP_END
                open_groups -= 1
            case 5:  # FIXED32
                at += 4
            case _:
                raise ValueError(f"wire type {wire_type} before byte {at}")
        if not open_groups:
            return at
        key, at = read_varint(message, at)
        wire_type = key & 7


def read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """The number that starts at byte `at` and where it ends."""
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise ValueError(f"no varint ends at byte {at}")
        byte = buffer[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
