"""Listing a tree, and listing again only what changed."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.watch.agenda import Agenda
from smdaemon.watch.filesystem import remote_kind, type_of
from smdaemon.watch.scan import Scanner, ignored


def scanner(root, *, recursive=True, **more):
    """A scanner of a tree."""
    return Scanner(str(root), recursive=recursive, **more)


def below(root: Path, paths):
    """Paths relative to the root, sorted."""
    return sorted(os.path.relpath(path, root) for path in paths)


def make(root: Path, *paths: str) -> None:
    """Files of one byte, with their directories."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"1")


@pytest.mark.parametrize("name", [".a.npz", "a.npz.tmp", "a.part", "a.export.result.json", ".git"])
def test_names_that_are_never_drops_are_ignored(name):
    """Hidden and temporary names, and our own answers."""
    assert ignored(name)


@pytest.mark.parametrize("name", ["a.npz", "a.export.json", "tmp", "a.tmp.npz"])
def test_other_names_are_looked_at(name):
    """Only the ending and a leading dot count."""
    assert not ignored(name)


def test_a_recursive_scan_lists_everything_and_enters_no_symlink(tmp_path):
    """A symlink to a file is a file; one to a directory is left alone, and so are hidden names."""
    make(tmp_path, "a", "b/c", "b/d/e", ".hidden/f", "b/g.tmp")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    scan = scanner(tmp_path).full(0)
    assert below(tmp_path, scan.files) == ["a", "b/c", "b/d/e", "link"]
    assert below(tmp_path, scan.directories) == ["b", "b/d"]


def test_a_flat_scan_looks_into_the_directories_beside_the_files_and_no_deeper(tmp_path):
    """A directory in the root may itself be a drop."""
    make(tmp_path, "a", "b/c", "b/d/e")
    scan = scanner(tmp_path, recursive=False).full(0)
    assert below(tmp_path, scan.files) == ["a", "b/c"]
    assert below(tmp_path, scan.directories) == ["b"]


def test_a_directory_is_announced_before_it_is_listed(tmp_path):
    """A file made at that moment is listed: nothing falls between the watch and the listing."""
    make(tmp_path, "b/c")
    scan = scanner(tmp_path, before_listing=lambda path: make(Path(path), "late")).full(0)
    assert below(tmp_path, scan.files) == ["b/c", "b/late", "late"]


def test_a_missing_root_is_an_error_and_a_missing_directory_is_not(tmp_path):
    """The root is what is watched; anything below it may go away at any time."""
    with pytest.raises(FileNotFoundError):
        scanner(tmp_path / "absent").full(0)
    assert scanner(tmp_path).beneath(str(tmp_path / "absent"), 0).files == []
    make(tmp_path, "file")
    with pytest.raises(NotADirectoryError):
        scanner(tmp_path / "file").full(0)


def test_what_did_not_change_is_not_listed_again(tmp_path):
    """Two seconds after a stamp was first seen a directory with that stamp is left alone; a changed one is listed."""
    make(tmp_path, "a", "b/c", "d/e")
    known = scanner(tmp_path)
    known.full(0)
    # The stamps are young: another file may come within the same tick of the clock.
    assert below(tmp_path, known.changed(1).files) == ["a", "b/c", "d/e"]
    assert below(tmp_path, known.changed(3).files) == ["a", "b/c", "d/e"]
    assert known.changed(4).files == []
    os.utime(tmp_path / "b", ns=(1, 1))
    assert below(tmp_path, known.changed(5).files) == ["b/c"]


def test_new_and_vanished_directories_are_found_by_their_parents(tmp_path):
    """A new tree is listed to its end, a vanished one is named once."""
    make(tmp_path, "a/b")
    known = scanner(tmp_path)
    known.full(0)
    make(tmp_path, "n/o/p")
    scan = known.changed(1)
    assert below(tmp_path, scan.files) == ["a/b", "n/o/p"]
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a").rmdir()
    assert "a" in below(tmp_path, known.changed(2).directories)
    assert "a" not in below(tmp_path, known.changed(3).directories)
    assert len(known) == 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 9)))))
def test_the_agenda_agrees_with_a_table(steps):
    """Whatever is put and dropped, what is due is what a plain dict says."""
    agenda, table = Agenda(), {}
    for path, when in steps:
        if when is None:
            agenda.drop(path)
            table.pop(path, None)
        else:
            agenda.put(path, when)
            table[path] = when
    assert len(agenda) == len(table)
    assert agenda.next() == min(table.values(), default=float("inf"))
    assert sorted(agenda.due(5, 100)) == sorted(path for path, when in table.items() if when <= 5)
    assert agenda.due(5, 100) == []


def test_the_agenda_gives_at_most_what_is_asked_for():
    """The rest stays due."""
    agenda = Agenda()
    for path in "abc":
        agenda.put(path, 1)
    assert agenda.due(1, 2) == ["a", "b"]
    assert agenda.due(1, 2) == ["c"]


def test_a_local_file_system_is_not_remote(tmp_path):
    """The type is read from the kernel; proc is one whose number is known."""
    assert type_of("/proc") == 0x9FA0
    assert remote_kind("/proc") is None
    with pytest.raises(FileNotFoundError):
        remote_kind(str(tmp_path / "absent"))


@pytest.mark.parametrize(("number", "name"), [(0x6969, "nfs"), (0xFF534D42, "cifs"), (0x65735546, "fuse")])
def test_file_systems_that_others_write_to_are_known(monkeypatch, number, name):
    """There the kernel does not see every change."""
    monkeypatch.setattr("smdaemon.watch.filesystem.type_of", lambda path: number)
    assert remote_kind("/") == name
