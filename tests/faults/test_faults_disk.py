"""The disk that the other tests break: what a power loss leaves is what POSIX promises, and faults come where they are asked for."""

import errno
import os

import pytest
from disk_model import ROOT, Disk, Kept
from hypothesis import given
from hypothesis import strategies as st


def written(disk: Disk, parent: int, name: bytes, content: bytes) -> int:
    """A new file with that content, nothing of it synced; its number."""
    number = disk.make(parent, name, 0o644, directory=False).number
    disk.write(number, 0, content)
    return number


def after(disk: Disk, kept: Kept) -> dict[str, bytes | None]:
    """What a power loss leaves now."""
    return disk.cut(len(disk.acts), kept).tree()


def test_what_nobody_synced_is_lost():
    """A name without its directory's sync goes, content without its file's sync is empty or zeros; a killed process loses nothing."""
    disk = Disk()
    written(disk, ROOT, b"a", b"abc")
    assert [after(disk, kept) for kept in Kept] == [{}, {"a": b""}, {"a": b"\0\0\0"}, {"a": b"abc"}]
    disk.sync(ROOT)
    assert after(disk, Kept.NOTHING) == {"a": b""}


def test_what_was_synced_stays():
    """Content with its file's sync, the name with its directory's; what was written later is lost again."""
    disk = Disk()
    number = written(disk, ROOT, b"a", b"abc")
    disk.sync(number)
    assert after(disk, Kept.NOTHING) == {}
    disk.sync(ROOT)
    disk.write(number, 3, b"def")
    assert [after(disk, kept)["a"] for kept in Kept] == [b"abc", b"abc", b"abc\0\0\0", b"abcdef"]


def test_a_rename_is_lost_or_kept_as_a_whole():
    """Without the sync of its directory either name may be there; with it the new one is, and never both."""
    disk = Disk()
    disk.sync(written(disk, ROOT, b"draft", b"x"))
    disk.sync(ROOT)
    disk.rename(ROOT, b"draft", ROOT, b"1")
    assert (after(disk, Kept.NOTHING), after(disk, Kept.NAMES)) == ({"draft": b"x"}, {"1": b"x"})
    disk.sync(ROOT)
    assert after(disk, Kept.NOTHING) == {"1": b"x"}


def test_a_removed_file_may_come_back():
    """A removal is durable with the sync of the directory, not before."""
    disk = Disk()
    disk.sync(written(disk, ROOT, b"a", b"x"))
    disk.sync(ROOT)
    disk.remove(ROOT, b"a", directory=False)
    assert (after(disk, Kept.NOTHING), after(disk, Kept.NAMES)) == ({"a": b"x"}, {})


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=40), st.data())
def test_a_cut_is_the_same_whether_the_acts_behind_it_were_done_or_not(steps, data):
    """What is left after the n-th act depends on the first n acts alone: so one run shows every power loss that it could have met."""
    disk = Disk()
    seen = [_left(disk)]
    for what, first, second in steps:
        _step(disk, what, b"%d" % first, b"%d" % second)
        seen += [_left(disk)] * (len(disk.acts) + 1 - len(seen))
    acts = data.draw(st.integers(0, len(disk.acts)))
    assert [disk.cut(acts, kept).tree() for kept in Kept] == seen[acts]
    for number, kept in enumerate(Kept):
        latest = max(cut for cut in disk.cuts(kept) if cut <= acts)
        assert seen[latest][number] == seen[acts][number]


def _left(disk: Disk) -> list[dict[str, bytes | None]]:
    return [after(disk, kept) for kept in Kept]


def _step(disk: Disk, what: int, name: bytes, other: bytes) -> None:
    numbers = disk.nodes[ROOT].entries
    if name not in numbers:
        disk.make(ROOT, name, 0o644, directory=False)
    elif what == 0:
        disk.remove(ROOT, name, directory=False)
    elif what == 1:
        disk.rename(ROOT, name, ROOT, other)
    elif what == 2:
        disk.write(numbers[name], len(other), other * 2)
    elif what == 3:
        disk.resize(numbers[name], len(name))
    else:
        disk.sync(numbers[name] if what == 4 else ROOT)


@pytest.mark.root
def test_a_fault_comes_at_the_operation_that_was_asked_for(disk):
    """The second write fails, the others go through; a lasting fault goes on until it is cleared; everything is counted."""
    disk.ask("arm", kind="write", nth=2, effect=errno.ENOSPC)
    with (disk.path / "a").open("wb", buffering=0) as file:
        file.write(b"1")
        with pytest.raises(OSError, match="No space left"):
            file.write(b"2")
        file.write(b"3")
    assert (disk.path / "a").read_bytes() == b"13"
    assert (disk.ask("counts")["write"], disk.ask("clear")) == (3, 1)
    disk.ask("arm", kind="write", nth=1, effect=errno.EROFS, lasting=True)
    for act in (lambda: (disk.path / "a").write_bytes(b"x"), (disk.path / "d").mkdir, (disk.path / "a").unlink):
        with pytest.raises(OSError, match="Read-only"):
            act()
    assert disk.ask("clear") == 3
    (disk.path / "d").mkdir()


@pytest.mark.root
@pytest.mark.parametrize("kept", Kept)
def test_the_mounted_disk_loses_its_power_too(disk, kept):
    """Behind the act that it ends with nothing goes any more; after that it shows what was durable, under the same inodes."""
    descriptor = os.open(disk.path / "a", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"synced")
    os.fsync(descriptor)
    directory = os.open(disk.path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    inode = os.fstat(descriptor).st_ino
    disk.ask("end_power", acts=disk.ask("position") + 1)
    os.write(descriptor, b", not synced")
    with pytest.raises(OSError, match="Input/output"):
        os.fsync(descriptor)
    os.close(descriptor)
    disk.ask("cut", acts=disk.ask("position"), kept=kept)
    found = (disk.path / "a").read_bytes()
    assert found == {Kept.LENGTHS: b"synced" + bytes(12), Kept.EVERYTHING: b"synced, not synced"}.get(kept, b"synced")
    assert (disk.path / "a").stat().st_ino == inode
