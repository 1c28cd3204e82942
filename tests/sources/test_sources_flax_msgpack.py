"""flax msgpack: what flax writes is what we read, without loading it; what flax would not write is refused."""

import os
import struct
import tracemalloc

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sources_builders import Value, open_descriptors, read_all, value_of

from smdaemon.errors import DropError
from smdaemon.sources import flax_msgpack, msgpack_tree
from smdaemon.sources.formats import claiming, format_named, open_source

FORMAT = format_named("flax-msgpack")
DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]).map(
    np.dtype
)
NAMES = st.text("abc._0", min_size=1, max_size=6).filter(lambda name: ".." not in name)
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(), st.complex_numbers(), st.just(np.float32(1.5))
)


@pytest.fixture(scope="module")
def flax():
    """flax.serialization."""
    import flax.serialization

    return flax.serialization


def packed(dtype, shape, data, *, raw_shape=None):
    """What an extension of flax holds."""
    return msgpack.packb((raw_shape or list(shape), dtype, data), use_bin_type=True)


def array(values):
    """A numpy array as flax packs it."""
    return msgpack.ExtType(1, packed(values.dtype.name, values.shape, values.tobytes()))


def code_of(path):
    """The code that reading everything fails with."""
    with pytest.raises(DropError) as caught:
        read_all(path)
    return caught.value.code


@settings(deadline=None, max_examples=80)
@given(
    tree=st.recursive(
        st.dictionaries(
            NAMES,
            st.one_of(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)), NUMBERS),
            min_size=1,
            max_size=4,
        ),
        lambda below: st.dictionaries(NAMES, below, min_size=1, max_size=3),
        max_leaves=6,
    )
)
def test_every_tree_that_flax_writes_is_read(tree, flax, tmp_path_factory):
    """Arrays and numbers come back bit by bit, under the path of their keys, as numpy takes what flax restores."""
    path = tmp_path_factory.getbasetemp() / "x.msgpack"
    path.write_bytes(flax.msgpack_serialize(tree))
    restored = flax.msgpack_restore(path.read_bytes())
    expected = {}

    def flatten(node, name):
        for key, child in node.items():
            if isinstance(child, dict):
                flatten(child, f"{name}{key}/")
            else:
                expected[f"{name}{key}"] = value_of(np.asarray(child))

    flatten(restored, "")
    assert read_all(path) == expected
    assert FORMAT.is_complete(path)


def test_a_train_state_is_read(flax, tmp_path):
    """Parameters, the optimizer's state and the step, from jax arrays; the step is metadata, too."""
    import jax.numpy as jnp
    import optax
    from flax.training.train_state import TrainState

    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3)).replace(step=jnp.int32(7))
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(flax.to_bytes(state))
    values = read_all(path)
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert values["params/dense/kernel"] == value_of(kernel)
    assert values["params/dense/bias"] == value_of(np.ones(3, ml_dtypes.bfloat16))
    assert values["opt_state/0/mu/dense/kernel"] == value_of(kernel * 0)
    assert values["opt_state/0/count"] == value_of(np.int32(0))
    assert values["step"] == value_of(np.int32(7))
    with open_source(path) as source:
        assert source.metadata == {"step": "7"}
        assert source.format == "flax-msgpack"
        assert source.files() == (path,)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "int4", "uint4"])
def test_types_beyond_numpy(flax, tmp_path, name):
    """The dtype names of ml_dtypes keep their bytes."""
    values = np.array([1.5, 2, 3]).astype(getattr(ml_dtypes, name))
    (tmp_path / "x.msgpack").write_bytes(flax.msgpack_serialize({"x": values}))
    assert read_all(tmp_path / "x.msgpack") == {"x": Value(name, (3,), values.tobytes())}


def test_leaves_that_are_no_numbers(flax, tmp_path):
    """Strings are metadata under their names; None, bytes, long strings and what is empty are left out; lists have indices."""
    tree = {
        "a": np.arange(2),
        "name": "hello",
        "none": None,
        "raw": b"bytes",
        "long": "x" * 2000,
        "empty": {},
        "list": [np.arange(3), {"b": 4}],
        "global_step": 9,
        "keys": {3: 2.5},
    }
    (tmp_path / "x.msgpack").write_bytes(flax.msgpack_serialize(tree))
    assert set(read_all(tmp_path / "x.msgpack")) == {"a", "list/0", "list/1/b", "global_step", "keys/3"}
    with open_source(tmp_path / "x.msgpack") as source:
        assert source.metadata == {"name": "hello", "global_step": "9"}


def test_a_number_keeps_its_bits(tmp_path):
    """A NaN's payload too; short floats, which other packers write, become float64."""
    nan = b"\x7f\xf4\x00\x00\x00\x00\xbe\xef"
    (tmp_path / "x.msgpack").write_bytes(b"\x82\xa1a\xcb" + nan + b"\xa1b\xca" + struct.pack(">f", 0.5))
    values = read_all(tmp_path / "x.msgpack")
    assert values == {"a": Value("float64", (), nan[::-1]), "b": value_of(np.float64(0.5))}


def test_an_array_that_flax_split_is_one(flax, tmp_path, monkeypatch):
    """Its pieces are joined in order, more than ten of them, whatever their size."""
    monkeypatch.setattr(flax, "MAX_CHUNK_SIZE", 40)
    values = {"big": np.arange(120.0).reshape(4, 5, 6), "bf": np.arange(300).astype(ml_dtypes.bfloat16)}
    content = flax.msgpack_serialize({"params": values})
    assert content.count(b"__msgpack_chunked_array__") == 2
    (tmp_path / "x.msgpack").write_bytes(content)
    expected = {f"params/{name}": value_of(value) for name, value in values.items()}
    assert read_all(tmp_path / "x.msgpack") == expected


def huge(path):
    """A sparse file of 10 GiB as flax would split it."""
    piece = 1 << 30
    head = packed("uint8", (piece,), b"")[:-2] + b"\xc6" + struct.pack(">I", piece)
    with path.open("wb") as file:
        file.write(b"\x82\xa3big" + b"\x83" + msgpack.packb("__msgpack_chunked_array__") + b"\xc3")
        file.write(msgpack.packb("shape") + msgpack.packb({"0": 10, "1": piece}) + msgpack.packb("chunks") + b"\x8a")
        for number in range(10):
            file.write(msgpack.packb(str(number)) + b"\xc9" + struct.pack(">Ib", len(head) + piece, 1) + head)
            file.seek(piece, os.SEEK_CUR)
        file.write(msgpack.packb("end") + msgpack.packb(1))


def test_a_file_of_10_gib_is_opened_without_being_read(tmp_path):
    """Opening takes the structure only; a value streams in small buffers."""
    huge(tmp_path / "x.msgpack")
    assert (tmp_path / "x.msgpack").stat().st_size > 10 << 30
    tracemalloc.start()
    with open_source(tmp_path / "x.msgpack") as source:
        tensor = source.tensors["big"]
        assert (tensor.shape, tensor.nbytes) == ((10, 1 << 30), 10 << 30)
        buffers = tensor.buffers()
        assert sum(len(next(buffers)) for _ in range(10)) == 10 << 20
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_every_prefix_is_incomplete(flax, tmp_path):
    """The file is complete at its last byte, not before and not behind; opening a prefix is a DropError."""
    path = tmp_path / "x.msgpack"
    tree = {"a": np.arange(3), "b": {"c": np.float32(2), "d": 2j, "e": [1, None, "text"]}, "n": -7, "f": 1e300}
    whole = flax.msgpack_serialize(tree)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert not FORMAT.is_complete(path)
        assert code_of(path) == "source-truncated"
    path.write_bytes(whole)
    assert FORMAT.is_complete(path)
    path.write_bytes(whole + b"\0")
    assert code_of(path) == "source-corrupt"
    with pytest.raises(DropError, match="ends at byte"):
        FORMAT.is_complete(path)


@settings(deadline=None, max_examples=400)
@given(at=st.floats(0, 1, exclude_max=True), new=st.integers(0, 255))
def test_a_flipped_byte_is_another_tree_or_a_drop_error(flax, at, new, tmp_path_factory):
    """Whatever stands in the file, reading gives values or a DropError; and where we read, flax restores."""
    tree = {
        "a": np.arange(3, dtype="i2"),
        "b": {"c": np.float32(2), "d": 2j, "e": [1, None]},
        "n": -7,
        "f": 1e300,
        "s": "t",
    }
    content = bytearray(flax.msgpack_serialize(tree))
    content[int(at * len(content))] = new
    path = tmp_path_factory.getbasetemp() / "flipped.msgpack"
    path.write_bytes(content)
    try:
        read_all(path)
    except DropError:
        return
    flax.msgpack_restore(bytes(content))


@settings(deadline=None, max_examples=300)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_values_or_a_drop_error(content, tmp_path_factory):
    """No other exception comes out, of opening or of asking whether it is complete."""
    path = tmp_path_factory.getbasetemp() / "any.msgpack"
    path.write_bytes(content)
    for act in (read_all, FORMAT.is_complete):
        try:
            act(path)
        except DropError:
            continue


ONE = array(np.arange(2, dtype="u1"))


def split(**changes):
    """A map that says it is a split array of two pieces."""
    return {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 2},
        "chunks": {"0": ONE, "1": ONE},
        **changes,
    }


def ext(content, kind=1):
    """An object of an extension type."""
    return msgpack.ExtType(kind, content)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "source-truncated"),
        (b"\xc1", "source-corrupt"),
        ({}, "source-empty"),
        (None, "source-empty"),
        ({"a": None, "b": "text"}, "source-empty"),
        (1, "name-invalid"),
        (ONE, "name-invalid"),
        ({"a": ext(b"x", 7)}, "source-corrupt"),
        ({"a": ext(b"")}, "source-corrupt"),
        ({"a": ext(b"\x93")}, "source-corrupt"),
        ({"a": ext(packed("uint8", (2,), b"ab") + b"x")}, "source-corrupt"),
        ({"a": ext(packed("uint8", (2,), b"ab")[:-1])}, "source-corrupt"),
        ({"a": ext(packed("uint8", (3,), b"ab"))}, "source-corrupt"),
        ({"a": ext(packed("float32", (1,), b"ab"))}, "source-corrupt"),
        ({"a": ext(packed("uint8", (2**63,), b"ab"))}, "source-corrupt"),
        ({"a": ext(packed("uint8", (), b"", raw_shape=[-2, -1]))}, "source-corrupt"),
        ({"a": ext(packed("uint8", (), b"", raw_shape=[True]))}, "source-corrupt"),
        ({"a": ext(packed("uint8", (), b"", raw_shape=[2.0]))}, "source-corrupt"),
        ({"a": ext(packed("uint8", (), b"", raw_shape={"0": 2}))}, "source-corrupt"),
        ({"a": ext(packed("uint8", (1,) * 255, b"a"))}, "source-corrupt"),
        ({"a": ext(packed("d" * 2000, (1,), b"a"))}, "source-corrupt"),
        ({"a": ext(packed(b"\xff", (1,), b"a"))}, "source-corrupt"),
        ({"a": ext(packed(8, (1,), b"a"))}, "source-corrupt"),
        ({"a": ext(msgpack.packb((1.0,)), 2)}, "source-corrupt"),
        ({"a": ext(msgpack.packb((1.0, "x")), 2)}, "source-corrupt"),
        ({"a": ext(msgpack.packb((1.0, 2.0)) + b"\0", 2)}, "source-corrupt"),
        ({"a": array(np.array(["text"]))}, "dtype-unsupported"),
        ({"a": array(np.array([1], "M8[s]"))}, "dtype-unsupported"),
        ({"a": ext(packed("string", (1,), b"a"))}, "dtype-unsupported"),
        ({"a": ext(packed("float8_e3m4", (1,), b"a"))}, "dtype-unsupported"),
        ({"a": split(shape={"0": 5})}, "source-corrupt"),
        ({"a": split(shape={"0": 2, "2": 2})}, "source-corrupt"),
        ({"a": split(shape={"0": 2.0, "1": 2})}, "source-corrupt"),
        ({"a": split(shape={"0": -2, "1": -2})}, "source-corrupt"),
        ({"a": split(shape=None)}, "source-corrupt"),
        ({"a": split(chunks={})}, "source-corrupt"),
        ({"a": split(chunks={"0": 1, "1": ONE})}, "source-corrupt"),
        ({"a": split(chunks={"0": array(np.zeros(2, "i1")), "1": ONE})}, "source-corrupt"),
        ({"a": split(chunks={"0": ext(packed("uint8", (3,), b"ab")), "1": ONE})}, "source-corrupt"),
        ({"": ONE}, "name-invalid"),
        ({"../a": ONE}, "name-invalid"),
        ({"/a": ONE}, "name-invalid"),
        ({"": {"a": ONE}}, "name-invalid"),
        ({"a\0": ONE}, "name-invalid"),
        ({b"a": ONE}, "source-corrupt"),
        ({1.5: ONE}, "source-corrupt"),
        ({None: ONE}, "source-corrupt"),
        (b"\x81\xa1\xff\x01", "source-corrupt"),
        ({"k" * 5000: ONE}, "source-header-too-large"),
        (b"\x82\xa1a\x01\xa1a\x02", "name-clash"),
        (b"\x82\xa11\x01\x01\x02", "name-clash"),
        ({"a": {"b": ONE}, "a/b": ONE}, "name-clash"),
        ({"a": {"b": "text"}, "a/b": ONE}, "name-clash"),
        (b"\xdf\xff\xff\xff\xff\xa1a\x01", "source-header-too-large"),
        (b"\xdd\xff\xff\xff\xff\xa1a\x01", "source-header-too-large"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "source-truncated"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "source-truncated"),
        (b"\x91" * 100_000, "source-corrupt"),
        (b"\x81\xa1a" * 100_000, "source-corrupt"),
    ],
)
def test_bad_files(tmp_path, content, code):
    """Each defect has its code."""
    (tmp_path / "x.msgpack").write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
    assert code_of(tmp_path / "x.msgpack") == code


def test_names_and_strings_cannot_exhaust_the_memory(tmp_path, monkeypatch):
    """A long key above many values costs as if it stood with each of them; all of that is bounded."""
    monkeypatch.setattr(msgpack_tree, "MAX_TEXT_BYTES", 10_000)
    monkeypatch.setattr(flax_msgpack, "MAX_TEXT_BYTES", 10_000)
    for tree in (
        {"k" * 4000: {str(number): number for number in range(10)}},
        {"a": ["s" * 1000] * 11},
    ):
        (tmp_path / "x.msgpack").write_bytes(msgpack.packb(tree))
        assert code_of(tmp_path / "x.msgpack") == "source-header-too-large"


def test_which_files_are_claimed(tmp_path):
    """By the ending; a shard of a larger model is no drop, but can be named."""
    for name in ("a.msgpack", "m-00001-of-00002.msgpack", "a.msgpack.tmp"):
        (tmp_path / name).write_bytes(msgpack.packb({"a": ONE}))
    (tmp_path / "d.msgpack").mkdir()
    assert [path.name for path in sorted(tmp_path.iterdir()) if claiming(path)] == ["a.msgpack"]
    assert set(read_all(tmp_path / "m-00001-of-00002.msgpack")) == {"a"}


def test_no_descriptor_is_left_open(tmp_path):
    """Neither a closed source nor one that failed to open holds a file."""
    before = open_descriptors()
    (tmp_path / "x.msgpack").write_bytes(msgpack.packb({"a": ONE}))
    (tmp_path / "y.msgpack").write_bytes(b"\x81")
    read_all(tmp_path / "x.msgpack")
    assert code_of(tmp_path / "y.msgpack") == "source-truncated"
    assert not FORMAT.is_complete(tmp_path / "y.msgpack")
    assert open_descriptors() == before
