"""Ordered code: numbers and strings as bytes that sort like the values. Only the keys of slices use it.

Format: `tensorflow/core/lib/strings/ordered_code.h`.

    number : u8 n, then the n significant bytes, big-endian                              0 is 00, 2 is 01 02, 256 is 02 01 00
    string : its bytes, 00 as 00 ff, ff as ff 00; then 00 01
    signed : as many ones as the code has bytes, a zero, then the value in two's complement; for negative values every header
             bit is inverted                                                             0 is 80, -1 is 7f, 64 is c0 40
"""


def ordered_number(value: int) -> bytes:
    """A number from 0 to 2**64 - 1."""
    length = (value.bit_length() + 7) // 8
    return bytes((length,)) + value.to_bytes(length, "big")


def ordered_string(value: bytes) -> bytes:
    """A string, in such a way that no code is the prefix of another."""
    escaped = (piece.replace(b"\xff", b"\xff\x00") for piece in value.split(b"\x00"))
    return b"\x00\xff".join(escaped) + b"\x00\x01"


def ordered_signed(value: int) -> bytes:
    """A number from -2**63 to 2**63 - 1; of n bytes, 7n - 1 bits are the value's."""
    magnitude = ~value if value < 0 else value
    length = magnitude.bit_length() // 7 + 1
    header = ((1 << length) - 1) << 7 * length
    return (value & (1 << 8 * length) - 1 ^ header).to_bytes(length, "big")
