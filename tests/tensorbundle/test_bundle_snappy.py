"""Compressed blocks, made by hand."""

import pytest
from bundle_cases import drop_code
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.tensorbundle.blocks import encode_handle
from smdaemon.tensorbundle.checksum import crc32c, mask
from smdaemon.tensorbundle.coding import fixed32, varint
from smdaemon.tensorbundle.snappy import decompress
from smdaemon.tensorbundle.table import FOOTER_BYTES, MAGIC, read_table


def literal(content: bytes) -> bytes:
    """A literal in its shortest form."""
    length = len(content) - 1
    if length < 60:
        return bytes((length << 2,)) + content
    word = length.to_bytes((length.bit_length() + 7) // 8, "little")
    return bytes((59 + len(word) << 2,)) + word + content


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (varint(0), b""),
        (varint(5) + literal(b"abcde"), b"abcde"),
        (varint(300) + literal(b"x" * 300), b"x" * 300),
        (varint(70_000) + literal(b"y" * 70_000), b"y" * 70_000),
        # copies of each kind: 5 from 3 back (they overlap), 6 from 4 back, 2 from 8 back
        (varint(8) + literal(b"abc") + bytes((1 | 1 << 2, 3)), b"abcabcab"),
        (varint(10) + literal(b"abcd") + bytes((2 | 5 << 2, 4, 0)), b"abcdabcdab"),
        # one byte again and again, and what follows a copy
        (varint(8) + literal(b"a") + bytes((1 | 1 << 2, 1)) + literal(b"xy"), b"aaaaaaxy"),
        (varint(10) + literal(b"abcdefgh") + bytes((3 | 1 << 2, 8, 0, 0, 0)), b"abcdefghab"),
        # an offset of 300 takes the upper bits of the tag
        (
            varint(304) + literal(bytes(range(250)) + b"z" * 50) + bytes((1 | 1 << 5, 300 & 0xFF)),
            bytes(range(250)) + b"z" * 50 + bytes(range(4)),
        ),
    ],
)
def test_every_kind_of_element_is_understood(block: bytes, content: bytes):
    """Literals of every length and copies of every kind give their content."""
    assert decompress(block) == content


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\xff" * 11,
        varint(2**32) + literal(b"a"),
        varint(5) + literal(b"abcd"),
        varint(3) + literal(b"abcd"),
        varint(9) + b"\x20abc",
        varint(9) + b"\xf0",
        varint(9) + b"\xfc\xff\xff",
        varint(9) + literal(b"abc") + b"\x01",
        varint(9) + literal(b"abc") + bytes((1, 0)),
        varint(9) + literal(b"abc") + bytes((1, 4)),
        varint(9) + bytes((1, 1)),
    ],
)
def test_unsound_blocks_are_refused(block: bytes):
    """Wrong lengths, cut elements and copies from before the start are DropErrors."""
    with pytest.raises(DropError) as caught:
        decompress(block)
    assert caught.value.code == "bundle-corrupt"


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 400), st.binary(max_size=60))
def test_any_bytes_give_content_or_a_drop_error(length: int, elements: bytes):
    """Arbitrary elements never raise anything else, nor give another length than they promise."""
    block = varint(length) + elements
    if drop_code(lambda: decompress(block)) is None:
        assert len(decompress(block)) == length


def test_a_table_of_compressed_blocks_reads():
    """A table whose data and index blocks are compressed gives the same entries as the plain one."""
    items = [(b"key%d" % index, b"value") for index in range(10)]
    blocks = []
    content = b""
    for block in (_data_block(items), b"\0\0\0\0\x01\0\0\0"):
        blocks.append((len(content), len(compressed(block)) - 5))
        content += compressed(block)
    index = compressed(
        b"\0\x01" + varint(len(encode_handle(*blocks[0]))) + b"l" + encode_handle(*blocks[0]) + fixed32(0) + fixed32(1)
    )
    footer = encode_handle(*blocks[1]) + encode_handle(len(content), len(index) - 5)
    content += index + footer.ljust(FOOTER_BYTES - 8, b"\0") + MAGIC
    assert list(read_table(content)) == items


def _data_block(items: list[tuple[bytes, bytes]]) -> bytes:
    entries = b"".join(b"\0" + bytes((len(key), len(value))) + key + value for key, value in items)
    return entries + fixed32(0) + fixed32(1)


def compressed(block: bytes) -> bytes:
    """The stored form of `block`, as one literal."""
    typed = varint(len(block)) + literal(block) + b"\x01"
    return typed + fixed32(mask(crc32c(typed)))
