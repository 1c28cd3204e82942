"""The reader: lazy, bounded, and never surprised by what a file holds."""

import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_cases import GOLDEN, SMALL, drop_code
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.tensorbundle import ArrayTensor, BundleReader, PartitionedTensor, TensorSlice, dtype_named, write_bundle
from smdaemon.tensorbundle.checksum import crc32c, mask
from smdaemon.tensorbundle.coding import varint
from smdaemon.tensorbundle.entries import encode_header, encode_kind, encode_place, encode_slices
from smdaemon.tensorbundle.reader import NUMPY_RANK_LIMIT
from smdaemon.tensorbundle.slices import slice_key
from smdaemon.tensorbundle.stored import DirectShard
from smdaemon.tensorbundle.table import write_table
from smdaemon.tensorbundle.tensors import CHUNK_BYTES

FLOAT32 = dtype_named("float32")
STRING = dtype_named("string")


def code_of(action: Callable[[], object]) -> str:
    """The code of the DropError that `action` raises."""
    with pytest.raises(DropError) as caught:
        action()
    return caught.value.code


def craft(prefix: Path, items: dict[bytes, bytes], data: bytes = b"", shards: int = 1) -> Path:
    """A bundle of these raw entries."""
    index = write_table(sorted({b"": encode_header(shards), **items}.items()))
    Path(f"{prefix}.index").write_bytes(index)
    Path(f"{prefix}.data-00000-of-{shards:05d}").write_bytes(data)
    return prefix


def read_all(prefix: Path) -> None:
    """Everything that a reader offers."""
    with BundleReader(prefix) as reader:
        names = reader.keys()
        for key in names:
            reader.entry(key)
            reader.array(key)
        list(reader.entries())
        reader.verify()


def test_tensors_are_streams_of_bounded_buffers(tmp_path: Path):
    """A large tensor comes in buffers of at most 4 MiB; nbytes and entry agree with them."""
    array = np.arange(3_000_000, dtype=np.float32)
    write_bundle(tmp_path / "v", {"x": ArrayTensor(array)}, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        tensor = reader.tensor("x")
        pieces = [bytes(buffer) for buffer in tensor.buffers()]
        assert max(map(len, pieces)) == 4 << 20
        assert b"".join(pieces) == array.tobytes()
        assert tensor.nbytes == reader.entry("x").size == array.nbytes


@pytest.mark.parametrize("parts", [1, 2])
def test_an_array_of_many_chunks_is_read_as_a_whole(parts: int, tmp_path: Path):
    """Also where it is put together from slices; and its checksum is that of all chunks."""
    array = np.random.default_rng(0).integers(0, 1 << 30, 3_000_000, np.int32).reshape(2, -1)
    made: ArrayTensor | PartitionedTensor = ArrayTensor(array)
    if parts > 1:
        halves = [(TensorSlice.parse(f"{row},1:-"), ArrayTensor(array[row : row + 1])) for row in range(2)]
        made = PartitionedTensor(made.dtype, array.shape, halves)
    write_bundle(tmp_path / "v", {"x": made}, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        np.testing.assert_array_equal(reader.array("x"), array)
    data = tmp_path / "v.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    with BundleReader(tmp_path / "v") as reader:
        assert code_of(lambda: reader.array("x")) == "bundle-corrupt"


def test_a_read_that_is_cut_short_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel may give less than was asked for; less again is asked for then."""
    array = np.arange(1000, dtype=np.int16)
    write_bundle(tmp_path / "v", {"x": ArrayTensor(array)}, sync=False)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: whole(fd, [views[0][:300]], offset))
    with BundleReader(tmp_path / "v") as reader:
        np.testing.assert_array_equal(reader.array("x"), array)


def test_a_bundle_copies_into_a_bundle(tmp_path: Path):
    """A reader's tensors are what a writer takes: with slices joined, the copy holds the same values."""
    for case in SMALL:
        with BundleReader(GOLDEN / case) as reader:
            names = reader.keys()
            write_bundle(tmp_path / case, {key: reader.tensor(key) for key in names}, shards=2, sync=False)
            with BundleReader(tmp_path / case) as copy:
                copy.verify()
                for key in names:
                    assert copy.array(key).tolist() == reader.array(key).tolist()


def test_slices_join_in_bounded_chunks(tmp_path: Path):
    """A partitioned tensor larger than a buffer, cut along both dimensions, over several data files."""
    whole = np.arange(1500 * 1200, dtype=np.float32).reshape(1500, 1200)
    parts = [
        (TensorSlice(((row, 500), (column, 600))), ArrayTensor(whole[row : row + 500, column : column + 600]))
        for row in (0, 500, 1000)
        for column in (0, 600)
    ]
    write_bundle(tmp_path / "v", {"x": PartitionedTensor(FLOAT32, whole.shape, parts)}, shards=3, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        assert all(len(buffer) <= 4 << 20 for buffer in reader.tensor("x").buffers())
        np.testing.assert_array_equal(reader.array("x"), whole)
        assert reader.keys() == ["x"]
        assert len(reader.entry("x").slices) == 6


def test_strings_come_as_elements():
    """string_elements gives the elements; of other tensors there are none."""
    with BundleReader(GOLDEN / "strings") as reader:
        assert reader.string_elements("schlüssel/été") == [b"value"]
        assert reader.tensor("column").nbytes == sum(map(len, reader.string_elements("column")))
    with BundleReader(GOLDEN / "dtypes") as reader:
        assert code_of(lambda: reader.string_elements("bool/scalar")) == "bundle-corrupt"


def test_absent_keys_are_key_errors():
    """As with any mapping."""
    with BundleReader(GOLDEN / "strings") as reader:
        assert "column" in reader
        assert "nothing" not in reader
        for ask in (reader.entry, reader.tensor, reader.array):
            with pytest.raises(KeyError, match="nothing"):
                ask("nothing")


def test_missing_files_have_codes_of_their_own(tmp_path: Path):
    """No index; no data file that is needed; a data file that is not needed may be missing."""
    assert code_of(lambda: BundleReader(tmp_path / "v")) == "source-missing"
    write_bundle(tmp_path / "v", {"x": ArrayTensor(np.ones(3))}, shards=2, sync=False)
    Path(f"{tmp_path / 'v'}.data-00000-of-00002").unlink()
    read_all(tmp_path / "v")
    Path(f"{tmp_path / 'v'}.data-00001-of-00002").unlink()
    assert code_of(lambda: read_all(tmp_path / "v")) == "bundle-missing-shard"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path):
    """A FIFO or a directory in the place of a file is an error at once."""
    os.mkfifo(tmp_path / "v.index")
    assert code_of(lambda: BundleReader(tmp_path / "v")) == "bundle-corrupt"
    (tmp_path / "w.index").mkdir()
    assert code_of(lambda: BundleReader(tmp_path / "w")) == "bundle-corrupt"
    craft(tmp_path / "x", {b"a": encode_kind(FLOAT32, (1,)) + encode_place(0, 4, 1)})
    (tmp_path / "x.data-00000-of-00001").unlink()
    os.mkfifo(tmp_path / "x.data-00000-of-00001")
    assert code_of(lambda: read_all(tmp_path / "x")) == "bundle-corrupt"


def test_a_sparse_index_is_refused_by_its_size(tmp_path: Path):
    """An index that claims terabytes is never read."""
    with (tmp_path / "v.index").open("wb") as file:
        file.truncate(1 << 40)
    assert code_of(lambda: BundleReader(tmp_path / "v")) == "bundle-corrupt"


@pytest.mark.parametrize(
    "entry",
    [
        encode_kind(FLOAT32, (2,)) + encode_place(0, 8, 1),
        encode_kind(FLOAT32, (2,)) + encode_place(8, 8, 1),
        encode_kind(FLOAT32, (2,)) + encode_place(1 << 62, 8, 1),
        encode_kind(FLOAT32, (2,)) + encode_place(0, 7, 1),
        encode_kind(FLOAT32, (1 << 40,)) + encode_place(0, 8, 1),
        encode_kind(FLOAT32, (1 << 40, 1 << 40)) + encode_place(0, 8, 1),
        encode_kind(FLOAT32, (0, 1 << 62)),
        encode_kind(FLOAT32, (1,) * 255) + encode_place(0, 4, 1),
        encode_kind(FLOAT32, (2,), shard=1) + encode_place(0, 8, 1),
        encode_kind(FLOAT32, (2,)) + b"\x20" + varint((1 << 64) - 8) + b"\x28\x08",
        encode_kind(FLOAT32, ()) + b"\x12\x02\x18\x01",
        encode_kind(STRING, (1 << 40,)) + encode_place(0, 8, 1),
        encode_kind(STRING, (3,)) + encode_place(0, 8, 1),
        encode_kind(STRING, (5,)) + encode_place(0, 8, 1),
        encode_kind(STRING, ()) + encode_place(0, 3, 1),
        encode_kind(STRING, ()),
        encode_kind(FLOAT32, (2,)) + encode_slices([TensorSlice.parse("0,1"), TensorSlice.parse("1,1")]),
        encode_kind(FLOAT32, (2,)) + encode_slices([TensorSlice.parse("0,1")]),
        encode_kind(FLOAT32, (2,)) + encode_slices([TensorSlice.parse("5,2")]),
        encode_kind(FLOAT32, (2,)) + encode_slices([TensorSlice.parse("-:-")]),
        encode_kind(FLOAT32, (1,) * 100) + encode_slices([TensorSlice(((0, -1),) * 100)]),
        b"\x08",
        b"\x0f",
    ],
)
def test_entries_that_lie_are_found_before_they_are_believed(entry: bytes, tmp_path: Path):
    """Places outside the data file, shapes that do not fit, slices that are not there."""
    craft(tmp_path / "v", {b"x": entry}, b"\1\2\3\4\5\6\7\xff")
    with BundleReader(tmp_path / "v") as reader:
        assert code_of(lambda: reader.array("x")) == "bundle-corrupt"
        assert code_of(reader.verify) == "bundle-corrupt"
        with pytest.raises(DropError, match="'x'"):
            reader.verify()


def test_ranks_beyond_numpys_can_still_be_streamed(tmp_path: Path):
    """TensorFlow's rank limit is above numpy's: the bytes can be had, an array cannot."""
    craft(tmp_path / "v", {b"x": encode_kind(FLOAT32, (1,) * 70) + encode_place(0, 4, 1)}, bytes(4))
    with BundleReader(tmp_path / "v") as reader:
        assert reader.tensor("x").nbytes == 4
        assert code_of(lambda: reader.array("x")) == "bundle-invalid"


def test_numpys_rank_is_the_last_that_makes_an_array(tmp_path: Path):
    """Slices are put together up to the rank before it."""
    whole = (1,) * NUMPY_RANK_LIMIT
    write_bundle(tmp_path / "v", {"x": ArrayTensor(np.full(whole, 7, np.int32))}, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        assert reader.array("x").shape == whole
    for rank, code in ((NUMPY_RANK_LIMIT - 1, None), (NUMPY_RANK_LIMIT, "bundle-corrupt")):
        shape = (2,) + (1,) * (rank - 1)
        rest = ":-" * (rank - 1)
        halves = [
            (TensorSlice.parse(f"{row},1{rest}"), ArrayTensor(np.full((1, *shape[1:]), row, np.int32)))
            for row in range(2)
        ]
        write_bundle(tmp_path / f"s{rank}", {"x": PartitionedTensor(dtype_named("int32"), shape, halves)}, sync=False)
        with BundleReader(tmp_path / f"s{rank}") as reader:
            assert drop_code(lambda reader=reader: reader.array("x")) == code


# data file, offset and bytes of each of two slices
@pytest.mark.parametrize(
    ("places", "shared"),
    [
        (((0, 0, 8), (0, 0, 8)), True),
        (((0, 4, 8), (0, 0, 8)), True),
        (((1, 0, 8), (1, 4, 8)), True),
        (((0, 8, 8), (0, 0, 8)), False),
        (((0, 0, 8), (1, 0, 8)), False),
    ],
)
def test_slices_that_share_their_bytes_are_refused(
    places: tuple[tuple[int, int, int], ...], shared: bool, tmp_path: Path
):
    """Otherwise a small file could unfold into a tensor of any size. What only touches is not shared."""
    slices = [TensorSlice.parse("0,2"), TensorSlice.parse("2,2")]
    crc = mask(crc32c(bytes(8)))
    pieces = [encode_kind(FLOAT32, (2,), shard) + encode_place(offset, size, crc) for shard, offset, size in places]
    items = {slice_key(b"x", part): piece for part, piece in zip(slices, pieces, strict=True)}
    craft(tmp_path / "v", {b"x": encode_kind(FLOAT32, (4,)) + encode_slices(slices), **items}, bytes(16), shards=2)
    (tmp_path / "v.data-00001-of-00002").write_bytes(bytes(16))
    with BundleReader(tmp_path / "v") as reader:
        if shared:
            with pytest.raises(DropError, match="share bytes") as caught:
                reader.array("x")
            assert caught.value.code == "bundle-corrupt"
        else:
            assert reader.array("x").tolist() == [0.0] * 4


@pytest.mark.parametrize("wrong", ["dtype", "shape", "slices"])
def test_a_slice_that_does_not_fit_its_tensor_is_refused(wrong: str, tmp_path: Path):
    """Of another type, of another shape, or itself made of slices."""
    slices = [TensorSlice.parse("0,2"), TensorSlice.parse("2,2")]
    crc = mask(crc32c(bytes(8)))
    good, place = encode_kind(FLOAT32, (2,)), encode_place(8, 8, crc)
    bad = {
        "dtype": encode_kind(dtype_named("int32"), (2,)) + place,
        "shape": encode_kind(FLOAT32, (1, 2)) + place,
        "slices": good + place + encode_slices(slices),
    }[wrong]
    items = {slice_key(b"x", slices[0]): good + encode_place(0, 8, crc), slice_key(b"x", slices[1]): bad}
    craft(tmp_path / "v", {b"x": encode_kind(FLOAT32, (4,)) + encode_slices(slices), **items}, bytes(16))
    with BundleReader(tmp_path / "v") as reader, pytest.raises(DropError, match="another dtype or shape"):
        reader.array("x")


@pytest.mark.parametrize(
    "header", [b"", b"\x08\x00", b"\x08\x01\x10\x01", b"\x08\x01\x1a\x02\x10\x02", b"\x08" + b"\xff" * 9 + b"\x01"]
)
def test_headers_that_cannot_be_obeyed_are_refused(header: bytes, tmp_path: Path):
    """No shards, big-endian, a newer reader wanted, a negative count."""
    Path(tmp_path / "v.index").write_bytes(write_table([(b"", header)]))
    assert code_of(lambda: BundleReader(tmp_path / "v")) == "bundle-corrupt"
    Path(tmp_path / "v.index").write_bytes(write_table([(b"a", header)]))
    assert code_of(lambda: BundleReader(tmp_path / "v")) == "bundle-corrupt"


def test_a_wrong_checksum_names_its_tensor(tmp_path: Path):
    """One changed bit of data is found by verify, by array and by streaming."""
    write_bundle(tmp_path / "v", {name: ArrayTensor(np.ones(10)) for name in "abc"}, sync=False)
    path = tmp_path / "v.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with BundleReader(tmp_path / "v") as reader:
        reader.array("a")
        for action in (reader.verify, lambda: reader.array("b"), lambda: list(reader.tensor("b").buffers())):
            with pytest.raises(DropError, match="'b'") as caught:
                action()
            assert caught.value.code == "bundle-corrupt"


def test_a_data_file_cut_while_it_is_read_is_an_error(tmp_path: Path):
    """The file becomes shorter after it was opened: an error, no crash."""
    write_bundle(tmp_path / "v", {"x": ArrayTensor(np.ones(100))}, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        tensor = reader.tensor("x")
        os.truncate(tmp_path / "v.data-00000-of-00001", 10)
        assert code_of(lambda: list(tensor.buffers())) == "source-changed"


def test_verify_reports_every_byte():
    """`on_bytes` is told the bytes of every tensor and slice."""
    for case in SMALL:
        told: list[int] = []
        with BundleReader(GOLDEN / case) as reader:
            reader.verify(told.append)
            names = reader.keys()
            assert sum(told) == sum(reader.tensor(key).nbytes for key in names)


@pytest.mark.parametrize("case", SMALL)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bundles_raise_only_drop_errors(case: str, tmp_path: Path, data: st.DataObject):
    """A changed byte or a cut anywhere in either file: DropError, or nothing that is read."""
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(f"{GOLDEN / case}{suffix}", f"{tmp_path / case}{suffix}")
    victim = Path(f"{tmp_path / case}{data.draw(st.sampled_from(['.index', '.data-00000-of-00001']))}")
    content = bytearray(victim.read_bytes())
    if not content:
        return
    at = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.booleans())
    if cut:
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    victim.write_bytes(content)
    found = drop_code(lambda: read_all(tmp_path / case))
    # only the unread metaindex and padding of the index may change unseen
    assert found == "bundle-corrupt" or (found is None and victim.suffix == ".index" and not cut)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file of a little more than two windows, on a disk that takes direct reads if there is one."""
    path = tmp_path_factory.mktemp("direct") / "data"
    path.write_bytes(np.random.default_rng(5).bytes(2 * CHUNK_BYTES + 12_345))
    return path


@given(st.lists(st.tuples(st.integers(0, 2 * CHUNK_BYTES + 12_345), st.integers(0, CHUNK_BYTES + 10)), max_size=6))
def test_what_is_read_past_the_page_cache_is_what_is_there(long_file: Path, reads: list[tuple[int, int]]):
    """Anywhere, in any order, across windows and up to the end."""
    content = long_file.read_bytes()
    shard = DirectShard(long_file)
    try:
        for offset, wanted in reads:
            count = min(wanted, len(content) - offset)
            buffer = bytearray(count)
            shard.read_into(buffer, offset)
            assert buffer == content[offset : offset + count]
    finally:
        shard.close()


def test_a_window_that_is_read_in_pieces_is_what_is_there(long_file: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel may give fewer blocks than were asked for; one that is cut short ends the window."""
    content, whole = long_file.read_bytes(), os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: whole(fd, [views[0][: 3 * mmap.PAGESIZE]], offset))
    shard = DirectShard(long_file)
    try:
        buffer = bytearray(len(content))
        shard.read_into(buffer, 0)
        assert buffer == content
    finally:
        shard.close()


def test_a_bundle_is_verified_past_the_page_cache(tmp_path: Path):
    """Every golden bundle, a large one, and each with a byte changed; a file system without direct reads is read as it is."""
    write_bundle(
        tmp_path / "large", {"w": ArrayTensor(np.arange(3 << 20, dtype=np.float32)), "b": ArrayTensor(np.ones(3))}
    )
    for prefix in (*(GOLDEN / name for name in SMALL), tmp_path / "large"):
        with BundleReader(prefix, past_cache=True) as bundle:
            bundle.verify()
    data = Path(f"{tmp_path / 'large'}.data-00000-of-00001")
    with data.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    with BundleReader(tmp_path / "large", past_cache=True) as bundle:
        assert code_of(bundle.verify) == "bundle-corrupt"


def test_a_file_cut_while_it_is_read_past_the_page_cache_is_an_error(tmp_path: Path):
    """As one that is read through it."""
    path = tmp_path / "data"
    path.write_bytes(bytes(2 * CHUNK_BYTES))
    shard = DirectShard(path)
    os.truncate(path, CHUNK_BYTES + 10)
    with pytest.raises(DropError) as caught:
        shard.read_into(bytearray(100), CHUNK_BYTES)
    assert caught.value.code == "source-changed"
    shard.close()
