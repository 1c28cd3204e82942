"""The kernel's records, and the kernel itself."""

import errno
import struct

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.watch.inotify import Event, Inotify, Mask, parse


def record(watch, mask, name=b""):
    """One `struct inotify_event` as the kernel lays it out: the name padded with NUL to 16 bytes."""
    padded = name + b"\0" * (16 - len(name) % 16) if name else b""
    return struct.pack("iIII", watch, mask, 7, len(padded)) + padded


names = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(-1, 2**31 - 1), st.integers(0, 2**32 - 1), st.one_of(st.just(b""), names))))
def test_every_record_of_a_block_is_parsed(records):
    """Whatever bytes a name has, the events come out as they went in."""
    block = b"".join(record(*fields) for fields in records)
    expected = [Event(watch, mask, name.decode("utf-8", "surrogateescape")) for watch, mask, name in records]
    assert parse(block) == expected


def test_an_overflow_has_no_watch_and_no_name():
    """The kernel's overflow record comes with watch -1."""
    assert parse(record(-1, Mask.Q_OVERFLOW)) == [Event(-1, Mask.Q_OVERFLOW, "")]


async def test_the_kernel_reports_a_file_that_was_written_and_closed(tmp_path):
    """A watched directory makes an event with the watch's number and the file's name."""
    kernel = Inotify()
    try:
        watch = kernel.add(str(tmp_path))
        assert kernel.read() == []
        (tmp_path / "a").write_bytes(b"1")
        with trio.fail_after(5):
            await kernel.wait()
        assert kernel.read() == [Event(watch, Mask.CREATE, "a"), Event(watch, Mask.CLOSE_WRITE, "a")]
    finally:
        kernel.close()


async def test_the_same_directory_has_one_watch(tmp_path):
    """Adding a directory twice is harmless, and so is removing it twice."""
    kernel = Inotify()
    try:
        watch = kernel.add(str(tmp_path))
        assert kernel.add(str(tmp_path)) == watch
        kernel.remove(watch)
        kernel.remove(watch)
    finally:
        kernel.close()


async def test_a_missing_directory_and_a_file_are_refused(tmp_path):
    """The errno says why, the filename says which."""
    kernel = Inotify()
    (tmp_path / "file").write_bytes(b"")
    try:
        with pytest.raises(FileNotFoundError) as caught:
            kernel.add(str(tmp_path / "absent"))
        assert caught.value.filename == str(tmp_path / "absent")
        with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is what is asked for
            kernel.add(str(tmp_path / "file"))
        assert refused.value.errno == errno.ENOTDIR
    finally:
        kernel.close()
