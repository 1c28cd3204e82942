"""The integers of the format: varints of seven bits a byte, low bits first, and little-endian words of fixed width.

The same varints are used by the index table, by the entries (which are protocol buffers) and by string tensors.
"""

from smdaemon.errors import DropError
from smdaemon.tensorbundle.tensors import Buffer

VARINT_MAX_BYTES = 10

_ONE_BYTE = [bytes((value,)) for value in range(128)]


def corrupt(message: str) -> DropError:
    """The error for bytes that contradict the format."""
    return DropError("bundle-corrupt", message)


def varint(value: int) -> bytes:
    """`value`, 0 or greater, as a varint: 300 is `ac 02`."""
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(buffer: Buffer, position: int, limit: int) -> tuple[int, int]:
    """The varint at `position` and the position after it.

    Raises DropError `bundle-corrupt` where it crosses `limit` or does not fit 64 bits.
    """
    if position < limit and (byte := buffer[position]) < 0x80:
        return byte, position + 1
    value = shift = 0
    for index in range(position, min(limit, position + VARINT_MAX_BYTES)):
        byte = buffer[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, index + 1
        shift += 7
    raise corrupt(f"a varint at byte {position} does not end in its place")


def fixed32(value: int) -> bytes:
    """`value` as four bytes, little-endian."""
    return value.to_bytes(4, "little")


def read_fixed32(buffer: Buffer, position: int) -> int:
    """The four-byte word at `position`; the caller has checked that it lies inside."""
    return int.from_bytes(buffer[position : position + 4], "little")
