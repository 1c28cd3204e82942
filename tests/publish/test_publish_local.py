import errno
import os
from pathlib import Path

import pytest

from smdaemon import durable
from smdaemon.durable import write_atomically
from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.publish import local
from smdaemon.publish.local import LocalStore, identity_of, publish


@pytest.fixture
def store(tmp_path):
    """A store on an existing, empty publish directory."""
    (tmp_path / "models").mkdir()
    return LocalStore(tmp_path / "models", "me")


def make_draft(store: LocalStore, name: str, content: bytes = b"pb") -> Path:
    """A draft with the files of a small SavedModel."""
    draft = store.draft(name)
    (draft / "variables").mkdir(parents=True)
    (draft / "saved_model.pb").write_bytes(content)
    (draft / "variables" / "variables.index").write_bytes(b"index")
    return draft


def test_a_draft_is_hidden_until_it_is_committed(store):
    """Before the commit no name in the publish directory is a number; after it there is one."""
    draft = make_draft(store, "job1")
    assert [p.name for p in store.root.iterdir()] == [draft.name]
    assert draft.name.startswith(".")
    assert store.versions() == []
    assert store.commit(draft, 41) == store.root / "41"
    assert store.versions() == [41]
    assert [p.name for p in store.root.iterdir()] == ["41"]


def test_a_commit_that_was_done_already_is_found_done(store):
    """The same content twice is one version, and the second draft is gone."""
    store.commit(make_draft(store, "job1"), 41)
    store.commit(make_draft(store, "job2"), 41)
    assert [p.name for p in store.root.iterdir()] == ["41"]


def test_a_rename_that_was_done_is_known_by_the_drafts_identity(store):
    """The identity that the draft had says whose version it is; another one, or none, says nothing."""
    draft = make_draft(store, "job1")
    identity = identity_of(draft)
    assert store.committed(41, identity) is None
    target = store.commit(draft, 41)
    assert store.committed(41, identity) == target
    assert [store.committed(41, "1/2-3-4"), store.committed(41, "")] == [None, None]


def test_an_existing_version_with_other_content_is_never_touched(store):
    """The commit fails with a code, the published version keeps its bytes."""
    store.commit(make_draft(store, "job1", b"old"), 41)
    with pytest.raises(DropError) as caught:
        store.commit(make_draft(store, "job2", b"new"), 41)
    assert caught.value.code == "version-exists"
    assert (store.root / "41" / "saved_model.pb").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["empty directory", "file", "dangling link"])
def test_whatever_has_the_versions_name_is_not_replaced(store, kind):
    """An empty directory, a file and a link count as existing: plain rename() would replace the first."""
    taken = store.root / "41"
    {
        "empty directory": taken.mkdir,
        "file": taken.touch,
        "dangling link": lambda: taken.symlink_to("nowhere"),
    }[kind]()
    with pytest.raises(DropError) as caught:
        store.commit(make_draft(store, "job1"), 41)
    assert caught.value.code == "version-exists"
    assert os.path.lexists(taken)


def test_a_file_system_without_renameat2_is_served_by_rename(store, monkeypatch):
    """Where the kernel refuses the flag, existence is looked at first."""
    monkeypatch.setattr(durable, "_RENAME_NOREPLACE", 1 << 20)  # a flag that no kernel knows: EINVAL
    store.commit(make_draft(store, "job1"), 1)
    with pytest.raises(DropError):
        store.commit(make_draft(store, "job2", b"new"), 1)


def test_sweeping_removes_our_drafts_only(store):
    """Drafts of another owner, versions and files of the user stay."""
    make_draft(store, "job1")
    theirs = make_draft(LocalStore(store.root, "other"), "job1")
    store.commit(make_draft(store, "job2"), 7)
    (store.root / "notes.txt").touch()
    assert store.sweep() == [".smdaemon-me-job1"]
    assert sorted(p.name for p in store.root.iterdir()) == [theirs.name, "7", "notes.txt"]


def test_a_left_draft_of_the_same_job_is_replaced(store):
    """A job that runs again after a crash starts from nothing."""
    make_draft(store, "job1")
    assert not store.draft("job1").exists()


def test_the_publish_directory_is_made_but_not_its_parents(tmp_path):
    """An unmounted volume is not papered over with directories of ours."""
    LocalStore(tmp_path / "models", "me").draft("job1")
    assert (tmp_path / "models").is_dir()
    with pytest.raises(EnvironmentFault) as caught:
        LocalStore(tmp_path / "volume" / "models", "me").draft("job1")
    assert (caught.value.code, caught.value.retryable) == ("directory-missing", True)


@pytest.mark.parametrize(
    ("number", "code", "retryable"),
    [
        (errno.EACCES, "permission-denied", False),
        (errno.EROFS, "read-only", False),
        (errno.EIO, "io-error", True),
    ],
)
def test_a_publish_directory_that_cannot_be_written_is_a_fault(store, monkeypatch, number, code, retryable):
    """The code says what is wrong with it; access() knows only yes and no."""

    def refuse(path: Path, *_arguments: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        store.draft("job1")
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_versions_are_the_names_that_serving_would_take(store):
    """Whole numbers of 63 bits only; leading zeros are allowed, signs and others are not."""
    for name in ("1", "00000123", "-4", "v5", "6.5", ".7", "12345678901234567890", str(2**63), str(2**63 - 1)):
        (store.root / name).mkdir()
    assert store.versions() == [1, 123, 2**63 - 1]


def test_versions_of_a_missing_directory_are_none(tmp_path):
    """Before the first export there is nothing to list."""
    assert LocalStore(tmp_path / "none", "me").versions() == []


def test_publish_says_when_the_target_exists(tmp_path):
    """The draft stays, for its owner to keep or remove."""
    (tmp_path / "draft").mkdir()
    (tmp_path / "target").mkdir()
    assert publish(tmp_path / "draft", tmp_path / "target") is False
    assert (tmp_path / "draft").is_dir()


def test_an_error_of_the_rename_is_a_fault(store, monkeypatch):
    """What the file system refuses is named by its code; the draft stays for a retry."""

    def refuse(*_args):
        raise OSError(errno.EIO, "Input/output error", "target")

    draft = make_draft(store, "job1")
    monkeypatch.setattr(local, "rename_no_replace", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        store.commit(draft, 1)
    assert caught.value.code == "io-error"
    assert draft.is_dir()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """A failing write leaves the old content and no scratch file."""
    target = tmp_path / "result.json"
    write_atomically(target, b"old")

    def refuse(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
