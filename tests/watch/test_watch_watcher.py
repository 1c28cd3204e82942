"""A watcher on real directories with the real kernel; every wait is for an event, with a bound."""

import json
import shutil
from pathlib import Path

import pytest
import trio
from watch_fakes import Claims, FakeKernel, box
from watching_kit import BOUND, NEVER, place, watching

from smdaemon.errors import DropError
from smdaemon.watch.inotify import Event, Mask
from smdaemon.watch.watcher import Watcher, WatchSpec


def queue_limit() -> int:
    """How many events the kernel keeps for one instance."""
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


async def test_a_file_renamed_into_place_is_reported(tmp_path):
    """The usual way to write."""
    async with watching(tmp_path) as watched:
        assert watched.watcher.state.method == "inotify"
        place(tmp_path / "a.box", box(3))
        assert await watched.next() == "a.box"


async def test_a_slow_writer_is_reported_at_its_close_and_not_before(tmp_path):
    """Between its writes other drops come and go; its own is whole only at the end."""
    async with watching(tmp_path) as watched:
        with (tmp_path / "slow.box").open("wb", buffering=0) as file:
            for number, piece in enumerate((b"3", b"x", b"x", b"x")):
                file.write(piece)
                await watched.nothing_before(f"{number}.box")
        assert await watched.next() == "slow.box"


async def test_a_file_closed_half_way_is_reported_when_it_is_whole(tmp_path):
    """Its structure says that more is to come."""
    async with watching(tmp_path) as watched:
        (tmp_path / "a.box").write_bytes(b"3x")
        await watched.nothing_before("other.box")
        with (tmp_path / "a.box").open("ab") as file:
            file.write(b"xx")
        assert await watched.next() == "a.box"


async def test_nothing_is_lost_in_trees_made_while_they_are_watched(tmp_path):
    """A hundred files, each in a new nested directory, written at once after the directories were made."""

    def make():
        for number in range(100):
            directory = tmp_path / f"n{number}" / "a" / "b"
            directory.mkdir(parents=True)
            (directory / "f.box").write_bytes(box(1))

    async with watching(tmp_path, quiet_seconds=0.2) as watched:
        await trio.to_thread.run_sync(make)
        assert await watched.take(100) == sorted(f"n{number}/a/b/f.box" for number in range(100))


async def test_what_lay_there_before_the_start_is_reported_before_it_is_announced(tmp_path):
    """Whoever waits for the start has the backlog, oldest first."""
    for age in range(300):
        path = tmp_path / f"{age % 7}" / f"{age}.box"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(box(1))
    send, receive = trio.open_memory_channel(1000)
    watcher = Watcher(WatchSpec(root=tmp_path, recursive=True, quiet_seconds=0), send.send, claiming=Claims())
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        assert receive.statistics().current_buffer_used == 300
        assert watcher.state.directories == 8
        assert watcher.state.last_rescan is not None
        nursery.cancel_scope.cancel()


async def test_a_drop_is_reported_once(tmp_path):
    """A rescan tells nothing new; a change does."""
    async with watching(tmp_path) as watched:
        place(tmp_path / "a.box", box(1))
        assert await watched.next() == "a.box"
        watched.watcher.request_rescan()
        await watched.nothing_before("b.box")
        place(tmp_path / "a.box", box(2))
        assert await watched.next() == "a.box"


async def test_a_link_into_place_is_reported_after_the_quiet_period(tmp_path, tmp_path_factory):
    """Nothing is closed and nothing renamed: the kernel says only that there is a name."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.box"
    elsewhere.write_bytes(box(1))
    async with watching(tmp_path, quiet_seconds=0.1) as watched:
        (tmp_path / "l.box").symlink_to(elsewhere)
        assert await watched.next() == "l.box"


async def test_a_directory_renamed_into_place_is_reported_as_a_whole(tmp_path):
    """At once, with no quiet period."""
    async with watching(tmp_path) as watched:
        (tmp_path / ".s").mkdir()
        (tmp_path / ".s" / "a.npy").write_bytes(box(1))
        (tmp_path / ".s").rename(tmp_path / "s")
        assert await watched.next() == "s"
        await watched.nothing_before("b.box")


async def test_a_directory_written_in_place_is_reported_after_its_quiet_period(tmp_path):
    """Once, with all of its files."""
    async with watching(tmp_path, quiet_seconds=0.3) as watched:
        (tmp_path / "s").mkdir()
        for number in range(5):
            (tmp_path / "s" / f"{number}.npy").write_bytes(box(1))
        assert await watched.next() == "s"
        await watched.nothing_before("b.box")


async def test_files_in_a_directory_that_was_renamed_into_place_are_reported_at_once(tmp_path):
    """They were renamed into place with it."""
    async with watching(tmp_path) as watched:
        (tmp_path / ".d" / "e").mkdir(parents=True)
        (tmp_path / ".d" / "e" / "a.box").write_bytes(box(1))
        (tmp_path / ".d").rename(tmp_path / "d")
        assert await watched.next() == "d/e/a.box"
        place(tmp_path / "d" / "e" / "b.box", box(1))
        assert await watched.next() == "d/e/b.box"


async def test_a_directory_moved_within_the_tree_is_watched_under_its_new_name(tmp_path):
    """Its old name is forgotten."""
    (tmp_path / "d").mkdir()
    async with watching(tmp_path) as watched:
        place(tmp_path / "d" / "a.box", box(1))
        assert await watched.next() == "d/a.box"
        (tmp_path / "d").rename(tmp_path / "e")
        assert await watched.next() == "e/a.box"
        place(tmp_path / "e" / "b.box", box(1))
        assert await watched.next() == "e/b.box"
        known = {str(Path(path).relative_to(tmp_path)) for path in watched.watcher._sightings._known()}
        assert known == {"e/a.box", "e/b.box"}


async def test_a_sharded_drop_is_reported_with_its_last_shard(tmp_path):
    """The index came first, then the shards."""
    async with watching(tmp_path) as watched:
        index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
        place(tmp_path / "m.safetensors.index.json", json.dumps(index).encode())
        (tmp_path / "m-1.safetensors").write_bytes(box(1))
        await watched.nothing_before("b.box")
        (tmp_path / "m-2.safetensors").write_bytes(box(1))
        assert await watched.next() == "m.safetensors.index.json"


async def test_a_request_is_reported_at_its_close(tmp_path):
    """Its kind says what it is."""
    reported = []
    done = trio.Event()

    async def on_drop(drop):
        reported.append((drop.kind, drop.format))
        done.set()
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        spec = WatchSpec(root=tmp_path, quiet_seconds=NEVER)
        await nursery.start(Watcher(spec, on_drop, claiming=Claims()).run)
        (tmp_path / "r.export.json").write_text("{}")
        with trio.fail_after(BOUND):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert reported == [("request", "json")]


async def test_an_overflow_is_followed_by_a_rescan(tmp_path):
    """A file of which no event told is found."""
    kernel = FakeKernel()
    async with watching(tmp_path, kernel=kernel, quiet_seconds=0.05) as watched:
        (tmp_path / "a.box").write_bytes(box(1))
        kernel.say(Event(-1, Mask.Q_OVERFLOW))
        assert await watched.next() == "a.box"
    assert kernel.closed


async def test_a_real_overflow_loses_nothing(tmp_path):
    """More events than the kernel's queue holds, while nobody reads them."""
    limit = queue_limit()
    if limit > 50_000:
        pytest.skip("the kernel's queue is too long to be filled here")
    async with watching(tmp_path, quiet_seconds=0.05) as watched:
        filler = tmp_path / "filler"
        for _ in range(limit // 2 + 10):
            # No await in this loop: the watcher cannot read. Close and deletion, so that events do not merge.
            filler.write_bytes(b"")
            filler.unlink()
        place(tmp_path / "a.box", box(1))
        assert await watched.next() == "a.box"


async def test_the_net_below_the_events_finds_what_they_missed(tmp_path):
    """Every `rescan_seconds` what changed is listed, whatever the kernel said."""
    async with watching(tmp_path, kernel=FakeKernel(), quiet_seconds=0, rescan_seconds=0.05) as watched:
        (tmp_path / "n").mkdir()
        (tmp_path / "n" / "a.box").write_bytes(box(1))
        assert await watched.next() == "n/a.box"
        (tmp_path / "n" / "a.box").write_bytes(box(2))
        assert await watched.next() == "n/a.box"


async def test_a_rescan_can_be_asked_for(tmp_path):
    """As the daemon does on SIGHUP."""
    async with watching(tmp_path, kernel=FakeKernel(), quiet_seconds=0) as watched:
        (tmp_path / "a.box").write_bytes(box(1))
        watched.watcher.request_rescan()
        assert await watched.next() == "a.box"


async def test_a_report_that_takes_long_holds_up_no_events(tmp_path):
    """The kernel's queue is emptied meanwhile, and no drop is reported twice."""
    reported = []
    go_on, full = trio.Event(), trio.Event()

    async def on_drop(drop):
        reported.append(drop.path.name)
        if len(reported) == 101:
            full.set()
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        spec = WatchSpec(root=tmp_path, quiet_seconds=NEVER)
        await nursery.start(Watcher(spec, on_drop, claiming=Claims()).run)
        place(tmp_path / "first.box", box(1))
        for number in range(100):
            place(tmp_path / f"{number}.box", box(1))
        go_on.set()
        with trio.fail_after(BOUND):
            await full.wait()
        nursery.cancel_scope.cancel()
    assert len(set(reported)) == 101


async def test_deleted_directories_leave_nothing_behind(tmp_path):
    """What is remembered shrinks with what is there."""
    async with watching(tmp_path) as watched:
        for number in range(50):
            (tmp_path / f"{number}").mkdir()
            place(tmp_path / f"{number}" / "a.box", box(1))
        # Files that were there before their directory's watch wait for a quiet period: ask only that all are known.
        watched.watcher.request_rescan()
        await watched.nothing_before("known.box")
        for number in range(50):
            shutil.rmtree(tmp_path / f"{number}")
        with trio.fail_after(BOUND):
            while len(watched.watcher._sightings._known()) > 1 or watched.watcher.state.directories > 1:
                changed = watched.changed
                watched.watcher.request_rescan()
                await changed.wait()
        assert [str(Path(path).relative_to(tmp_path)) for path in watched.watcher._sightings._known()] == ["known.box"]


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    """When the watcher is made, not when the first file drops."""
    with pytest.raises(DropError) as caught:
        Watcher(WatchSpec(root=tmp_path, format="absent"), None)
    assert caught.value.code == "source-unknown-format"


async def test_the_real_formats_are_asked(tmp_path):
    """With a format given, no other is taken."""
    numpy = pytest.importorskip("numpy")
    send, receive = trio.open_memory_channel(10)
    async with trio.open_nursery() as nursery:
        await nursery.start(Watcher(WatchSpec(root=tmp_path, format="npy", quiet_seconds=NEVER), send.send).run)
        numpy.savez(tmp_path / "a.npz", a=numpy.arange(3))
        numpy.save(tmp_path / "b.npy", numpy.arange(3))
        with trio.fail_after(BOUND):
            drop = await receive.receive()
        nursery.cancel_scope.cancel()
    assert (drop.path, drop.kind, drop.format) == (tmp_path / "b.npy", "output", "npy")
