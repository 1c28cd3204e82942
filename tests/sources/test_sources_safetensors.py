"""safetensors, one file and sharded: what the reference writes is what we read; what it refuses we refuse."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from sources_builders import Value, open_descriptors, read_all, safetensors_bytes, value_of

from smdaemon.errors import DropError
from smdaemon.sources import safetensors
from smdaemon.sources.formats import format_named, open_source

ONE = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8"]).map(np.dtype)


def code_of(path):
    """The code that reading everything fails with."""
    with pytest.raises(DropError) as caught:
        read_all(path)
    return caught.value.code


@settings(deadline=None, max_examples=60)
@given(
    tensors=st.dictionaries(
        st.text("abc/._0", min_size=1, max_size=8).filter(lambda name: ".." not in name and name[0] != "/"),
        hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
        min_size=1,
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_every_file_of_the_reference_is_read(tensors, metadata, tmp_path_factory):
    """Any names, dtypes, shapes and metadata come back."""
    path = tmp_path_factory.getbasetemp() / "x.safetensors"
    save_file(tensors, path, metadata)
    assert read_all(path) == {name: value_of(array) for name, array in tensors.items()}
    with open_source(path) as source:
        assert source.metadata == metadata
        assert source.files() == (path,)
        assert source.format == "safetensors"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("BF16", "bfloat16"), ("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")],
)
def test_types_beyond_numpy(tmp_path, kind, name):
    """bfloat16 and float8 keep their bytes."""
    array = np.array([1.5, -2], getattr(ml_dtypes, name))
    entry = {"dtype": kind, "shape": [2], "data_offsets": [0, array.nbytes]}
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes({"x": entry}, array.tobytes()))
    assert read_all(tmp_path / "x.safetensors") == {"x": Value(name, (2,), array.tobytes())}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "source-truncated"),
        (b"\1\0\0", "source-truncated"),
        (struct.pack("<Q", 100_000_001), "source-header-too-large"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "source-header-too-large"),
        (struct.pack("<Q", 99) + b"{}", "source-truncated"),
        (safetensors_bytes(b""), "source-corrupt"),
        (safetensors_bytes(b"[]"), "source-corrupt"),
        (safetensors_bytes(b"{"), "source-corrupt"),
        (safetensors_bytes(b"\xff"), "source-corrupt"),
        (safetensors_bytes(b"[" * 100_000), "source-corrupt"),
        (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "source-corrupt"),
        (safetensors_bytes({}), "source-empty"),
        (safetensors_bytes({"__metadata__": {"a": "b"}}), "source-empty"),
        (safetensors_bytes({"__metadata__": {"a": 1}, "a": ONE}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"__metadata__": None, "a": ONE}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": 1}), "source-corrupt"),
        (safetensors_bytes({"a": {"dtype": "U8"}}), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "more": 1}}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "shape": [True, 2]}}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "shape": [-2, -1]}}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "shape": [3]}}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "shape": [2.0]}}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "shape": [0, 1 << 63], "data_offsets": [0, 0]}}), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "dtype": "F4", "data_offsets": [0, 1]}}, b"a"), "dtype-unsupported"),
        (safetensors_bytes({"a": {**ONE, "dtype": "Q7"}}, b"ab"), "dtype-unsupported"),
        (safetensors_bytes({"a": {**ONE, "data_offsets": [-2, 0]}}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": {**ONE, "data_offsets": [2, 4]}}, b"abcd"), "source-corrupt"),
        (safetensors_bytes({"a": ONE, "b": ONE}, b"ab"), "source-corrupt"),
        (safetensors_bytes({"a": ONE, "b": {**ONE, "data_offsets": [1, 3]}}, b"abc"), "source-corrupt"),
        (safetensors_bytes({"a": ONE}, b"a"), "source-truncated"),
        (safetensors_bytes({"a": ONE}, b"abc"), "source-corrupt"),
        (safetensors_bytes(b'{"a": %s, "a": %s}' % ((json.dumps(ONE).encode(),) * 2), b"ab"), "name-clash"),
        (safetensors_bytes({"../a": ONE}, b"ab"), "name-invalid"),
        (safetensors_bytes({"/a": ONE}, b"ab"), "name-invalid"),
        (safetensors_bytes({"": ONE}, b"ab"), "name-invalid"),
        (safetensors_bytes({"a\0b": ONE}, b"ab"), "name-invalid"),
        (safetensors_bytes({"\ud800": ONE}, b"ab"), "name-invalid"),
    ],
)
@pytest.mark.parametrize("long", [False, True])
def test_bad_safetensors(tmp_path, monkeypatch, content, code, long):
    """Each defect has its code."""
    monkeypatch.setattr(safetensors, "_LONG_HEADER_BYTES", 0 if long else 1 << 20)
    (tmp_path / "x.safetensors").write_bytes(content)
    assert code_of(tmp_path / "x.safetensors") == code


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ONE, "a": ONE}',
        '{"\\u0061": ONE, "a": ONE}',
        '{"a": {"dtype": "U8", "dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}',
        '{"a": {"\\u0064type": "U8", "dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}',
        '{"a": {"dtype": "U8", "shape": [2], "shape": [2], "data_offsets": [0, 2]}}',
        '{"__metadata__": {}, "a": ONE, "__metadata__": {}}',
        '{"__metadata__": {"x": "1", "x": "2"}, "a": ONE}',
    ],
)
@pytest.mark.parametrize("long", [False, True])
def test_what_is_given_twice_is_refused_however_it_is_written(tmp_path, monkeypatch, text, long):
    """A reader that keeps the last, or the first, would read other values than the next one. Also where the header is decoded as a long one."""
    monkeypatch.setattr(safetensors, "_LONG_HEADER_BYTES", 0 if long else 1 << 20)
    header = text.replace("ONE", json.dumps(ONE)).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"xy")
    assert code_of(tmp_path / "x.safetensors") == "name-clash"


@pytest.mark.parametrize("name", ["dtype", "data_offsets", "shape", 'a"shape"', "a\\b", "ü", "__metadata"])
@pytest.mark.parametrize("long", [False, True])
def test_names_that_look_like_the_header_itself(tmp_path, monkeypatch, name, long):
    """They are names like any other, also in the metadata, and in a header that is decoded as a long one."""
    monkeypatch.setattr(safetensors, "_LONG_HEADER_BYTES", 0 if long else 1 << 20)
    header = json.dumps({"__metadata__": {name: name}, name: ONE}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"xy")
    assert read_all(tmp_path / "x.safetensors") == {name: Value("uint8", (2,), b"xy")}


def test_every_prefix_is_incomplete(tmp_path):
    """The file is complete at its last byte, not before; opening a prefix is a DropError."""
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(3), "b": np.zeros((0,))}, path)
    known = format_named("safetensors")
    assert known.is_complete(path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert not known.is_complete(path)
        assert code_of(path) == "source-truncated"


@settings(deadline=None, max_examples=300)
@given(at=st.floats(0, 1, exclude_max=True), new=st.integers(0, 255))
def test_flipped_bytes_are_refused_where_the_reference_refuses_them(at, new, tmp_path_factory):
    """A changed byte of the header never gives a tensor that the reference reader would not give."""
    entries = {"a": ONE, "b": {"dtype": "F32", "shape": [], "data_offsets": [2, 6]}}
    content = bytearray(safetensors_bytes({"__metadata__": {"step": "3"}, **entries}, b"abcdef"))
    content[int(at * len(content))] = new
    path = tmp_path_factory.getbasetemp() / "flip.safetensors"
    path.write_bytes(content)
    try:
        ours = read_all(path)
    except DropError:
        return
    try:
        with safe_open(path, "numpy") as theirs:
            names = set(theirs.keys())
    except SafetensorError:
        pytest.fail(f"the reference refuses {bytes(content)!r}")
    assert set(ours) == names


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint of two shards with its index."""
    save_file({"a": np.arange(3)}, tmp_path / "m-00001-of-00002.safetensors", {"step": "7", "format": "np"})
    save_file({"b": np.ones((2, 2))}, tmp_path / "m-00002-of-00002.safetensors")
    weight_map = {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 56, "step": 8}, "weight_map": weight_map}))
    return index


def test_shards_are_one_source(sharded):
    """The tensors of all shards come under their names; the index's own metadata goes before the shards'."""
    assert read_all(sharded) == {"a": value_of(np.arange(3)), "b": value_of(np.ones((2, 2)))}
    assert format_named("safetensors-sharded").is_complete(sharded)
    with open_source(sharded) as source:
        assert source.metadata == {"total_size": "56", "step": "8", "format": "np"}
        assert len(source.files()) == 3


def test_many_shards_need_few_descriptors(tmp_path):
    """A checkpoint of more shards than are kept open is read shard by shard."""
    weight_map = {}
    for number in range(70):
        save_file({f"t{number}": np.arange(3)}, tmp_path / f"s{number}.safetensors")
        weight_map[f"t{number}"] = f"s{number}.safetensors"
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    before = open_descriptors()
    with open_source(tmp_path / "x.safetensors.index.json") as source:
        assert open_descriptors() == before + 1
    assert len(read_all(tmp_path / "x.safetensors.index.json")) == 70
    assert len(source.tensors) == 70


def test_sharded_is_complete_with_its_last_shard(sharded):
    """A missing or a partial shard, or half an index, is incomplete; opening it is a DropError."""
    known = format_named("safetensors-sharded")
    shard = sharded.parent / "m-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert not known.is_complete(sharded)
    assert code_of(sharded) == "source-truncated"
    shard.unlink()
    assert not known.is_complete(sharded)
    assert code_of(sharded) == "source-missing"
    shard.write_bytes(whole)
    text = sharded.read_bytes()
    for end in range(len(text)):
        sharded.write_bytes(text[:end])
        assert code_of(sharded) == "source-corrupt"
        try:
            assert not known.is_complete(sharded)
        except DropError:
            assert text[:end].endswith(b"}")


@pytest.mark.parametrize(
    ("index", "code"),
    [
        ([], "source-corrupt"),
        ({}, "source-corrupt"),
        ({"weight_map": []}, "source-corrupt"),
        ({"weight_map": {"a": 1}}, "source-corrupt"),
        ({"weight_map": {}}, "source-empty"),
        ({"weight_map": {"a": "../m.safetensors"}}, "name-invalid"),
        ({"weight_map": {"a": "/etc/passwd"}}, "name-invalid"),
        ({"weight_map": {"a": "sub/m.safetensors"}}, "name-invalid"),
        ({"weight_map": {"a": ".."}}, "name-invalid"),
        ({"weight_map": {"a": ""}}, "name-invalid"),
        ({"weight_map": {"a": "m\0.safetensors"}}, "name-invalid"),
        ({"weight_map": {"a": "m\ud800.safetensors"}}, "name-invalid"),
        ({"weight_map": {"a": f"{'m' * 256}.safetensors"}}, "source-missing"),
        ({"weight_map": {"a": "m-00001-of-00002.safetensors"}, "metadata": []}, "source-corrupt"),
        ({"weight_map": {"a": "m-00001-of-00002.safetensors", "c": "m-00001-of-00002.safetensors"}}, "source-corrupt"),
        ({"weight_map": {"a": "m-00002-of-00002.safetensors"}}, "source-corrupt"),
        ({"weight_map": {"c": "m-00001-of-00002.safetensors"}}, "source-corrupt"),
        ({"weight_map": {"a": "link.safetensors"}}, "source-not-regular"),
    ],
)
def test_bad_index(sharded, index, code):
    """Each defect of an index has its code; the names in it never leave its directory."""
    (sharded.parent / "link.safetensors").symlink_to("m-00001-of-00002.safetensors")
    sharded.write_text(json.dumps(index))
    assert code_of(sharded) == code
