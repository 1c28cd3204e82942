"""A version once more: linked or copied, proved sound, independent of the one it was made of."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.export import isolated
from smdaemon.export.isolated import export_isolated
from smdaemon.export.perform import perform
from smdaemon.export.pipeline import Silent, export
from smdaemon.export.plan import ExportPlan
from smdaemon.export.republish import republish
from smdaemon.publish.local import same_export
from smdaemon.savedmodel.verify import verify


@pytest.fixture
def version(tmp_path) -> Path:
    """A published version."""
    np.savez(tmp_path / "ckpt-1.npz", a=np.arange(1000, dtype=np.float32), b=np.ones(3))
    export(ExportPlan(source=tmp_path / "ckpt-1.npz"), tmp_path / "1")
    return tmp_path / "1"


class Told(Silent):
    """Notes what it is told."""

    def __init__(self):
        self.steps = []
        self.advanced = 0

    def writing(self, tensors, nbytes, working_bytes):
        """What is to be written."""
        self.steps.append(("writing", nbytes))

    def advance(self, nbytes):
        """Bytes that were copied."""
        self.advanced += nbytes

    def read_back(self, nbytes):
        """Bytes that were looked at."""
        self.advanced += nbytes

    def verifying(self):
        """What was written is read."""
        self.steps.append(("verifying",))


def inodes(folder: Path) -> set[int]:
    """The files of a directory."""
    return {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def refuse_links(monkeypatch, number: int) -> None:
    """A file system that gives no file a second name."""

    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


def test_files_are_linked_and_proved(version, tmp_path):
    """No byte is written twice; what comes out is verified, counted, and equal."""
    told = Told()
    made = republish(version, tmp_path / "draft", told)
    assert inodes(tmp_path / "draft") == inodes(version)
    assert same_export(tmp_path / "draft", version)
    assert (made.tensors, made.nbytes, made.metric) == (2, 4024, None)
    assert told.steps == [
        ("writing", sum(path.stat().st_size for path in version.rglob("*") if path.is_file())),
        ("verifying",),
    ]
    assert told.advanced >= made.nbytes


def test_the_copy_outlives_the_original(version, tmp_path):
    """A version that was made of another one is whole when that one goes."""
    republish(version, tmp_path / "draft", Silent())
    shutil.rmtree(version)
    assert verify(tmp_path / "draft").tensors == 2


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_no_link_can_be_made_files_are_copied(version, tmp_path, monkeypatch, number):
    """Another file system, another owner's files, too many names: the bytes are the same."""
    refuse_links(monkeypatch, number)
    republish(version, tmp_path / "draft", Silent())
    assert not inodes(tmp_path / "draft") & inodes(version)
    assert same_export(tmp_path / "draft", version)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_another_refusal_is_a_fault(version, tmp_path, monkeypatch, number):
    """A full or broken disk is no reason to copy."""
    refuse_links(monkeypatch, number)
    with pytest.raises(EnvironmentFault, match="publishing a version once more"):
        republish(version, tmp_path / "draft", Silent())


def test_a_version_behind_links_becomes_plain_files(version, tmp_path):
    """A version directory that is a link, and files in it that are links, are read through; the copy has neither."""
    (tmp_path / "store").mkdir()
    data = next((version / "variables").glob("*.data-*"))
    data.rename(tmp_path / "store" / "data")
    data.symlink_to(tmp_path / "store" / "data")
    (tmp_path / "2").symlink_to(version)
    republish(tmp_path / "2", tmp_path / "draft", Silent())
    assert not any(path.is_symlink() for path in (tmp_path / "draft").rglob("*"))
    assert same_export(tmp_path / "draft", version)


def test_empty_folders_come_along(version, tmp_path):
    """TensorFlow's own exports have them."""
    (version / "assets").mkdir()
    republish(version, tmp_path / "draft", Silent())
    assert (tmp_path / "draft" / "assets").is_dir()


def test_what_is_no_file_is_refused(version, tmp_path):
    """A pipe would be waited for, a link to a directory or to nothing would be lost."""
    pipe, link, dangling = version / "pipe", version / "assets", version / "dangling"
    os.mkfifo(pipe)
    with pytest.raises(DropError, match="is no regular file") as caught:
        republish(version, tmp_path / "draft", Silent())
    assert caught.value.code == "source-not-regular"
    pipe.unlink()
    for path, target in ((link, tmp_path), (dangling, tmp_path / "nothing")):
        path.symlink_to(target)
        with pytest.raises(DropError, match="leads to no file"):
            republish(version, tmp_path / "draft", Silent())
        path.unlink()


def test_a_missing_version_says_so(tmp_path):
    """The version may have gone since it was asked for."""
    with pytest.raises(DropError) as caught:
        republish(tmp_path / "9", tmp_path / "draft", Silent())
    assert caught.value.code == "source-missing"
    assert not (tmp_path / "draft").exists()


def test_a_version_that_fails_verification_is_refused(version, tmp_path):
    """One flipped byte of a tensor, or a lost file, and nothing is published."""
    data = next((version / "variables").glob("*.data-*"))
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(DropError) as caught:
        republish(version, tmp_path / "draft", Silent())
    assert caught.value.code == "bundle-corrupt"
    data.unlink()
    with pytest.raises(DropError) as caught:
        republish(version, tmp_path / "other", Silent())
    assert caught.value.code == "bundle-missing-shard"


def test_whoever_is_told_can_stop_it(version, tmp_path):
    """A cancelled rollback ends at the next buffer, while files are made and while they are read."""

    class Stop(Exception):  # noqa: N818 - asked for
        pass

    class Stopping(Told):
        def advance(self, nbytes):
            raise Stop

    with pytest.raises(Stop):
        republish(version, tmp_path / "draft", Stopping())


def test_a_plan_says_which_of_the_two_is_meant(version, tmp_path):
    """The same call exports a source and publishes a version once more."""
    perform(ExportPlan(source=tmp_path / "ckpt-1.npz"), tmp_path / "exported", Silent())
    perform(ExportPlan(source=version, copy=True), tmp_path / "copied", Silent())
    assert same_export(tmp_path / "exported", tmp_path / "copied")
    assert inodes(tmp_path / "copied") == inodes(version) != inodes(tmp_path / "exported")


def test_a_large_graph_is_handled_in_a_child(version, tmp_path, monkeypatch):
    """As an export of it would be; links, reports and refusals are the same."""
    plan = ExportPlan(source=version, copy=True)
    monkeypatch.setattr(isolated, "LARGE_GRAPH_BYTES", 1)
    assert isolated.has_large_graph(plan)
    told = Told()
    made = export_isolated(plan, tmp_path / "draft", told)
    assert (made.tensors, made.metric, [step[0] for step in told.steps]) == (2, None, ["writing", "verifying"])
    assert inodes(tmp_path / "draft") == inodes(version)
    (version / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(DropError) as caught:
        export_isolated(plan, tmp_path / "other", told)
    assert caught.value.code == "savedmodel-corrupt"


def metric_of(tmp_path, metadata: dict[str, str], name: str) -> float | None:
    """What an export finds in a file's metadata, in this process and in a child."""
    from safetensors.numpy import save_file

    source = tmp_path / "ckpt-1.safetensors"
    save_file({"a": np.ones(2, np.float32)}, source, metadata=metadata)
    plan = ExportPlan(source=source, metric=name)
    found = export(plan, tmp_path / "here").metric
    assert export_isolated(plan, tmp_path / "there", Silent()).metric == found
    shutil.rmtree(tmp_path / "here")
    shutil.rmtree(tmp_path / "there")
    return found


def test_the_metric_is_found_in_the_sources_metadata(tmp_path):
    """A finite number under the metric's name; anything else is no value."""
    metadata = {"auc": " 0.75 ", "loss": "nan", "step": "inf", "note": "good"}
    assert metric_of(tmp_path, metadata, "auc") == 0.75
    for name in ("loss", "step", "note", "absent", ""):
        assert metric_of(tmp_path, metadata, name) is None
