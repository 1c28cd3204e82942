"""A watched directory that is missing, goes away, comes back, or may not be read in part."""

import errno
import os

import pytest
import trio
from watch_fakes import box
from watching_kit import BOUND, NEVER, place, watching

from smdaemon.watch import watcher as watcher_module


@pytest.mark.parametrize("go", ["delete", "move"])
async def test_a_root_that_went_away_and_came_back_is_watched_again(tmp_path, go):
    """Degraded in between, with the error; what lies in it then is reported."""
    root = tmp_path / "root"
    root.mkdir()
    async with watching(root, quiet_seconds=0.01) as watched:
        if go == "delete":
            root.rmdir()
        else:
            root.rename(tmp_path / "elsewhere")
        await watched.health("degraded")
        assert watched.watcher.state.error.code == "directory-missing"
        root.mkdir()
        (root / "a.box").write_bytes(box(1))
        assert await watched.next() == "a.box"
        assert watched.watcher.state.health == "ok"
        place(root / "b.box", box(1))
        assert await watched.next() == "b.box"


async def test_a_root_that_was_replaced_unseen_is_noticed(tmp_path):
    """Its parent was moved, which makes no event in it."""
    root = tmp_path / "parent" / "root"
    root.mkdir(parents=True)
    async with watching(root, quiet_seconds=0.01, poll_seconds=0.02) as watched:
        (tmp_path / "parent").rename(tmp_path / "old")
        root.mkdir(parents=True)
        (root / "a.box").write_bytes(box(1))
        assert await watched.next() == "a.box"


async def test_a_root_that_is_missing_at_the_start_is_waited_for(tmp_path):
    """The start is announced, degraded; the directory is watched once it is there."""
    root = tmp_path / "later"
    async with watching(root, quiet_seconds=0) as watched:
        assert watched.watcher.state.health == "degraded"
        assert watched.watcher.state.error.code == "directory-missing"
        assert watched.watcher.state.method == ""
        root.mkdir()
        (root / "a.box").write_bytes(box(1))
        assert await watched.next() == "a.box"


async def test_a_rescan_asked_for_while_the_root_is_missing_is_one_attempt_and_no_loop(tmp_path, monkeypatch):
    """The wish is met by the attempt that it starts; the back-off holds afterwards."""
    attempts = []
    twice = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def missing(root):
        attempts.append(root)
        if len(attempts) == 2:
            token.run_sync_soon(twice.set)
        raise FileNotFoundError(errno.ENOENT, "no", root)

    monkeypatch.setattr(watcher_module, "remote_kind", missing)
    monkeypatch.setattr(watcher_module, "_FIRST_RETRY_SECONDS", NEVER)
    async with watching(tmp_path) as watched:
        assert len(attempts) == 1
        watched.watcher.request_rescan()
        with trio.fail_after(BOUND):
            await twice.wait()
        assert not watched.watcher._rescan_wanted


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_directory_that_may_not_be_read_is_said_to_be(tmp_path):
    """The rest is watched."""
    (tmp_path / "closed").mkdir(mode=0)
    try:
        async with watching(tmp_path) as watched:
            assert watched.watcher.state.health == "degraded"
            assert watched.watcher.state.error.code == "permission-denied"
            await watched.nothing_before("a.box")
    finally:
        (tmp_path / "closed").chmod(0o700)
