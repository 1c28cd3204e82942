"""Writing named tensors as a SavedModel: files, errors, determinism."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from savedmodel_values import floats, tensors

from smdaemon.errors import DropError
from smdaemon.savedmodel import verify, write_weights
from smdaemon.tensorbundle.tensors import ArrayTensor


def tree(folder):
    """Every file below a folder, by path, with its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_made_of_four_files(tmp_path):
    """What is returned is what lies there."""
    written = write_weights(tmp_path / "model", floats(["a", "b"]))
    files = tree(tmp_path / "model")
    assert {path.as_posix() for path in written.files} == set(files)
    assert set(files) == {
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
        "fingerprint.pb",
        "saved_model.pb",
    }
    assert written.bytes == sum(map(len, files.values()))
    assert written.tensors == 2


def test_saved_model_pb_is_written_last(tmp_path, monkeypatch):
    """When saved_model.pb appears, everything else is complete."""
    from smdaemon.savedmodel import writer

    seen = []
    write_file = writer._write_file

    def spy(path, content, *, sync):
        seen.append((path.name, set(tree(tmp_path / "model"))))
        return write_file(path, content, sync=sync)

    monkeypatch.setattr(writer, "_write_file", spy)
    written = write_weights(tmp_path / "model", floats(["a"]))
    name, before = seen[-1]
    assert name == "saved_model.pb"
    assert before == {path.as_posix() for path in written.files} - {name}


@pytest.mark.parametrize("shards", [1, 3])
def test_same_input_gives_same_bytes(tmp_path, shards):
    """In other processes with other hash seeds, and in whatever order the tensors come."""
    code = """
import sys, numpy as np
from pathlib import Path
from smdaemon.savedmodel import write_weights
from smdaemon.tensorbundle.tensors import ArrayTensor
names = [f"layer/{i}/{j}" for i in range(12) for j in ("w", "b", "a b", "a_b")] + ["step", "tags"]
if sys.argv[2] == "backwards": names.reverse()
tensors = {name: ArrayTensor(np.full(3, len(name), np.float32)) for name in names}
write_weights(Path(sys.argv[1]), tensors, tags=["serve", "gpu"], shards=int(sys.argv[3]))
"""
    trees = []
    for seed, order in (("0", "forwards"), ("1", "backwards"), ("4711", "forwards")):
        export_dir = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", code, str(export_dir), order, str(shards)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            timeout=120,
        )
        trees.append(tree(export_dir))
    assert trees[0] == trees[1] == trees[2]


def test_an_existing_directory_is_refused_and_left_alone(tmp_path):
    """Nothing is written into what is there already, even if it is empty."""
    (tmp_path / "model").mkdir()
    with pytest.raises(DropError) as caught:
        write_weights(tmp_path / "model", floats(["a"]))
    assert caught.value.code == "export-dir-exists"
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "source-empty"),
        ({"a": np.zeros(1), "a/b": np.zeros(1)}, "name-clash"),
        ({"../a": np.zeros(1)}, "name-invalid"),
        ({"variables/x": np.zeros(1)}, "name-clash"),
    ],
)
def test_tensors_that_make_no_model_are_refused_before_anything_is_written(tmp_path, given, code):
    """No directory is left behind."""
    with pytest.raises(DropError) as caught:
        write_weights(tmp_path / "model", tensors(given))
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz"])
def test_dtypes_that_no_variable_can_have_are_refused(tmp_path, name):
    """The message names dtype and tensor."""
    import ml_dtypes

    bad = {"good": np.zeros(1), "layer/bad": np.zeros(1, getattr(ml_dtypes, name))}
    with pytest.raises(DropError, match=f"{name}.*'layer/bad'") as caught:
        write_weights(tmp_path / "model", tensors(bad))
    assert caught.value.code == "dtype-unsupported"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 1])
def test_what_was_written_is_removed_when_it_fails(tmp_path, monkeypatch, after):
    """A full disk at either of the last files leaves nothing."""
    from smdaemon.savedmodel import writer

    write_file = writer._write_file
    calls = []

    def fail(path, content, *, sync):
        calls.append(path)
        written = write_file(path, content, sync=sync)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "no space left on device", str(path))
        return written

    monkeypatch.setattr(writer, "_write_file", fail)
    with pytest.raises(OSError, match="no space"):
        write_weights(tmp_path / "model", floats(["a"]))
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_cannot_be_read_leaves_nothing(tmp_path):
    """An error of the source comes through as it is."""

    class Broken(ArrayTensor):
        def buffers(self):
            raise DropError("source-truncated", "the file ends early")

    with pytest.raises(DropError, match="ends early"):
        write_weights(tmp_path / "model", {"a": Broken(np.zeros(4))})
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_bytes_of_the_data_files(tmp_path):
    """The counts add up to the data files' sizes."""
    counts = []
    given = tensors({"a": np.zeros(300_000), "b": np.zeros(3)})
    write_weights(tmp_path / "model", given, shards=2, on_bytes=counts.append)
    data = [len(content) for name, content in tree(tmp_path / "model").items() if ".data-" in name]
    assert sum(counts) == sum(data)
    assert len(data) == 2


def test_nothing_is_synced_unless_asked(tmp_path, monkeypatch):
    """Without `sync` no call waits for the disk; with it every file and directory is synced."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    write_weights(tmp_path / "quick", floats(["a"]), sync=False)
    assert synced == []
    write_weights(tmp_path / "model", floats(["a"]))
    model = tmp_path / "model"
    assert synced[-5:-3] == [model / "fingerprint.pb", model / "saved_model.pb"]
    assert synced[-3:] == [model / "variables", model, tmp_path]


def test_other_separator_other_tree(tmp_path):
    """The separator decides, and either tree is sound."""
    write_weights(tmp_path / "dots", floats(["a.b/c"]), separator=".")
    write_weights(tmp_path / "slashes", floats(["a.b/c"]))
    assert (
        tree(tmp_path / "dots")["variables/variables.index"] != tree(tmp_path / "slashes")["variables/variables.index"]
    )
    assert verify(tmp_path / "dots").tensors == verify(tmp_path / "slashes").tensors == 1
