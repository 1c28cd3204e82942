"""Orbax checkpoints that are corrupt, cut or made to mislead: DropErrors and faults, no other exception, nothing outside read."""

import errno
import json
import os
import shutil
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax_kit import entry, metadata, write_array, write_item, write_step
from sources_builders import read_all, value_of

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.sources import orbax_values
from smdaemon.sources.formats import claiming, format_named, open_source
from smdaemon.sources.orbax_values import _failure

FORMAT = format_named("orbax")
W = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def item(tmp_path):
    """A checkpoint with one array, not in OCDBT."""
    return write_item(tmp_path / "41", {"w": W})


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A checkpoint in OCDBT, from Orbax."""
    import orbax.checkpoint

    path = tmp_path_factory.mktemp("orbax") / "41"
    orbax.checkpoint.PyTreeCheckpointer().save(path, {"w": np.arange(2000.0), "b": W, "name": "text"})
    return path


def code_of(path):
    """The code that reading everything fails with."""
    with pytest.raises(DropError) as caught:
        read_all(path)
    return caught.value.code


def keyed(*parts):
    """An entry whose keys are not those of a sound one."""
    return {
        "x": {"key_metadata": list(parts), "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False}}
    }


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "source-truncated"),
        ("{", "source-truncated"),
        ("[]", "source-truncated"),
        ("{]}", "source-corrupt"),
        ("{}", "source-corrupt"),
        ("[" * 100_000 + "}", "source-corrupt"),
        ('{"tree_metadata": []}', "source-corrupt"),
        ('{"tree_metadata": {"a": 1}}', "source-corrupt"),
        ('{"tree_metadata": {"a": {"key_metadata": 1}}}', "source-corrupt"),
        (metadata(keyed({"key": 1})), "source-corrupt"),
        (metadata(keyed(["key"])), "source-corrupt"),
        (metadata(keyed({})), "source-corrupt"),
        (metadata({"x": {"key_metadata": [{"key": "w"}], "value_metadata": {}}}), "source-corrupt"),
        (metadata(entry("w", skip=1)), "source-corrupt"),
        (metadata(entry("w", value_type=None)), "source-corrupt"),
        (metadata(keyed({"key": "w"}), entry("w")), "name-clash"),
        (metadata(entry("a.w"), entry("a", "w")), "name-clash"),
        (metadata(entry("a/w"), entry("a", "w")), "name-clash"),
        ('{"tree_metadata": {}, "tree_metadata": {}}', "name-clash"),
        (metadata(), "source-empty"),
        (metadata(entry("w", skip=True), entry("s", value_type="string")), "source-empty"),
        (metadata(entry("none")), "source-corrupt"),
        (metadata(entry("w"), use_zarr3=True), "source-corrupt"),
        (metadata(keyed()), "name-invalid"),
        (metadata(entry("")), "name-invalid"),
        (metadata(entry("../../w")), "name-invalid"),
        (metadata(entry("/etc")), "name-invalid"),
        (metadata(entry("w\0")), "name-invalid"),
        (metadata(entry("\ud800")), "name-invalid"),
        (metadata(entry("a/", "", "/../w")), "name-invalid"),
        (metadata(entry("a/", "", "/w")), "name-invalid"),
        (metadata(entry("a//w")), "name-invalid"),
        (metadata(entry("a/./w")), "name-invalid"),
    ],
)
def test_bad_trees(item, text, code):
    """Each defect of `_METADATA` has its code, and asking whether the checkpoint is complete gives no other error."""
    (item / "_METADATA").write_text(text)
    assert code_of(item) == code
    with suppress(DropError):
        FORMAT.is_complete(item)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "<q9"},
        {"shape": [2]},
        {"shape": [-2, -3]},
        {"shape": "x"},
        {"chunks": [0, 0]},
        {"chunks": [1, 1]},
        {"zarr_format": 7},
        {"compressor": {"id": "unheard-of"}},
        {"filters": [{"id": "delta"}]},
        {"dtype": [["a", "<f4"], ["b", "<f4"]]},
        {"chunks": [1 << 62, 1]},
    ],
    ids=str,
)
def test_bad_arrays(item, changes):
    """What the description of an array says wrongly is told as its fault."""
    described = json.loads((item / "w" / ".zarray").read_text())
    (item / "w" / ".zarray").write_text(json.dumps(described | changes))
    assert code_of(item) == "source-corrupt"


@pytest.mark.parametrize("dtype", ["float8_e3m4", "float8_e8m0fnu"])
def test_a_dtype_that_tensorflow_does_not_store(item, dtype):
    """It is named with the tensor."""
    described = json.loads((item / "w" / ".zarray").read_text())
    (item / "w" / ".zarray").write_text(json.dumps(described | {"dtype": dtype}))
    with pytest.raises(DropError, match=f"'w' has the dtype '{dtype}'") as caught:
        read_all(item)
    assert caught.value.code == "dtype-unsupported"


def test_chunks_that_no_memory_holds_are_refused(item):
    """The library would allocate what is claimed, and end the process if it cannot."""
    described = json.loads((item / "w" / ".zarray").read_text())
    for changes in ({"chunks": [1 << 20, 1 << 20]}, {"shape": [1 << 40, 1], "chunks": [1 << 40, 1]}):
        (item / "w" / ".zarray").write_text(json.dumps(described | changes))
        assert code_of(item) == "source-header-too-large"
    shutil.rmtree(item / "w")
    write_array(item / "w", W, (2, 3), zarr3=True)
    described = json.loads((item / "w" / "zarr.json").read_text())
    described["shape"] = described["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 25, 1]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    inner = {"chunk_shape": [1, 1], "codecs": [little], "index_codecs": [little, {"name": "crc32c"}]}
    described["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]
    (item / "w" / "zarr.json").write_text(json.dumps(described))
    (item / "_METADATA").write_text(metadata(entry("w"), use_zarr3=True))
    assert code_of(item) == "source-header-too-large"


def test_memory_that_the_system_does_not_promise_is_a_fault(item, monkeypatch):
    """It is tried again later."""

    def refuse(nbytes):
        raise MemoryError

    monkeypatch.setattr(orbax_values, "_check_allocatable", refuse)
    with open_source(item) as source, pytest.raises(EnvironmentFault) as caught:
        list(source.tensors["w"].buffers())
    assert (caught.value.code, caught.value.retryable) == ("memory-short", True)


def test_an_array_of_any_size_that_is_not_there_is_refused_at_once(item):
    """Its first chunk is missing; nothing was made of its size."""
    described = json.loads((item / "w" / ".zarray").read_text())
    (item / "w" / ".zarray").write_text(json.dumps(described | {"shape": [1 << 40, 1 << 20], "chunks": [1, 1 << 20]}))
    assert code_of(item) == "source-corrupt"


@pytest.mark.parametrize(
    "where", ["w/0.0", "w/.zarray", "w", "_METADATA", "_strings.json", "manifest.ocdbt", "checkpoint", "d"]
)
def test_links_are_refused(item, tmp_path, where):
    """A symbolic link in an item, to a file or to a directory, is never followed."""
    outside = tmp_path / "outside"
    if (item / where).exists():
        (item / where).rename(outside)
    else:
        outside.mkdir() if where == "d" else outside.write_text("{}")
    (item / where).symlink_to(outside)
    assert code_of(item) == "source-not-regular"


def test_an_item_that_is_a_link_does_not_count(tmp_path):
    """A step is what lies in it."""
    write_item(tmp_path / "elsewhere", {"w": W})
    write_step(tmp_path / "41", "default")
    (tmp_path / "41" / "ema").symlink_to(tmp_path / "elsewhere")
    assert set(read_all(tmp_path / "41")) == {"w"}


def test_a_pipe_in_a_checkpoint_does_not_hold_up(item):
    """Opening it would wait for its writer."""
    os.mkfifo(item / "w" / "0.1")
    assert code_of(item) == "source-not-regular"


def test_a_description_that_grew_without_bound_is_not_read(item, monkeypatch):
    """Nor parsed."""
    monkeypatch.setattr("smdaemon.sources.orbax_layout.MAX_METADATA_BYTES", 10)
    assert code_of(item) == "source-header-too-large"


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_a_cut_file_is_incomplete(database, tmp_path, name):
    """At every length: while it is copied the checkpoint is not complete, and opening it is a DropError."""
    path = shutil.copytree(database, tmp_path / "41")
    whole = (path / name).read_bytes()
    for end in range(0, len(whole), 1 if len(whole) < 500 else 7):
        (path / name).write_bytes(whole[:end])
        try:
            assert not FORMAT.is_complete(path)
        except DropError:
            assert whole[:end].endswith(b"}")
        assert code_of(path) in {"source-truncated", "source-corrupt"}
    (path / name).write_bytes(whole)
    assert FORMAT.is_complete(path)


def test_what_is_missing_is_incomplete(database, tmp_path):
    """An array that `_METADATA` names, an item that `_CHECKPOINT_METADATA` lists, or the end of that."""
    item = write_item(tmp_path / "a", {"w": W, "b": W})
    shutil.rmtree(item / "b")
    assert not FORMAT.is_complete(item)
    step = write_step(tmp_path / "41", "state", "ema")
    (step / "ema").rename(tmp_path / "ema")
    assert not FORMAT.is_complete(step)
    (tmp_path / "ema").rename(step / "ema")
    assert FORMAT.is_complete(step)
    text = (step / "_CHECKPOINT_METADATA").read_text()
    (step / "_CHECKPOINT_METADATA").write_text(text[:-5])
    assert not FORMAT.is_complete(step)
    data = shutil.copytree(database, tmp_path / "42") / "d"
    for file in data.iterdir():
        file.unlink()
    assert code_of(tmp_path / "42") == "source-corrupt"


@settings(deadline=None, max_examples=150)
@given(place=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)), new=st.integers(0, 256))
def test_a_flipped_byte_is_another_value_or_an_error(database, tmp_path_factory, place, new):
    """Wherever it lies, in the database, the metadata or the values, or if a file is cut there: no other exception comes out."""
    path = tmp_path_factory.getbasetemp() / "flipped" / "41"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(database, path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    file = files[int(place[0] * len(files))]
    content = file.read_bytes()
    at = int(place[1] * len(content))
    file.write_bytes(content[:at] + (bytes([new]) + content[at + 1 :] if new < 256 else b""))
    for act in (read_all, FORMAT.is_complete):
        try:
            act(path)
        except DropError:
            continue


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            "PERMISSION_DENIED: Error reading \"/x\": Permission denied [os_error_code='13'] [tensorstore_spec='{}']",
            "permission-denied",
        ),
        ('INTERNAL: Error reading "/x" [OS error 5: EIO Input/output error]', "io-error"),
        ("RESOURCE_EXHAUSTED: [os_error_code='24']", "too-many-files"),
        ("NOT_FOUND: chunk is missing [os_error_code='2']", "source-corrupt"),
        ("DATA_LOSS: checksum [tensorstore_spec='{\"context\": {}}']", "source-corrupt"),
    ],
)
def test_failures_say_who_must_act(text, code):
    """By the errno that tensorstore notes, else it is the data's fault; the specification is left out of the message."""
    error = _failure(ValueError(text), "'w'")
    assert error.code == code
    assert isinstance(error, DropError if code == "source-corrupt" else EnvironmentFault)
    assert "{" not in error.message
    assert str(error).startswith("'w' cannot be read: " if code == "source-corrupt" else "reading 'w'")


def test_a_path_that_is_no_unicode_is_refused(tmp_path):
    """The library takes none."""
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    assert code_of(write_item(tmp_path / "41", {"w": W}).rename(folder / "41")) == "name-invalid"


def test_what_orbax_is_saving_is_refused_by_name(tmp_path):
    """Also where a user names it, or an item in it; and what was begun and not committed."""
    for name in ("41.orbax-checkpoint-tmp", "41.orbax-checkpoint-tmp-1700000000"):
        step = write_step(tmp_path / name, "default")
        assert claiming(step) is None
        assert code_of(step) == code_of(step / "default") == "source-truncated"
        assert not FORMAT.is_complete(step)
    begun = write_step(tmp_path / "42", "default", commit=None, marker=False)
    assert code_of(begun) == code_of(begun / "default") == "source-truncated"
    assert not FORMAT.is_complete(begun)


def test_what_is_no_checkpoint_is_told(tmp_path):
    """By name or by its content."""
    (tmp_path / "41").mkdir()
    with pytest.raises(DropError) as caught:
        open_source(tmp_path / "41", "orbax")
    assert caught.value.code == "source-unknown-format"
    assert not FORMAT.is_complete(tmp_path / "41")


def test_a_directory_that_may_not_be_listed_is_a_fault(item, monkeypatch):
    """The machine refuses, not the data."""

    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr("smdaemon.sources.orbax_layout.os.scandir", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        open_source(item)
    assert caught.value.code == "io-error"


def test_a_sound_one_is_read(item):
    """What the tests above spoil."""
    assert read_all(item) == {"w": value_of(W)}
