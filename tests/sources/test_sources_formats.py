"""Which format a path is of, what a changed file does, and that the registry keeps its promises."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sources_builders import open_descriptors, read_all

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.sources import files
from smdaemon.sources.files import SourceFile, source_fault
from smdaemon.sources.formats import FORMATS, claiming, detect, format_named, open_source, unchanged


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ckpt-1.npz", "npz"),
        ("x.npy", "npy"),
        ("x.safetensors", "safetensors"),
        ("x.safetensors.index.json", "safetensors-sharded"),
        ("x-00001-of-00003.safetensors", None),
        (".x.npz", None),
        ("x.npz.tmp", None),
        ("x.npz.part", None),
        ("x.npz~", None),
        ("x.json", None),
        ("x.export.json", None),
        ("x.pt", None),
        ("x", None),
    ],
)
def test_files_are_claimed_by_name(tmp_path, name, expected):
    """A file is a drop by its name alone; hidden, unfinished and partial ones are nobody's."""
    (tmp_path / name).write_bytes(b"")
    found = claiming(tmp_path / name)
    assert (found and found.name) == expected


def test_directories_are_claimed_by_what_they_hold(tmp_path):
    """A directory with arrays is a drop; one that holds drops of other formats, or nothing, is a place to look into."""
    for folder, names in {
        "arrays": ["a.npy", "notes.txt"],
        "nested": ["layer/0/a.npy"],
        "run": ["ckpt-1.npz", "curve.npy"],
        "hf": ["model.safetensors.index.json", "x.npy"],
        "keras": ["model.weights.h5", "x.npy"],
        "tensorflow": ["ckpt-1.index", "ckpt-1.data-00000-of-00001", "x.npy"],
        "saved_model": ["saved_model.pb", "x.npy"],
        "saved_model_as_text": ["saved_model.pbtxt", "x.npy"],
        "searched": ["vectors.index", "x.npy"],
        "other": ["notes.txt"],
        "hidden": [".a.npy", ".cache/b.npy"],
        "arrays.tmp": ["a.npy"],
        ".arrays": ["a.npy"],
        "named.npz": ["a.txt"],
    }.items():
        for file in names:
            (tmp_path / folder / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / file).touch()
    claimed = {path.name for path in tmp_path.iterdir() if claiming(path)}
    assert claimed == {"arrays", "nested", "searched"}
    assert claiming(tmp_path / "arrays").name == "npydir"


FILE_FORMATS = [known for known in FORMATS if known.suffix and known.name != "npy"]


@pytest.mark.parametrize("known", FILE_FORMATS, ids=lambda known: known.name)
def test_a_drop_of_files_among_arrays_makes_no_drop_of_the_directory(tmp_path, known):
    """Whatever the format of the files: the directory of arrays knows them all."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "curve.npy").touch()
    (folder / f"ckpt{known.suffix}").touch()
    if known.suffix == ".index":  # which other files are called, too
        (folder / "ckpt.data-00000-of-00001").touch()
    assert known.claims(folder / f"ckpt{known.suffix}")
    assert claiming(folder) is None


def test_detect_takes_what_the_user_names_at_its_word(tmp_path):
    """Hidden files and single shards can be opened by name; what tells no format cannot."""
    save_file({"a": np.arange(2)}, tmp_path / ".x-00001-of-00002.safetensors")
    assert set(read_all(tmp_path / ".x-00001-of-00002.safetensors")) == {"a"}
    (tmp_path / "x.pt").write_bytes(b"")
    for path, code in (
        (tmp_path / "x.pt", "source-unknown-format"),
        (tmp_path, "source-unknown-format"),
        (tmp_path / "none.npz", "source-missing"),
        (Path("a\0b.npz"), "source-missing"),
        (tmp_path / ("x" * 300 + ".npz"), "source-missing"),
    ):
        with pytest.raises(DropError) as caught:
            detect(path)
        assert caught.value.code == code


def test_formats_have_names_of_their_own():
    """Every format is found by its name; an unknown name lists the known ones."""
    assert [format_named(known.name) for known in FORMATS] == list(FORMATS)
    with pytest.raises(DropError, match="npz, npy, orbax, npydir") as caught:
        format_named("pickle")
    assert caught.value.code == "source-unknown-format"


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_every_format_reports_what_is_missing(tmp_path, known):
    """A path that is not there is the same error in every format."""
    for act in (known.open, known.is_complete):
        with pytest.raises(DropError) as caught:
            act(tmp_path / "none")
        assert caught.value.code == "source-missing"
    assert not known.claims(tmp_path / "none")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.unlink(),
        lambda path: (path.with_name("new").write_bytes(path.read_bytes()), path.with_name("new").rename(path)),
    ],
    ids=["touched", "grown", "removed", "replaced"],
)
def test_a_changed_source_is_noticed(tmp_path, change):
    """After reading, any change of any file since it was opened is an error."""
    np.savez(tmp_path / "x.npz", a=np.arange(2))
    np.save(tmp_path / "a.npy", np.arange(2))
    for path, name in ((tmp_path / "x.npz", "npz"), (tmp_path, "npydir")):
        with open_source(path, name) as source:
            unchanged(source)
            change(source.files()[0])
            with pytest.raises(DropError) as caught:
                unchanged(source)
            assert caught.value.code == "source-changed"


def test_a_file_cut_short_while_it_is_read_is_an_error_not_a_signal(tmp_path):
    """Values are not mapped: truncation under the reader is found, and the process lives."""
    save_file({"a": np.zeros(1 << 20)}, tmp_path / "x.safetensors")
    with open_source(tmp_path / "x.safetensors") as source:
        parts = source.tensors["a"].buffers()
        next(parts)
        os.truncate(tmp_path / "x.safetensors", 5000)
        with pytest.raises(DropError) as caught:
            list(parts)
        assert caught.value.code == "source-changed"


def test_a_file_replaced_before_it_is_opened_again_is_noticed(tmp_path):
    """A directory's files are opened when they are read: another file in the place is not read as if it were the first."""
    np.save(tmp_path / "a.npy", np.arange(2))
    with open_source(tmp_path, "npydir") as source:
        np.save(tmp_path / "b.npy", np.arange(2))
        (tmp_path / "b.npy").rename(tmp_path / "a.npy")
        with pytest.raises(DropError) as caught:
            list(source.tensors["a"].buffers())
        assert caught.value.code == "source-changed"


def test_no_descriptor_is_left_open(tmp_path):
    """Neither a closed source nor one that failed to open holds a file."""
    before = open_descriptors()
    np.savez(tmp_path / "x.npz", a=np.arange(2))
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "y.safetensors").write_bytes(b"")
    (tmp_path / "y.npy").write_bytes(b"")
    (tmp_path / "y.safetensors.index.json").write_bytes(b"")
    read_all(tmp_path / "x.npz")
    for name in ("y.npz", "y.safetensors", "y.npy", "y.safetensors.index.json"):
        with pytest.raises(DropError):
            open_source(tmp_path / name)
        known = detect(tmp_path / name)
        assert not known.is_complete(tmp_path / name)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("number", "kind", "code", "retryable"),
    [
        (errno.EACCES, EnvironmentFault, "permission-denied", False),
        (errno.EMFILE, EnvironmentFault, "too-many-files", True),
        (errno.EIO, EnvironmentFault, "io-error", True),
        (errno.ENOTDIR, DropError, "source-missing", False),
        (errno.ESTALE, DropError, "source-changed", False),
    ],
)
def test_refused_reads_say_who_must_act(number, kind, code, retryable):
    """What the operating system refuses is the drop's fault or the machine's, by the errno."""
    error = source_fault(OSError(number, os.strerror(number)), Path("/x"))
    assert (type(error), error.code, error.retryable) == (kind, code, retryable)
    assert "'/x'" in error.message


def test_an_unreadable_file_closes_and_reports(tmp_path, monkeypatch):
    """An input/output error while a value is read is an environment fault that can be retried."""

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "x").write_bytes(b"abc")
    file = SourceFile(tmp_path / "x")
    monkeypatch.setattr(os, "preadv", broken)
    monkeypatch.setattr(os, "pread", broken)
    for act in (lambda: file.read(0, 1), lambda: list(file.chunks(0, 1))):
        with pytest.raises(EnvironmentFault) as caught:
            act()
        assert caught.value.code == "io-error"
    file.close()


def test_short_reads_are_continued(tmp_path, monkeypatch):
    """A read that gives less than was asked for is not the end of the file."""
    (tmp_path / "x").write_bytes(bytes(range(100)))
    file = SourceFile(tmp_path / "x")
    preadv, pread = os.preadv, os.pread
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset))
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, offset: pread(fd, min(nbytes, 7), offset))
    assert b"".join(map(bytes, file.chunks(3, 90, 4))) == bytes(range(3, 93))
    monkeypatch.setattr(files, "READ_BYTES", 30)
    assert b"".join(map(bytes, file.chunks(3, 90, 4))) == bytes(range(3, 93))
    file.close()


def test_formats_are_imported_without_numpy():
    """The registry is imported at every start: it brings no numpy."""
    program = "import sys, smdaemon.sources.formats; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
