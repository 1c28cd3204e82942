"""Segments and plans: sealed, filled with pages, checked before they are believed."""

import fcntl
import mmap
import os

import pytest

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.handoff import memory
from smdaemon.handoff.memory import PAGE_BYTES, adopted_segment, make_plan, make_segment, read_plan


@pytest.fixture
def segment():
    """A segment of a page and a byte."""
    made = make_segment(PAGE_BYTES + 1)
    yield made
    made.close()


def test_a_segment_is_whole_pages_and_can_neither_shrink_nor_grow(segment):
    """An unsealed memory that is cut short would kill its reader."""
    assert segment.nbytes == 2 * PAGE_BYTES == os.fstat(segment.fd).st_size
    for size in (0, PAGE_BYTES, 4 * PAGE_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_a_segments_memory_is_there_before_anyone_writes(segment):
    """The kernel counts all its blocks."""
    assert os.fstat(segment.fd).st_blocks * 512 == segment.nbytes


def test_what_one_process_writes_the_other_reads(segment):
    """Two maps of one segment are the same memory."""
    with mmap.mmap(segment.fd, segment.nbytes) as other:
        segment.buffer[5:8] = b"abc"
        assert other[5:8] == b"abc"


def test_an_older_kernel_touches_the_pages_by_hand(segment, monkeypatch):
    """Without MADV_POPULATE_WRITE every page is written once."""
    monkeypatch.setattr(memory, "_MADV_POPULATE_WRITE", 9999)
    segment.buffer[0:3] = b"abc"
    segment.populate()
    assert bytes(segment.buffer[PAGE_BYTES : PAGE_BYTES + 3]) == bytes(3)


def test_more_than_the_machine_has_is_refused_before_it_is_tried(monkeypatch):
    """The remedy is an operator's; nobody is killed for want of memory."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * PAGE_BYTES)
    with pytest.raises(EnvironmentFault) as refused:
        make_segment(11 * PAGE_BYTES)
    assert (refused.value.code, refused.value.retryable) == ("handoff-memory", True)


def test_memory_that_is_not_sealed_is_not_adopted():
    """Nor is what is no memory at all, or shorter than it is said to be; its descriptor is closed."""
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, PAGE_BYTES)
    pipe, other = os.pipe()
    sealed = os.dup(make_segment(PAGE_BYTES).fd)
    for fd, nbytes in ((unsealed, PAGE_BYTES), (pipe, PAGE_BYTES), (sealed, 2 * PAGE_BYTES)):
        with pytest.raises(DropError) as refused:
            adopted_segment(fd, nbytes)
        assert refused.value.code == "handoff-protocol"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.close(other)


def test_a_plan_cannot_be_changed_any_more():
    """What was checked is what is used."""
    plan = make_plan(b"content")
    with pytest.raises(PermissionError):
        os.pwrite(plan, b"x", 0)
    assert read_plan(plan, 100) == b"content"
    with pytest.raises(DropError, match="over 6"):
        read_plan(plan, 6)
    os.close(plan)


def test_a_plan_that_could_be_changed_is_refused(segment):
    """A segment is no plan: it is not sealed against writing."""
    with pytest.raises(DropError, match="not sealed"):
        read_plan(segment.fd, 1 << 20)
