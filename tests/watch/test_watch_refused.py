"""Drops that whoever is told of them cannot take for the moment: what a watcher does about those."""

import pytest
import trio
from watch_fakes import Claims, box

from smdaemon.watch.watcher import NotTakenError, Watcher, WatchSpec

NEVER = 3600.0
BOUND = 20.0


@pytest.mark.parametrize("method", ["inotify", "poll"])
async def test_a_drop_that_cannot_be_taken_waits_though_its_directory_is_listed(tmp_path, method):
    """However often the watcher looks meanwhile; a rescan that is asked for ends the wait."""
    send, reported = trio.open_memory_channel(100)

    async def on_drop(drop):
        await send.send(drop.path.name)
        if drop.path.name == "refused.box":
            raise NotTakenError(NEVER)

    spec = WatchSpec(tmp_path, method=method, quiet_seconds=0, poll_seconds=0.01)
    watcher = Watcher(spec, on_drop, claiming=Claims())
    (tmp_path / "refused.box").write_bytes(box(1))
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run)
            assert await reported.receive() == "refused.box"
            for name in ("a.box", "b.box", "c.box"):  # for each of them the whole directory is listed again
                (tmp_path / name).write_bytes(box(1))
                assert await reported.receive() == name
            watcher.request_rescan()
            assert await reported.receive() == "refused.box"
            nursery.cancel_scope.cancel()
