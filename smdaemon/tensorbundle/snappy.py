"""Decompression of Snappy blocks, which a table may hold (block type 1). TensorFlow writes none, other tools may.

Format: `format_description.txt` of google/snappy. A varint with the length of the output, then elements; the two low bits of an
element's first byte (its tag) say what it is:

    00  literal : upper six bits n < 60: n + 1 bytes follow; 60..63: the next 1..4 bytes hold the length - 1
    01  copy    : length 4 + bits 2-4; offset 11 bits, bits 5-7 of the tag above the next byte
    10  copy    : length 1 + upper six bits; offset the next 2 bytes
    11  copy    : length 1 + upper six bits; offset the next 4 bytes
"""

from smdaemon.tensorbundle.coding import corrupt, read_varint
from smdaemon.tensorbundle.tensors import Buffer

# The densest element is a copy of 64 bytes in 3: no sound block grows more than this.
_GROWTH_LIMIT = 22


def decompress(block: Buffer) -> bytes:
    """The content of a compressed block; never holds more than 22 times its size.

    Raises DropError `bundle-corrupt` where the block contradicts the format.
    """
    end = len(block)
    promised, position = read_varint(block, 0, end)
    if promised > end * _GROWTH_LIMIT:
        raise corrupt(f"a compressed block of {end} bytes claims to hold {promised}")
    out = bytearray()
    while position < end:
        tag = block[position]
        if tag & 3 == 0:
            length, position = _literal_length(block, tag, position + 1)
            if position + length > end:
                raise corrupt(f"a literal of {length} bytes crosses the end of a compressed block")
            out += block[position : position + length]
            position += length
        else:
            length, offset, position = _copy(block, tag, position + 1)
            if not 0 < offset <= len(out):
                raise corrupt(f"a compressed block copies from {offset} bytes back, but holds only {len(out)}")
            _repeat(out, offset, length)
        if len(out) > promised:
            break
    if len(out) != promised:
        raise corrupt(f"a compressed block promises {promised} bytes and gives {len(out)}")
    return bytes(out)


def _literal_length(block: Buffer, tag: int, position: int) -> tuple[int, int]:
    """The length of a literal and the position of its first byte."""
    length = tag >> 2
    if length < 60:
        return length + 1, position
    after = position + length - 59
    return _word(block, position, after) + 1, after


def _copy(block: Buffer, tag: int, position: int) -> tuple[int, int, int]:
    """Length and offset of a copy and the position after it."""
    kind = tag & 3
    if kind == 1:
        low = _word(block, position, position + 1)
        return 4 + (tag >> 2 & 7), tag >> 5 << 8 | low, position + 1
    after = position + (2 if kind == 2 else 4)
    return 1 + (tag >> 2), _word(block, position, after), after


def _word(block: Buffer, start: int, stop: int) -> int:
    if stop > len(block):
        raise corrupt("a compressed block ends inside an element")
    return int.from_bytes(block[start:stop], "little")


def _repeat(out: bytearray, offset: int, length: int) -> None:
    """Append `length` bytes from `offset` back; where they overlap what is being written, they repeat."""
    start = len(out) - offset
    period = bytes(out[start : start + length])
    out += (period * (length // len(period) + 1))[:length]
