"""CRC-32C as the format stores it: masked, so that a checksum of data that holds checksums stays a good one."""

from collections.abc import Iterable

from awscrt.checksums import combine_crc32c, crc32c

from smdaemon.tensorbundle.tensors import Buffer

__all__ = ["crc32c", "crc_of", "joined_checksum", "mask", "masked_crc32c", "unmask"]

_MASK_DELTA = 0xA282EAD8


def mask(crc: int) -> int:
    """What is stored for `crc`: rotated right by 15 bits, plus a constant; 0xa282ead8 for 0."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def unmask(stored: int) -> int:
    """The checksum whose stored form is `stored`."""
    rotated = (stored - _MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def masked_crc32c(content: Buffer) -> int:
    """The stored form of the checksum of `content`."""
    return mask(crc32c(content))


def crc_of(buffers: Iterable[Buffer]) -> int:
    """The checksum of buffers laid end to end."""
    crc = 0
    for buffer in buffers:
        crc = crc32c(buffer, crc)
    return crc


def joined_checksum(pieces: Iterable[tuple[int, int]]) -> int:
    """The (unmasked) checksum of pieces laid end to end, from each piece's checksum and its length in bytes.

    So the pieces of a tensor can be summed in any order, by several threads, and joined at the end.
    """
    joined = 0
    for crc, length in pieces:
        joined = combine_crc32c(joined, crc, length)
    return joined
