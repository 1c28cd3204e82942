"""Files of strangers: opened beneath the root alone, by descriptors, whatever stands or is put in the way."""

import errno
import os
import socket
import threading
from contextvars import copy_context
from pathlib import Path

import pytest

from smdaemon.confinement import confined, folder_of, open_regular, read_regular, status_of, unlinked
from smdaemon.errors import DropError


@pytest.fixture
def root(tmp_path):
    """A watched directory with a file at two depths, and a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    for name in ("file", "a/b/file"):
        (tmp_path / "root" / name).write_bytes(name.encode())
    return tmp_path / "root"


def refusal(path) -> str:
    """The code with which reading is refused."""
    with pytest.raises(DropError) as caught:
        read_regular(path)
    return caught.value.code


def test_what_lies_beneath_the_root_is_read(root):
    """At any depth; its status is that of the file."""
    with confined(root):
        assert [read_regular(root / name) for name in ("file", "a/b/file", "a/../file")] == [
            b"file",
            b"a/b/file",
            b"file",
        ]
        assert status_of(root / "a/b/file").st_size == 8


def test_what_lies_elsewhere_is_refused(root):
    """By its own name, by "..", by a name that begins like the root's; for its status too."""
    (root.parent / "root2").write_bytes(b"secret")
    with confined(root):
        for path in (root.parent / "secret", root / "../secret", root / "a/../../secret", root.parent / "root2"):
            assert refusal(path) == "source-outside"
            with pytest.raises(DropError, match="lies outside"):
                status_of(path)


def test_what_the_operator_named_is_read_where_it_lies(root):
    """A trusted path and what lies beneath it; links in it are the operator's own. Its neighbours are not trusted."""
    trusted = root.parent / "template"
    trusted.mkdir()
    (trusted / "link").symlink_to("../secret")
    with confined(root, [trusted]):
        assert read_regular(trusted / "link") == b"secret"
        assert refusal(root.parent / "secret") == "source-outside"


def test_a_trusted_path_beneath_the_root_is_confined_all_the_same(root):
    """Where strangers write, nothing is trusted."""
    (root / "template").symlink_to("../secret")
    with confined(root, [root / "template"]):
        assert refusal(root / "template") == "source-link"


@pytest.mark.parametrize("target", ["../secret", "file", "nowhere", "link"])
def test_no_link_is_followed(root, target):
    """Wherever it leads: out, to a neighbour, nowhere, to itself; for the status no more than for the content."""
    (root / "link").symlink_to(target)
    with confined(root):
        assert refusal(root / "link") == "source-link"
        with pytest.raises(DropError, match="symbolic link"):
            status_of(root / "link")


def test_no_directory_on_the_way_may_be_a_link(root):
    """A link in the place of a directory, which `O_NOFOLLOW` alone would follow."""
    (root / "out").symlink_to("..")
    (root / "in").symlink_to("a")
    with confined(root):
        assert refusal(root / "out" / "secret") == "source-link"
        assert refusal(root / "in" / "b" / "file") == "source-link"


def test_a_link_that_takes_a_files_place_after_it_was_looked_at_is_refused(root):
    """What was checked a moment ago counts for nothing."""
    with confined(root):
        assert status_of(root / "a/b/file").st_size == 8
        (root / "a" / "b").rename(root / "a" / "c")
        (root / "a" / "b").symlink_to(root.parent)
        (root.parent / "file").write_bytes(b"secret")
        assert refusal(root / "a/b/file") == "source-link"


def test_another_directory_in_the_roots_place_is_not_entered(root):
    """The root stays the one that was opened first."""
    with confined(root):
        read_regular(root / "file")
        root.rename(root.parent / "moved")
        root.mkdir()
        (root / "file").write_bytes(b"other")
        assert read_regular(root / "file") == b"file"


def test_a_hard_link_counts_where_only_the_owner_can_have_made_it(root):
    """In a directory that others can write, anyone could have given a file of the daemon's a name."""
    (root / "a" / "second").hardlink_to(root / "file")
    with confined(root):
        (root / "a").chmod(0o755)
        assert read_regular(root / "a" / "second") == b"file"
        (root / "a").chmod(0o775)
        assert refusal(root / "a" / "second") == "source-link"
        (root / "a" / "second").unlink()
        assert read_regular(root / "file") == b"file"


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file another owner: needs root")
def test_a_hard_link_to_a_file_of_another_owner_is_refused(root):
    """Even where nobody else can write."""
    (root / "file").chmod(0o644)
    os.chown(root / "file", 65534, -1)
    (root / "a" / "second").hardlink_to(root / "file")
    (root / "a").chmod(0o755)
    with confined(root):
        assert refusal(root / "a" / "second") == "source-link"


@pytest.mark.parametrize("inside", [True, False], ids=["confined", "free"])
def test_what_is_no_regular_file_is_neither_waited_for_nor_read(root, inside):
    """A pipe without a writer, a directory, a socket, a device."""
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "socket"))
        with confined(root if inside else None):
            for path in (root / "pipe", root / "a", root / "socket"):
                with pytest.raises(OSError, match=r"\[Errno 6\]") as caught:
                    open_regular(path)
                assert caught.value.errno == errno.ENXIO


def test_what_is_missing_is_told_by_its_whole_path(root):
    """Not by the one component that the kernel was asked for."""
    (root / "closed").mkdir()
    with confined(root):
        for name in ("none", "a/none/file", "file/below"):
            with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
                read_regular(root / name)
            assert caught.value.filename == str(root / name)


def test_what_is_written_goes_where_no_link_leads(root):
    """A folder beneath the root can be written by the name that is given; behind a link it cannot, and without a root it is itself."""
    (root / "out").symlink_to("..")
    with folder_of(root / "a" / "b" / "new", root) as folder:
        (folder / "new").write_bytes(b"x")
    assert (root / "a" / "b" / "new").read_bytes() == b"x"
    with pytest.raises(DropError) as caught, folder_of(root / "out" / "new", root):
        pass
    assert caught.value.code == "source-link"
    with folder_of(root / "out" / "new", None) as folder:
        assert folder == root / "out"


def test_descriptors_are_given_back(root):
    """Of what was opened and of what was refused."""
    (root / "link").symlink_to("file")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with confined(root):
        read_regular(root / "a/b/file")
        refusal(root / "link")
        with pytest.raises(FileNotFoundError):
            status_of(root / "a/none")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_confinement_ends_and_belongs_to_its_context(root):
    """Other threads are free; one that runs in a copy of the context is not."""
    found = []

    def read() -> None:
        try:
            found.append(read_regular(root.parent / "secret"))
        except DropError as error:
            found.append(error.code)

    with confined(root):
        copied = copy_context()
        for target, arguments in ((read, ()), (copied.run, (read,))):
            thread = threading.Thread(target=target, args=arguments)
            thread.start()
            thread.join()
    read()
    assert found == [b"secret", "source-outside", b"secret"]


def test_a_link_can_be_resolved_once_to_a_place_beneath_the_root(root):
    """By the root's own name, though that is a link itself; what leads elsewhere is refused."""
    (root / "link").symlink_to("a")
    (root / "out").symlink_to("..")
    (root.parent / "alias").symlink_to("root")
    assert unlinked(root / "link" / "b" / "file", root) == root / "a" / "b" / "file"
    assert unlinked(root.parent / "alias" / "file", root) == root / "file"
    assert unlinked(root / "file", root.parent / "alias") == root.parent / "alias" / "file"
    for path in (root / "out" / "secret", root.parent / "secret", root / ".." / "secret"):
        with pytest.raises(DropError) as caught:
            unlinked(path, root)
        assert caught.value.code == "source-outside"
