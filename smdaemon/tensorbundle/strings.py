"""String tensors: the lengths of all elements, a checksum of these, then the elements end to end.

Format: `tensorflow/core/util/tensor_bundle/tensor_bundle.cc`, WriteStringTensor.

    string tensor : varint64 length of each element, u32le masked crc32c(lengths), bytes of each element
    lengths       : for the checksums each is u32le, or u64le where it does not fit
    entry crc     : crc32c(lengths, the four bytes of the checksum as stored, bytes of each element)
"""

import struct
from collections.abc import Callable, Iterator, Sequence

from smdaemon.tensorbundle.checksum import crc32c, mask
from smdaemon.tensorbundle.coding import VARINT_MAX_BYTES, corrupt, fixed32, read_fixed32, read_varint, varint
from smdaemon.tensorbundle.tensors import Buffer

CHECKSUM_BYTES = 4

_UINT32_MAX = 0xFFFFFFFF
_WINDOW_BYTES = 1 << 20
# A sparse file could claim any number of empty strings.
_ELEMENTS_LIMIT = 1 << 26


def encode_lengths(lengths: Sequence[int]) -> tuple[bytes, int]:
    """What stands before the elements, and the (unmasked) checksum of the tensor up to there."""
    crc = crc32c(fixed_lengths(lengths))
    stored = fixed32(mask(crc))
    return b"".join(map(varint, lengths)) + stored, crc32c(stored, crc)


def fixed_lengths(lengths: Sequence[int]) -> bytes:
    """The lengths as the checksums see them."""
    if max(lengths, default=0) <= _UINT32_MAX:
        return struct.pack(f"<{len(lengths)}I", *lengths)
    return b"".join(length.to_bytes(4 if length <= _UINT32_MAX else 8, "little") for length in lengths)


class StringElements:
    """Takes a string tensor apart as its bytes arrive: all lengths first, then one element after the other.

    `read(position, count)` gives bytes of the tensor's own run of `size` bytes. Nothing is allocated that the run is too short
    to fill. Raises DropError `bundle-corrupt` where the run contradicts the format or `crc`, the entry's masked checksum.
    """

    def __init__(self, read: Callable[[int, int], Buffer], size: int, elements: int, crc: int) -> None:
        if elements + CHECKSUM_BYTES > size:
            raise corrupt(f"{size} bytes cannot hold {elements} strings")
        if elements > _ELEMENTS_LIMIT:
            raise corrupt(f"a tensor of {elements} strings is beyond the limit of {_ELEMENTS_LIMIT}")
        self._read = read
        self._crc = crc
        self.lengths, self._position = _read_lengths(read, size, elements)
        stored = read(self._position, CHECKSUM_BYTES)
        lengths_crc = crc32c(fixed_lengths(self.lengths))
        if read_fixed32(stored, 0) != mask(lengths_crc):
            raise corrupt("the checksum of the strings' lengths does not fit them")
        self._running = crc32c(stored, lengths_crc)
        self._position += CHECKSUM_BYTES
        if self._position + sum(self.lengths) != size:
            raise corrupt(
                f"strings of {sum(self.lengths)} bytes do not fill the {size - self._position} bytes they have"
            )

    def __iter__(self) -> Iterator[bytes]:
        """The elements; the checksum is compared after the last one."""
        position, running = self._position, self._running
        for length in self.lengths:
            element = bytes(self._read(position, length))
            running = crc32c(element, running)
            position += length
            yield element
        if mask(running) != self._crc:
            raise corrupt("the checksum of a string tensor does not fit its content")


def _read_lengths(read: Callable[[int, int], Buffer], size: int, elements: int) -> tuple[list[int], int]:
    """The lengths of all elements and the position after them."""
    lengths: list[int] = []
    start = 0
    while len(lengths) < elements:
        window = bytes(read(start, min(_WINDOW_BYTES, size - start)))
        position = 0
        whole = start + len(window) == size
        while len(lengths) < elements and (whole or position + VARINT_MAX_BYTES <= len(window)):
            length, position = read_varint(window, position, len(window))
            lengths.append(length)
        start += position
    if start + CHECKSUM_BYTES > size or max(lengths, default=0) > size:
        raise corrupt("the lengths of the strings take more than the bytes they have")
    return lengths, start
