"""What a kernel's events say about a tree, with a kernel of the test's own."""

import errno
import os

import pytest
from watch_fakes import FakeKernel

from smdaemon.watch.completeness import Touch
from smdaemon.watch.inotify import Event, Mask
from smdaemon.watch.tree import Tree, WatchLimitError


class Wood:
    """A tree on a fake kernel; paths relative to the root."""

    def __init__(self, root, *, recursive=True, limit=1000):
        self.root = root
        self.kernel = FakeKernel(limit)
        self.tree = Tree(self.kernel, str(root), recursive=recursive)

    def name(self, path):
        """A path relative to the root."""
        return os.path.relpath(path, self.root)

    def watched(self):
        """The directories that have a watch."""
        return sorted(self.name(path) for path in self.tree._watches)

    def read(self, *events):
        """Events as (directory, mask, name)."""
        return self.tree.read(
            Event(self.kernel.watches[str(self.root / directory)], mask, name) for directory, mask, name in events
        )


@pytest.fixture
def wood(tmp_path):
    """A tree with the directories a/b and c, all watched."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    wood = Wood(tmp_path)
    wood.tree.rescan(0)
    return wood


def test_every_directory_is_watched(wood):
    """The root and all below."""
    assert wood.watched() == [".", "a", "a/b", "c"]
    assert len(wood.tree) == 4


def test_files_are_touched_by_what_happened_last(wood):
    """A deletion takes back a close; a rename into place says more than a close."""
    news = wood.read(
        ("a", Mask.CREATE, "new"),
        ("a", Mask.CLOSE_WRITE, "closed"),
        ("a", Mask.MOVED_TO, "moved"),
        ("a", Mask.CLOSE_WRITE, "moved"),
        ("a", Mask.CLOSE_WRITE, "deleted"),
        ("a", Mask.DELETE, "deleted"),
        ("a", Mask.CLOSE_WRITE, ".hidden"),
    )
    touched = {wood.name(path): touch for path, touch in news.touched.items()}
    assert touched == {"a/closed": Touch.CLOSED, "a/moved": Touch.MOVED, "a/deleted": Touch.SEEN}
    assert [wood.name(path) for path in news.created] == ["a/new"]


def test_a_new_directory_is_watched_before_it_is_listed(wood):
    """What was there before the watch is listed; the directories in it are watched too."""
    (wood.root / "a" / "n" / "o").mkdir(parents=True)
    (wood.root / "a" / "n" / "o" / "file").write_bytes(b"")
    news = wood.read(("a", Mask.CREATE | Mask.ISDIR, "n"))
    scan = wood.tree.arm(news.directories, 0)
    assert [wood.name(path) for path in scan.files] == ["a/n/o/file"]
    assert {"a/n", "a/n/o"} <= set(wood.watched())


def test_a_directory_that_came_and_went_is_not_watched(wood):
    """Made and deleted in one block of events."""
    news = wood.read(("a", Mask.CREATE | Mask.ISDIR, "n"), ("a", Mask.DELETE | Mask.ISDIR, "n"))
    assert news.directories == {}
    assert wood.tree.arm([str(wood.root / "a" / "gone")], 0).directories == []


def test_a_directory_moved_away_is_watched_no_longer_nor_what_is_below_it(wood):
    """Its old path would be a lie; events still queued for it are dropped."""
    news = wood.read(("", Mask.MOVED_FROM | Mask.ISDIR, "a"), ("a/b", Mask.CLOSE_WRITE, "late"))
    assert [wood.name(path) for path in news.gone] == ["a"]
    assert wood.watched() == [".", "c"]
    assert len(wood.kernel.removed) == 2
    assert [wood.name(path) for path in news.touched] == ["a"]


def test_a_directory_renamed_within_the_tree_is_listed_as_renamed_into_place(wood):
    """Under its new path."""
    (wood.root / "a").rename(wood.root / "z")
    news = wood.read(("", Mask.MOVED_FROM | Mask.ISDIR, "a"), ("", Mask.MOVED_TO | Mask.ISDIR, "z"))
    assert {wood.name(path): touch for path, touch in news.directories.items()} == {"z": Touch.MOVED}
    wood.tree.arm(news.directories, 0)
    assert wood.watched() == [".", "c", "z", "z/b"]


def test_a_watch_that_the_kernel_ended_is_forgotten(wood):
    """And one that stands for the path by now is left alone."""
    assert not wood.read(("c", Mask.DELETE_SELF, ""), ("c", Mask.IGNORED, "")).root_gone
    assert wood.watched() == [".", "a", "a/b"]


@pytest.mark.parametrize("mask", [Mask.DELETE_SELF, Mask.MOVE_SELF, Mask.UNMOUNT, Mask.IGNORED])
def test_the_root_that_goes_away_is_noticed(wood, mask):
    """Deleted, moved, unmounted."""
    assert wood.read(("", mask, "")).root_gone


def test_an_unmounted_directory_below_the_root_asks_for_a_rescan(wood):
    """What it was mounted on comes to light."""
    news = wood.read(("c", Mask.UNMOUNT, ""), ("c", Mask.IGNORED, ""))
    assert news.overflow
    assert not news.root_gone


def test_after_an_overflow_everything_is_listed_again_and_dead_watches_end(wood):
    """No event said that c went away and n came."""
    assert wood.tree.read([Event(-1, Mask.Q_OVERFLOW)]).overflow
    (wood.root / "c").rmdir()
    (wood.root / "n").mkdir()
    (wood.root / "n" / "file").write_bytes(b"")
    scan = wood.tree.rescan(1)
    assert [wood.name(path) for path in scan.files] == ["n/file"]
    assert wood.watched() == [".", "a", "a/b", "n"]


def test_a_flat_tree_watches_the_root_and_the_directories_in_it(tmp_path):
    """One level, where a directory may be a drop; no deeper."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    wood = Wood(tmp_path, recursive=False)
    wood.tree.rescan(0)
    assert wood.watched() == [".", "a"]
    assert wood.read(("a", Mask.CREATE | Mask.ISDIR, "b")).directories == {}


def test_the_limit_of_watches_is_an_error_of_its_own(tmp_path):
    """The caller polls then."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    wood = Wood(tmp_path, limit=2)
    with pytest.raises(WatchLimitError) as caught:
        wood.tree.rescan(0)
    assert caught.value.code == "watch-limit"


def test_a_directory_that_may_not_be_watched_is_a_problem_and_no_end(wood, monkeypatch):
    """The rest of the tree is watched."""
    add = wood.kernel.add

    def refuse(directory):
        if directory.endswith("/a"):
            raise OSError(errno.EACCES, "no", directory)
        return add(directory)

    monkeypatch.setattr(wood.kernel, "add", refuse)
    scan = wood.tree.rescan(1)
    assert [problem.filename for problem in scan.problems] == [str(wood.root / "a")]
    assert wood.watched() == [".", "c"]
