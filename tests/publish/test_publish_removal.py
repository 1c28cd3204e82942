"""A version goes as it came, by one rename; what was interrupted is swept, what is another's is left alone."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from smdaemon.errors import EnvironmentFault
from smdaemon.publish import local
from smdaemon.publish.local import LocalStore, identity_of


@pytest.fixture
def store(tmp_path):
    """A store on an existing, empty publish directory."""
    (tmp_path / "models").mkdir()
    return LocalStore(tmp_path / "models", "me")


def make(store: LocalStore, version: int, content: bytes = b"pb") -> str:
    """A published version; its identity."""
    draft = store.draft(f"job{version}")
    (draft / "variables").mkdir(parents=True)
    (draft / "saved_model.pb").write_bytes(content)
    (draft / "variables" / "variables.index").write_bytes(b"index")
    identity = identity_of(store.commit(draft, version))
    assert identity is not None
    return identity


def names(store: LocalStore) -> list[str]:
    """Everything in the publish directory."""
    return sorted(path.name for path in store.root.iterdir())


def hidden_name(version: int, identity: str) -> str:
    """What a hidden version is called."""
    return f".smdaemon-me-removed-{version}-{identity.partition('/')[0]}"


def refuse(number: int):
    """A function that fails with that errno."""

    def function(*_args, **_kwargs):
        raise OSError(number, os.strerror(number), "path")

    return function


def test_a_version_is_hidden_whole_and_then_deleted(store):
    """To a reader it is there or not there; its files go when no number names them."""
    identity = make(store, 41)
    make(store, 42)
    assert store.hide(41, identity)
    assert names(store) == [hidden_name(41, identity), "42"]
    assert store.versions() == [42]
    assert sorted(path.name for path in (store.root / names(store)[0]).iterdir()) == ["saved_model.pb", "variables"]
    assert store.delete_hidden() == [hidden_name(41, identity)]
    assert names(store) == ["42"]
    assert store.delete_hidden() == []


def test_who_reads_goes_on_reading(store):
    """An open file of a version that goes keeps its bytes."""
    identity = make(store, 41)
    with (store.root / "41" / "saved_model.pb").open("rb") as reader:
        store.hide(41, identity)
        store.delete_hidden()
        assert reader.read() == b"pb"


def test_the_parent_is_synced_between_rename_and_deletion(store, monkeypatch):
    """After a power loss no number names half of a version."""
    identity = make(store, 41)
    done = []
    rename, remove = local.rename_no_replace, local.remove_tree
    monkeypatch.setattr(local, "rename_no_replace", lambda *paths: done.append("rename") or rename(*paths))
    monkeypatch.setattr(local, "sync_directory", lambda path: done.append(("sync", path)))
    monkeypatch.setattr(local, "remove_tree", lambda path: done.append("delete") or remove(path))
    store.hide(41, identity)
    store.delete_hidden()
    assert done == ["rename", ("sync", store.root), "delete"]


def test_a_crash_between_rename_and_deletion_is_swept(store):
    """The next start finds the hidden directory by its name and takes it for no draft; another daemon's stays."""
    make_theirs = LocalStore(store.root, "other")
    theirs = make(make_theirs, 1)
    make_theirs.hide(1, theirs)
    identity = make(store, 41)
    store.hide(41, identity)
    draft = store.draft("job7")
    draft.mkdir()
    again = LocalStore(store.root, "me")
    assert again.sweep() == [draft.name]
    assert again.delete_hidden() == [hidden_name(41, identity)]
    assert names(store) == [f".smdaemon-other-removed-1-{theirs.partition('/')[0]}"]


def test_a_crash_in_the_middle_of_the_deletion_is_swept(store, monkeypatch):
    """What is left of the files goes at the next start."""
    identity = make(store, 41)
    store.hide(41, identity)
    with monkeypatch.context() as crash:
        crash.setattr(os, "rmdir", refuse(errno.EIO))
        with pytest.raises(EnvironmentFault) as caught:
            store.delete_hidden()
    assert caught.value.code == "io-error"
    assert names(store) == [hidden_name(41, identity)]
    LocalStore(store.root, "me").delete_hidden()
    assert names(store) == []


def test_the_same_number_goes_twice(store):
    """A version whose files could not be deleted is not in the way of its successor under the same number."""
    first = make(store, 41)
    store.hide(41, first)
    second = make(store, 41)
    assert store.hide(41, second)
    assert len(names(store)) == 2
    store.delete_hidden()
    assert names(store) == []


def test_a_directory_that_was_put_in_its_place_stays(store):
    """Another directory under the number, the same files included, is not what was published."""
    identity = make(store, 41)
    (store.root / "41").rename(store.root / "kept")
    shutil.copytree(store.root / "kept", store.root / "41")
    assert not store.hide(41, identity)
    assert names(store) == ["41", "kept"]


def test_a_reused_inode_is_told_by_the_model_file(store):
    """File systems give the inode of a removed directory to the next; file, size and time of the model tell them apart."""
    identity = make(store, 41)
    (store.root / "41" / "saved_model.pb").write_bytes(b"another model")
    assert not store.hide(41, identity)
    (store.root / "41" / "saved_model.pb").unlink()
    assert identity_of(store.root / "41").endswith("/")
    assert not store.hide(41, identity)


def test_a_link_under_the_number_is_not_followed(store, tmp_path):
    """A version that was moved elsewhere and linked to stays, link and directory."""
    identity = make(store, 41)
    (store.root / "41").rename(tmp_path / "elsewhere")
    (store.root / "41").symlink_to(tmp_path / "elsewhere")
    assert identity_of(store.root / "41") == ""
    for known in (identity, ""):
        assert not store.hide(41, known)
    assert (store.root / "41").is_symlink()
    assert (tmp_path / "elsewhere" / "saved_model.pb").exists()


def test_what_is_gone_already_is_no_error(store):
    """Somebody was quicker."""
    identity = make(store, 41)
    shutil.rmtree(store.root / "41")
    assert identity_of(store.root / "41") is None
    assert not store.hide(41, identity)


def test_a_directory_that_slips_in_before_the_rename_is_given_back(store, monkeypatch):
    """Between look and rename the number may come to name another directory: it is named so again."""
    identity = make(store, 41)
    rename = local.rename_no_replace

    def slip_in(source: Path, target: Path) -> bool:
        if source.name == "41":
            source.rename(store.root / "ours")
            source.mkdir()
            (source / "theirs").touch()
        return rename(source, target)

    monkeypatch.setattr(local, "rename_no_replace", slip_in)
    assert not store.hide(41, identity)
    assert names(store) == ["41", "ours"]
    assert (store.root / "41" / "theirs").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EACCES, "permission-denied"), (errno.EROFS, "read-only"), (errno.EIO, "io-error")]
)
def test_a_refused_rename_leaves_the_version_where_it_is(store, monkeypatch, number, code):
    """The fault has its code, and readers see the version as before."""
    identity = make(store, 41)
    monkeypatch.setattr(local, "rename_no_replace", refuse(number))
    with pytest.raises(EnvironmentFault, match="removing a version") as caught:
        store.hide(41, identity)
    assert caught.value.code == code
    assert names(store) == ["41"]


def test_what_can_be_deleted_is_deleted_beside_what_cannot(store, monkeypatch):
    """One directory that refuses does not keep the room of the others; the fault is told."""
    for version in (1, 2, 3):
        store.hide(version, make(store, version))
    remove = local.remove_tree

    def stubborn(path: Path) -> None:
        if "removed-2-" in path.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        remove(path)

    monkeypatch.setattr(local, "remove_tree", stubborn)
    with pytest.raises(EnvironmentFault) as caught:
        store.delete_hidden()
    assert caught.value.code == "permission-denied"
    assert [name.split("-")[3] for name in names(store)] == ["2"]


def test_a_missing_publish_directory_holds_nothing_to_delete(tmp_path):
    """Before the first export, and on an unmounted volume."""
    assert LocalStore(tmp_path / "none", "me").delete_hidden() == []
