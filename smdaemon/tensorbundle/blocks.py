"""Blocks: sorted keys and values, each key stored as what differs from the key before it.

Format: `doc/table_format.md` of google/leveldb.

    block   : entry*, restart*, u32le number of restarts
    entry   : varint32 shared, varint32 unshared, varint32 value length, key[shared:], value
    restart : u32le position of an entry with shared = 0; the first entry is one
    stored  : block, u8 type (0 plain, 1 snappy), u32le masked crc32c(block, type)     the handle's size leaves out the last 5
    handle  : varint64 offset, varint64 size
"""

import struct
from collections.abc import Iterator, Sequence

from smdaemon.tensorbundle.checksum import crc32c, mask
from smdaemon.tensorbundle.coding import corrupt, fixed32, read_fixed32, read_varint, varint
from smdaemon.tensorbundle.snappy import decompress
from smdaemon.tensorbundle.tensors import Buffer

PLAIN = b"\x00"
SNAPPY = b"\x01"
TRAILER_BYTES = 5

KEYS_LIMIT_BYTES = 256 << 20
"""Keys of one table together: they share prefixes, so that a small file could otherwise unfold without bound."""


def shared_bytes(key: bytes, other: bytes) -> int:
    """How many bytes the two keys have in common at their start."""
    length = min(len(key), len(other))
    if key[:length] == other[:length]:
        return length
    differing = int.from_bytes(key[:length], "big") ^ int.from_bytes(other[:length], "big")
    return length - (differing.bit_length() + 7) // 8


def encode_handle(offset: int, size: int) -> bytes:
    """A handle: where a block lies."""
    return varint(offset) + varint(size)


def decode_handle(value: Buffer) -> tuple[int, int]:
    """Offset and size of the block that a handle points to."""
    offset, position = read_varint(value, 0, len(value))
    size, _ = read_varint(value, position, len(value))
    return offset, size


def finish_block(parts: Sequence[bytes], restarts: Sequence[int]) -> bytes:
    """The block of these encoded entries, with its type and checksum."""
    tail = struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    typed = b"".join((*parts, tail, PLAIN))
    return typed + fixed32(mask(crc32c(typed)))


def open_block(stored: Buffer) -> Buffer:
    """The block inside its stored form, checked and decompressed."""
    if len(stored) < TRAILER_BYTES + 1:
        raise corrupt(f"a block of {len(stored)} bytes is shorter than its trailer")
    typed = stored[: -TRAILER_BYTES + 1]
    if mask(crc32c(typed)) != read_fixed32(stored, len(stored) - 4):
        raise corrupt("the checksum of a block of the index does not fit its content")
    kind, content = bytes(typed[-1:]), typed[:-1]
    if kind == PLAIN:
        return content
    if kind == SNAPPY:
        return decompress(content)
    raise corrupt(f"a block of the index has the unknown type {kind[0]}")


def read_block(block: Buffer, before: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of an opened block, keys strictly ascending and after the key `before`.

    Raises DropError `bundle-corrupt` where the block contradicts the format. Restarts are checked for their room only: who
    reads from the start does not need them.
    """
    block = bytes(block)
    end = _end_of_entries(block)
    key = b""
    previous = before
    position = unfolded = 0
    # One loop with nothing called that could stand here: the index has an entry for every tensor.
    while position < end:
        shared, unshared, value_bytes = block[position : position + 3]  # the number of restarts alone has more bytes
        if shared | unshared | value_bytes < 0x80:
            position += 3
        else:
            shared, position = read_varint(block, position, end)
            unshared, position = read_varint(block, position, end)
            value_bytes, position = read_varint(block, position, end)
        value_at = position + unshared
        if shared > len(key) or value_at + value_bytes > end:
            raise corrupt("an entry of the index crosses the end of its block")
        key = key[:shared] + block[position:value_at]
        if previous is not None and key <= previous:
            raise corrupt(f"the key {key[:80]!r} of the index does not come after the key before it")
        unfolded += len(key)
        if unfolded > KEYS_LIMIT_BYTES:
            raise corrupt(f"the keys of a block take more than {KEYS_LIMIT_BYTES} bytes")
        position = value_at + value_bytes
        yield key, block[value_at:position]
        previous = key


def _end_of_entries(block: Buffer) -> int:
    """The position of the first restart."""
    if len(block) < 4:
        raise corrupt(f"a block of {len(block)} bytes cannot hold its restarts")
    end = len(block) - 4 * (read_fixed32(block, len(block) - 4) + 1)
    if end < 0:
        raise corrupt("a block of the index has more restarts than room for them")
    return end
