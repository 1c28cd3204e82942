"""The look at a publish directory: what of the journal's versions is there, what is another's, what is needed."""

import os
import shutil
from pathlib import Path

import pytest

from smdaemon.errors import EnvironmentFault
from smdaemon.publish.local import LocalStore, identity_of
from smdaemon.publish.presence import Standing, look
from smdaemon.publish.retention import Version

AT = 1_000_000.0


@pytest.fixture
def store(tmp_path):
    """A store on an existing, empty publish directory."""
    (tmp_path / "models").mkdir()
    return LocalStore(tmp_path / "models", "me")


def make(path: Path, at: float = AT) -> Path:
    """A directory with the file of a model, both from that time."""
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"pb")
    for each in (path / "saved_model.pb", path / "variables", path):
        os.utime(each, (at, at))
    return path


def row(store: LocalStore, number: int, identity: str | None = None, root: Path | None = None) -> Version:
    """The journal's row of a version of that store, which is there unless an identity is given."""
    path = (root or store.root) / str(number)
    known = identity_of(path) if identity is None else identity
    return Version(
        model="ranker", version=number, export_dir=str(path), identity=known or "", place=number, published_at=AT
    )


def standings(found) -> dict[int, Standing]:
    """By number."""
    return {version.version: standing for version, standing in found.rows}


def test_what_lies_where_something_was_published(store, tmp_path):
    """Present, another directory, a link, a file, missing, published elsewhere, foreign: each is told from the others."""
    for number in (1, 2, 3, 9):
        make(store.root / str(number))
    rows = [row(store, number) for number in (3, 2, 1)]
    shutil.copytree(store.root / "2", tmp_path / "copy")
    shutil.rmtree(store.root / "2")
    (tmp_path / "copy").rename(store.root / "2")
    make(tmp_path / "moved")
    (store.root / "4").symlink_to(tmp_path / "moved")
    (store.root / "5").touch()
    rows += [row(store, 4, "1/1-1-1"), row(store, 5, "1/1-1-1"), row(store, 6, "1/1-1-1")]
    rows += [row(store, 7, "1/1-1-1", root=tmp_path / "before")]
    found = look(store, rows)
    assert standings(found) == {
        3: Standing.PRESENT,
        2: Standing.CHANGED,
        1: Standing.PRESENT,
        4: Standing.CHANGED,
        5: Standing.CHANGED,
        6: Standing.MISSING,
        7: Standing.ELSEWHERE,
    }
    assert found.foreign == [9]
    assert [each.version for each in found.present] == [3, 1]
    assert [each.version for each in found.missing] == [6]
    assert found.numbers == [9, 5, 4, 3, 2, 1]


def test_the_same_number_elsewhere_does_not_make_a_foreign_one_ours(store, tmp_path):
    """What was published as 1 into another directory says nothing of the 1 that lies here."""
    make(store.root / "1")
    found = look(store, [row(store, 1, "1/1-1-1", root=tmp_path / "before")])
    assert (standings(found), found.foreign, found.present) == ({1: Standing.ELSEWHERE}, [1], [])


def test_an_unmounted_volume_makes_nothing_missing(store, tmp_path):
    """Where none of the versions is left, or the directory itself is gone, nothing is concluded from that."""
    rows = [row(store, 1, "1/1-1-1"), row(store, 2, "1/1-1-1")]
    assert look(store, rows).missing == []
    gone = LocalStore(tmp_path / "gone", "me")
    assert look(gone, [row(gone, 1, "1/1-1-1")]).missing == []
    assert look(gone, []).numbers == []


def test_an_unknown_identity_is_adopted_if_nothing_is_younger(store):
    """A version from before identities were kept is the one that lies there, unless that was made later."""
    make(store.root / "1")
    make(store.root / "2", at=AT + 3600)
    make(store.root / "3")
    os.utime(store.root / "3" / "variables", (AT + 3600, AT + 3600))
    (store.root / "4").mkdir()
    found = look(store, [row(store, number, "") for number in (1, 2, 3, 4)])
    assert standings(found) == {
        1: Standing.PRESENT,
        2: Standing.CHANGED,
        3: Standing.CHANGED,
        4: Standing.CHANGED,
    }
    assert found.adopted == {str(store.root / "1"): identity_of(store.root / "1")}
    assert found.present[0].identity == identity_of(store.root / "1")


def test_what_a_link_or_a_reader_leads_to_is_held(store, tmp_path):
    """Links in the publish directory, and paths that somebody reads, hold the version that they lead into; links are followed."""
    for number in (1, 2, 3, 4):
        make(store.root / str(number))
    (store.root / "stable").symlink_to("1")
    (store.root / "7").symlink_to(store.root / "2")
    make(store.root / "9999999999999999999")
    (store.root / "beyond").symlink_to("9999999999999999999")
    (store.root / "dangling").symlink_to("nothing")
    (store.root / "out").symlink_to(tmp_path)
    (tmp_path / "template").symlink_to(store.root / "3" / "variables")
    needed = [
        (str(tmp_path / "template"), "a template"),
        (str(store.root / "2"), "job 5 reads it"),
        (str(store.root), "the directory itself"),
        (str(store.root / "notes" / "1"), "no version"),
        ("", "nothing"),
        ("/elsewhere/4", "another directory"),
    ]
    held = look(store, [], needed).held
    assert held == {1: "the link 'stable' leads to it", 2: "the link '7' leads to it", 3: "a template"}


def test_a_publish_directory_behind_a_link_is_looked_at_as_one(store, tmp_path):
    """The publish directory may itself be a link; readers may name it by either name."""
    make(store.root / "1")
    (tmp_path / "linked").symlink_to(store.root)
    linked = LocalStore(tmp_path / "linked", "me")
    found = look(linked, [row(linked, 1)], [(str(store.root / "1"), "read")])
    assert standings(found) == {1: Standing.PRESENT}
    assert found.held == {1: "read"}


def test_a_directory_that_cannot_be_read_is_a_fault(store, monkeypatch):
    """Nothing is decided on half a look."""
    make(store.root / "1")
    version = row(store, 1)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(store.root))

    for function in ("lstat", "iterdir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, function, refuse)
            with pytest.raises(EnvironmentFault) as caught:
                look(store, [version])
        assert caught.value.code == "permission-denied"
