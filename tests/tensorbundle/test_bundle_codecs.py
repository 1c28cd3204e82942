"""Property tests of every small codec of the format, and the values the format's documents give."""

from contextlib import nullcontext

import numpy as np
import pytest
from bundle_cases import drop_code
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import BundleEntryProto, BundleHeaderProto
from smdaemon.tensorbundle import DTYPES, TensorSlice, dtype_named, joined_checksum, table
from smdaemon.tensorbundle.assembly import chunk_boxes
from smdaemon.tensorbundle.blocks import finish_block, open_block, read_block, shared_bytes
from smdaemon.tensorbundle.checksum import crc32c, mask, unmask
from smdaemon.tensorbundle.coding import read_varint, varint
from smdaemon.tensorbundle.entries import (
    ELEMENTS_LIMIT,
    RANK_LIMIT,
    decode_entry,
    decode_header,
    encode_header,
    encode_kind,
    encode_place,
    encode_slices,
)
from smdaemon.tensorbundle.ordered import ordered_number, ordered_signed, ordered_string
from smdaemon.tensorbundle.slices import slice_key
from smdaemon.tensorbundle.strings import StringElements, encode_lengths
from smdaemon.tensorbundle.table import _separator, _successor, read_table, write_table

quick = settings(deadline=None, max_examples=60)
uint64 = st.integers(0, 2**64 - 1) | st.sampled_from([0, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**63, 2**64 - 1])
int64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)


@quick
@given(uint64, st.binary(max_size=5))
def test_varints_round_trip(value: int, after: bytes):
    """A varint reads back, and reading stops at its end."""
    coded = varint(value)
    assert read_varint(coded + after, 0, len(coded) + len(after)) == (value, len(coded))


@quick
@given(st.binary(max_size=12), st.integers(0, 12))
def test_any_bytes_as_a_varint_give_a_number_or_a_drop_error(content: bytes, limit: int):
    """No bytes make the varint reader fail otherwise, read beyond its limit or give more than 64 bits."""
    limit = min(limit, len(content))
    if drop_code(lambda: read_varint(content, 0, limit)) is None:
        value, position = read_varint(content, 0, limit)
        assert 0 <= value < 2**64
        assert 0 < position <= limit


def test_the_mask_of_zero_is_the_formats_constant():
    """An empty tensor's stored checksum is the constant itself; crc32c has its published check value."""
    assert mask(0) == 0xA282EAD8
    assert crc32c(b"123456789") == 0xE3069283


@quick
@given(st.integers(0, 2**32 - 1))
def test_masks_round_trip(crc: int):
    """Unmasking undoes masking."""
    assert unmask(mask(crc)) == crc


@quick
@given(st.lists(st.binary(max_size=50), max_size=6))
def test_joined_checksums_are_the_checksum_of_the_whole(pieces: list[bytes]):
    """Checksums of pieces join to that of the pieces end to end."""
    assert joined_checksum((crc32c(piece), len(piece)) for piece in pieces) == crc32c(b"".join(pieces))


@quick
@given(int64, int64)
def test_ordered_signed_numbers_sort_like_the_numbers(a: int, b: int):
    """The codes of two numbers compare like the numbers."""
    assert (ordered_signed(a) < ordered_signed(b)) == (a < b)


@quick
@given(uint64, uint64)
def test_ordered_numbers_sort_like_the_numbers(a: int, b: int):
    """The codes of two natural numbers compare like the numbers."""
    assert (ordered_number(a) < ordered_number(b)) == (a < b)


@quick
@given(st.lists(st.sampled_from([0, 1, 97, 254, 255])), st.lists(st.sampled_from([0, 1, 97, 254, 255])))
def test_ordered_strings_sort_like_the_strings(a: list[int], b: list[int]):
    """The codes of two strings compare like the strings, those with 00 and ff too."""
    assert (ordered_string(bytes(a)) < ordered_string(bytes(b))) == (a < b)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "80"),
        (-1, "7f"),
        (63, "bf"),
        (64, "c040"),
        (-64, "40"),
        (-65, "3fbf"),
        (8191, "dfff"),
        (8192, "e02000"),
        (2**62 - 1, "ffbfffffffffffffff"),
        (2**62, "ffc04000000000000000"),
        (-(2**63), "003f8000000000000000"),
    ],
)
def test_ordered_signed_numbers_have_the_documented_bytes(value: int, code: str):
    """Codes of one byte and more, up to where the header reaches into the second byte."""
    assert ordered_signed(value).hex() == code


def test_a_slices_key_has_the_documented_bytes():
    """Rows 0 to 3 of three columns: the worked key."""
    assert slice_key(b"part", TensorSlice(((0, 4), (0, 3)))).hex() == "007061727400010102" + "80848083"
    assert slice_key(b"a\x00\xff", TensorSlice.parse("-")).hex() == "00" + "6100ffff000001" + "0101" + "807f"


keys = st.lists(st.binary(max_size=6) | st.text("ab", max_size=8).map(str.encode), unique=True, max_size=60).map(sorted)


@quick
@given(st.binary(max_size=8), st.binary(max_size=8))
def test_shared_bytes_is_the_common_prefix(a: bytes, b: bytes):
    """The length of the common start of two keys."""
    shared = shared_bytes(a, b)
    assert a[:shared] == b[:shared]
    assert shared == min(len(a), len(b)) or a[shared] != b[shared]


@quick
@given(st.binary(max_size=5), st.binary(max_size=5))
def test_separators_lie_between_the_keys(a: bytes, b: bytes):
    """A separator is not before the last key, before the next one, and no longer than the last key."""
    a, b = sorted((a, b))
    if a < b:
        separator = _separator(a, b)
        assert a <= separator < b
        assert len(separator) <= len(a)
    assert a <= _successor(a)


@quick
@given(keys, st.integers(16, 400))
def test_tables_round_trip(keys: list[bytes], block_bytes: int):
    """A table of any keys and block size reads back."""
    items = [(key, key[::-1] * 3) for key in keys]
    assert list(read_table(write_table(items, block_bytes))) == items


def test_a_table_refuses_keys_out_of_order():
    """Keys that do not ascend are a mistake of the caller."""
    for second in (b"a", b"b"):
        with pytest.raises(ValueError, match="does not come after"):
            write_table([(b"b", b""), (second, b"")])


def test_the_keys_of_a_table_ascend_from_block_to_block():
    """Two blocks in each other's place are sound, each by itself; the table is not."""
    whole = write_table([(b"a", b"1"), (b"b", b"2")], block_bytes=1)
    assert list(read_table(whole)) == [(b"a", b"1"), (b"b", b"2")]
    block = len(finish_block([b"\0\1\1a1"], [0]))
    swapped = whole[block : 2 * block] + whole[:block] + whole[2 * block :]
    assert drop_code(lambda: list(read_table(swapped))) == "bundle-corrupt"


def test_the_keys_of_a_table_are_limited_all_together(monkeypatch: pytest.MonkeyPatch):
    """As many bytes as the limit has, over all blocks, and not one more."""
    monkeypatch.setattr(table, "KEYS_LIMIT_BYTES", 12)
    items = [(b"key%03d" % number, b"") for number in range(3)]
    assert list(read_table(write_table(items[:2], block_bytes=1))) == items[:2]
    assert drop_code(lambda: list(read_table(write_table(items, block_bytes=1)))) == "bundle-corrupt"


@quick
@given(st.data())
def test_a_damaged_table_raises_only_drop_errors(data: st.DataObject):
    """One changed byte, or a cut, in a table of several blocks is found or harmless, never another exception."""
    items = [(b"key%03d" % index, b"value" * (index % 3)) for index in range(60)]
    whole = write_table(items, 200)
    cut = data.draw(st.integers(0, len(whole)))
    with pytest.raises(DropError) if cut < len(whole) else nullcontext():
        list(read_table(whole[:cut]))
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    if drop_code(lambda: list(read_table(flipped))) is None:
        # the metaindex block and the footer's padding hold nothing that anyone reads
        assert list(read_table(flipped)) == items


@quick
@given(st.binary(max_size=80))
def test_any_block_gives_entries_or_a_drop_error(content: bytes):
    """Bytes with a sound checksum but no sense never raise anything but DropError."""
    stored = finish_block((content,), ())
    table = content + b"\0" * 40 + bytes.fromhex("57fb808b247547db")
    assert drop_code(lambda: list(read_block(open_block(stored)))) in {None, "bundle-corrupt"}
    assert drop_code(lambda: list(read_table(table))) in {None, "bundle-corrupt"}


slices = st.lists(
    st.lists(st.just((0, -1)) | st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=3)
    .map(tuple)
    .map(TensorSlice),
    max_size=3,
).map(tuple)


@quick
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 2**20), max_size=2).map(tuple),
    st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**32 - 1)),
    slices,
)
def test_entries_are_what_protobuf_makes_of_them(dtype, shape, place, slices):
    """Our bytes are protobuf's for the same entry, and read back."""
    shard, offset, size, crc = place
    ours = encode_kind(dtype, shape, shard) + encode_place(offset, size, crc) + encode_slices(slices)
    proto = BundleEntryProto(dtype=dtype.enum, shard_id=shard, offset=offset, size=size, crc32c=crc)
    proto.shape.SetInParent()
    for dim in shape:
        proto.shape.dim.add(size=dim)
    for part in slices:
        extents = proto.slices.add()
        for start, length in part.extents:
            extent = extents.extent.add()
            if (start, length) != (0, -1):
                extent.start, extent.length = start, length
    assert ours == proto.SerializeToString(deterministic=True)
    entry = decode_entry(ours)
    assert (entry.dtype, entry.shape, entry.shard) == (dtype, shape, shard)
    assert (entry.offset, entry.size, entry.crc, entry.slices) == (offset, size, crc, slices)


@quick
@given(st.integers(1, 100_000))
def test_headers_are_what_protobuf_makes_of_them(shards: int):
    """The header's bytes are protobuf's, and read back."""
    proto = BundleHeaderProto(num_shards=shards)
    proto.version.producer = 1
    assert encode_header(shards) == proto.SerializeToString(deterministic=True)
    assert decode_header(encode_header(shards)).shards == shards


@quick
@given(st.binary(max_size=40))
def test_any_bytes_as_an_entry_give_an_entry_or_a_drop_error(content: bytes):
    """No bytes make the entry and header readers raise anything but DropError."""
    assert drop_code(lambda: decode_entry(content)) in {None, "bundle-corrupt", "dtype-unsupported"}
    assert drop_code(lambda: decode_header(content)) in {None, "bundle-corrupt"}


@quick
@given(st.lists(st.binary(max_size=200), max_size=20), st.data())
def test_strings_round_trip_and_damage_is_found(elements: list[bytes], data: st.DataObject):
    """String tensors read back; a changed byte anywhere is a DropError."""
    head, crc = encode_lengths([len(element) for element in elements])
    content = head + b"".join(elements)
    for element in elements:
        crc = crc32c(element, crc)

    def opened(content: bytes) -> list[bytes]:
        return list(StringElements(lambda at, count: content[at : at + count], len(content), len(elements), mask(crc)))

    assert opened(content) == elements
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DropError):
        opened(bytes(flipped))


def test_many_string_lengths_are_read_over_several_windows():
    """More lengths than one read takes: none is cut at the edge between two reads."""
    lengths = [index % 300 for index in range(900_000)]
    head, _ = encode_lengths(lengths)
    read = StringElements(
        lambda at, count: head[at : at + count].ljust(count, b"\0"), len(head) + sum(lengths), len(lengths), 0
    )
    assert read.lengths == lengths


@quick
@given(st.lists(st.integers(1, 7), max_size=4), st.integers(1, 30))
def test_chunk_boxes_are_runs_that_cover_the_shape_in_order(shape: list[int], elements: int):
    """The boxes, one after the other, are the elements of the whole in row-major order."""
    whole = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    runs = [
        whole[tuple(slice(start, start + length) for start, length in box)].reshape(-1)
        for box in chunk_boxes(shape, elements)
    ]
    assert all(len(run) <= elements for run in runs)
    assert np.concatenate(runs).tolist() == whole.reshape(-1).tolist()


def test_fields_that_are_left_out_or_unknown_are_taken_as_protobuf_has_them():
    """No dtype is no dtype; a dimension without a size is 0; numbers of fixed width that we do not know are passed over."""
    assert drop_code(lambda: decode_entry(b"")) == "dtype-unsupported"
    unknown = b"\x79" + bytes(8) + b"\x7d" + bytes(4)
    entry = decode_entry(unknown + b"\x08\x01" + b"\x12\x02\x12\x00" + unknown + b"\x12\x04\x12\x02\x08\x03")
    assert (entry.dtype.name, entry.shape) == ("float32", (0, 3))
    assert drop_code(lambda: decode_entry(b"\x08\x01\x12\x02\x18\x01")) == "bundle-corrupt"  # of unknown rank
    # of known rank, and with a field that we do not know
    assert decode_entry(b"\x08\x01\x12\x04\x18\x00\x20\x01").shape == ()
    for cut in range(1, len(unknown)):
        if cut != 9:
            assert drop_code(lambda cut=cut: decode_entry(b"\x08\x01" + unknown[:cut])) == "bundle-corrupt"


def test_limits_of_shapes_are_the_last_that_are_taken():
    """As many dimensions and elements as TensorFlow has, and not one more."""

    def shape(*sizes: int) -> bytes:
        dims = b"".join(b"\x12" + varint(1 + len(varint(size))) + b"\x08" + varint(size) for size in sizes)
        return b"\x08\x01\x12" + varint(len(dims)) + dims

    assert len(decode_entry(shape(*[1] * RANK_LIMIT)).shape) == RANK_LIMIT
    assert drop_code(lambda: decode_entry(shape(*[1] * (RANK_LIMIT + 1)))) == "bundle-corrupt"
    assert decode_entry(shape(ELEMENTS_LIMIT)).shape == (ELEMENTS_LIMIT,)
    assert drop_code(lambda: decode_entry(shape(ELEMENTS_LIMIT, 2))) == "bundle-corrupt"


def test_unknown_dtypes_are_refused_by_name_and_number():
    """A dtype TensorFlow does not store has its own code."""
    for number in (0, 20, 21, 101):
        with pytest.raises(DropError) as caught:
            decode_entry(b"\x08" + varint(number))
        assert caught.value.code == "dtype-unsupported"
    with pytest.raises(DropError):
        dtype_named("float128")
