"""npz, npy and directories of npy: what numpy writes is what we read."""

import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sources_builders import Value, npy_bytes, open_descriptors, read_all, value_of

from smdaemon.errors import DropError
from smdaemon.sources import extents, files
from smdaemon.sources.formats import format_named, open_source

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    hnp.byte_string_dtypes(max_len=5),
    hnp.unicode_string_dtypes(endianness="?", max_len=5),
)
# a lone surrogate is no text to anybody
TEXT = {"alphabet": st.characters(codec="utf-8")}
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        elements=TEXT if dtype.kind == "U" else None,
    )
).flatmap(lambda array: st.sampled_from([array, np.asfortranarray(array), array[..., ::-1] if array.ndim else array]))


@settings(deadline=None, max_examples=150)
@given(array=ARRAYS)
def test_every_array_is_read_as_it_was_saved(array, tmp_path_factory):
    """Any dtype, byte order, memory order and shape comes back little-endian and row-major, from all three formats."""
    folder = tmp_path_factory.mktemp("arrays")
    np.savez(folder / "stored.npz", **{"a/b": array})
    np.savez_compressed(folder / "deflated.npz", **{"a/b": array})
    (folder / "tree" / "a").mkdir(parents=True)
    np.save(folder / "tree" / "a" / "b.npy", array)
    for drop in ("stored.npz", "deflated.npz", "tree"):
        assert read_all(folder / drop) == {"a/b": value_of(array)}
    assert read_all(folder / "tree" / "a" / "b.npy") == {"b": value_of(array)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">c8", "S3"])
def test_arrays_of_many_chunks_and_bands(tmp_path, monkeypatch, save, order, dtype):
    """Values that take several reads, and several bands of rows, are put together right."""
    monkeypatch.setattr(files, "READ_BYTES", 1000)
    monkeypatch.setattr(extents, "READ_BYTES", 1000)
    monkeypatch.setattr(extents, "BAND_BYTES", 5000)
    array = np.random.default_rng(1).integers(0, 99, (37, 11, 13)).astype(dtype, order=order)
    save(tmp_path / "x.npz", x=array)
    assert read_all(tmp_path / "x.npz") == {"x": value_of(array)}


@settings(deadline=None, max_examples=150)
@given(
    shape=hnp.array_shapes(min_dims=2, max_dims=4, max_side=7),
    dtype=st.sampled_from(["u1", "<i2", "<f8", "<c16", "S3"]),
    band_bytes=st.integers(1, 300),
    reads=st.tuples(st.sampled_from([0, 10, 1000]), st.integers(16, 100)),
)
def test_column_major_values_in_bands_of_any_size(shape, dtype, band_bytes, reads, tmp_path_factory):
    """However little memory a band may take, the elements come in row-major order."""
    path = tmp_path_factory.getbasetemp() / "bands.npy"
    array = np.asfortranarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    np.save(path, array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extents, "BAND_BYTES", band_bytes)
        patch.setattr(extents, "_SHORT_COLUMN_BYTES", reads[0])
        patch.setattr(extents, "READ_BYTES", reads[1])
        assert read_all(path) == {"bands": value_of(array)}


def test_large_deflated_fortran_array_is_spooled_to_disk(tmp_path, monkeypatch):
    """A column-major value that is deflated and larger than a band goes through a temporary file, not memory."""
    monkeypatch.setattr(extents, "BAND_BYTES", 1 << 16)
    array = np.asfortranarray(np.random.default_rng(1).random((300, 200)))
    np.savez_compressed(tmp_path / "x.npz", x=array)
    assert read_all(tmp_path / "x.npz") == {"x": value_of(array)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_column_major_value_takes_the_memory_that_its_source_says(tmp_path, save):
    """The budget of exports counts it; of row-major values it is none."""
    array = np.random.default_rng(3).random((1000, 2000))
    save(tmp_path / "c.npz", x=array)
    with open_source(tmp_path / "c.npz") as source:
        assert source.working_bytes == 0
    save(tmp_path / "f.npz", x=np.asfortranarray(array))
    with open_source(tmp_path / "f.npz") as source:
        tracemalloc.start()
        for _ in source.tensors["x"].buffers():
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert source.working_bytes * 0.9 < peak < source.working_bytes * 1.2 + 3 * files.READ_BYTES


def test_a_value_can_be_read_twice_and_before_another(tmp_path):
    """Tensors are independent: any order, any number of times, two at once."""
    arrays = {name: np.random.default_rng(2).random(400_000) for name in "ab"}
    np.savez(tmp_path / "x.npz", **arrays)
    with open_source(tmp_path / "x.npz") as source:
        pairs = list(
            zip(
                (bytes(part) for part in source.tensors["a"].buffers()),
                (bytes(part) for part in source.tensors["b"].buffers()),
                strict=True,
            )
        )
        assert b"".join(left for left, _ in pairs) == arrays["a"].tobytes()
        assert b"".join(right for _, right in pairs) == arrays["b"].tobytes()
        assert b"".join(map(bytes, source.tensors["a"].buffers())) == arrays["a"].tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_npy_header(tmp_path, version):
    """Versions 1.0, 2.0 and 3.0 differ in the header's length field and encoding only."""
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array(stream, np.arange(3, dtype="<i2"), version=version)
    assert read_all(tmp_path / "x.npy") == {"x": Value("int16", (3,), b"\0\0\1\0\2\0")}


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }",
        b'{"shape": (2,), "fortran_order": False, "descr": "<i2"}',
        b"{'descr':'<i2','fortran_order':False,'shape':(2,)}  \n",
        b"{'descr': '<i2', 'fortran_order': True, 'shape': ( 2 , 1 ), } \n",
    ],
)
def test_headers_of_other_writers(tmp_path, header):
    """The header is a dict literal: order of keys, quotes and blanks are the writer's."""
    (tmp_path / "x.npy").write_bytes(npy_bytes(header, b"\1\0\2\0"))
    assert read_all(tmp_path / "x.npy")["x"].content == b"\1\0\2\0"


def test_long_header_and_deflated_members_that_unpack_slowly(tmp_path):
    """A header beyond the first read is read whole, stored or deflated."""
    with (tmp_path / "x.npy").open("wb") as stream:
        header = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }" + b" " * 5000 + b"\n"
        stream.write(npy_bytes(header, b"\1\0\2\0"))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.write(tmp_path / "x.npy", "x.npy")
        assert read_all(tmp_path / "x.npz")["x"].content == b"\1\0\2\0"
    assert read_all(tmp_path / "x.npy")["x"].content == b"\1\0\2\0"


def test_zip64_and_streamed_members(tmp_path):
    """Archives with zip64 fields, and those written to a pipe with sizes behind the data, are read."""
    array = np.arange(5)

    class Pipe:
        def __init__(self, stream):
            self._stream = stream

        def write(self, data):
            return self._stream.write(data)

        def flush(self):
            self._stream.flush()

    with (tmp_path / "piped.npz").open("wb") as stream, zipfile.ZipFile(Pipe(stream), "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            np.save(member, array)
        archive.mkdir("folder") if hasattr(archive, "mkdir") else archive.writestr("folder/", b"")
    assert read_all(tmp_path / "piped.npz") == {"x": value_of(array)}


def test_zip64_directory(tmp_path, monkeypatch):
    """More members than 16 bits count, and offsets in the extra field: the standard library writes them when told so."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    np.savez(tmp_path / "x.npz", a=np.arange(5), b=np.arange(3))
    assert b"PK\x06\x06" in (tmp_path / "x.npz").read_bytes()
    assert read_all(tmp_path / "x.npz") == {"a": value_of(np.arange(5)), "b": value_of(np.arange(3))}


def test_names_that_are_not_ascii(tmp_path):
    """Member names are UTF-8 where the archive says so."""
    np.savez(tmp_path / "x.npz", **{"schicht/größe": np.arange(2)})
    assert set(read_all(tmp_path / "x.npz")) == {"schicht/größe"}


def test_directory_names_nest_and_the_rest_is_left_alone(tmp_path):
    """Folders become parts of names; hidden entries and other files are no tensors."""
    (tmp_path / "drop" / "layer" / "0").mkdir(parents=True)
    (tmp_path / "drop" / ".cache").mkdir()
    for name in ("layer/0/kernel.npy", "bias.npy", ".cache/x.npy", ".hidden.npy"):
        np.save(tmp_path / "drop" / name, np.arange(2))
    (tmp_path / "drop" / "README.txt").write_text("no tensor")
    with open_source(tmp_path / "drop") as source:
        assert list(source.tensors) == ["bias", "layer/0/kernel"]
        assert [path.name for path in source.files()] == ["bias.npy", "kernel.npy"]
        assert source.format == "npydir"


def test_directory_of_many_files_holds_no_descriptors(tmp_path):
    """A drop of more files than a process may open is read all the same."""
    for number in range(50):
        np.save(tmp_path / f"{number}.npy", np.arange(2))
    before = open_descriptors()
    with open_source(tmp_path, "npydir") as source:
        assert open_descriptors() == before
        assert len(source.tensors) == 50


def test_values_are_read_without_numpy(tmp_path):
    """Importing the formats, and reading plain values, does not import numpy: start time matters."""
    program = (
        "import sys; from pathlib import Path; from smdaemon.sources.formats import open_source\n"
        "with open_source(Path(sys.argv[1])) as source:\n"
        "    data = {name: b''.join(map(bytes, tensor.buffers())) for name, tensor in source.tensors.items()}\n"
        "assert data == {'a': b'\\0\\1', 'b': b'\\1\\0'}, data\n"
        "assert 'numpy' not in sys.modules"
    )
    np.savez(tmp_path / "x.npz", a=np.array([0, 1], "u1"), b=np.array([1], ">i2"))
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.npz")], check=True)


def test_is_complete_is_false_until_the_last_byte(tmp_path):
    """Every prefix of an npz or npy is incomplete or refused, the whole is complete, and opening a prefix is a DropError."""
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.array(["x"]))
    np.savez_compressed(tmp_path / "y.npz", a=np.arange(3))
    np.save(tmp_path / "z.npy", np.arange(3))
    for name in ("x.npz", "y.npz", "z.npy"):
        known = format_named("npz" if name.endswith("npz") else "npy")
        whole = (tmp_path / name).read_bytes()
        assert known.is_complete(tmp_path / name)
        part = tmp_path / f"part-{name}"
        for end in range(len(whole)):
            part.write_bytes(whole[:end])
            assert not known.is_complete(part)
            with pytest.raises(DropError) as caught:
                read_all(part)
            assert caught.value.code in {"source-truncated", "source-corrupt"}


def test_directory_is_complete_when_each_array_is(tmp_path):
    """A directory of arrays needs one at least, and none cut short; more may come, so it does not judge itself."""
    known = format_named("npydir")
    assert not known.self_judging
    assert not known.is_complete(tmp_path)
    np.save(tmp_path / "a.npy", np.arange(3))
    assert known.is_complete(tmp_path)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    assert not known.is_complete(tmp_path)
