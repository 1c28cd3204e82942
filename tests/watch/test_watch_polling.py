"""Where the kernel tells nothing, or not enough: the directory is polled, and status says why."""

import errno

from watch_fakes import FakeKernel, box
from watching_kit import place, watching

from smdaemon.watch import watcher as watcher_module


async def test_polling_finds_everything(tmp_path):
    """New files and trees, changed files, and whatever came before."""
    (tmp_path / "old.box").write_bytes(box(1))
    async with watching(tmp_path, method="poll", quiet_seconds=0, poll_seconds=0.01) as watched:
        assert watched.watcher.state.method == "poll"
        assert await watched.next() == "old.box"
        (tmp_path / "n" / "o").mkdir(parents=True)
        (tmp_path / "n" / "o" / "a.box").write_bytes(box(1))
        assert await watched.next() == "n/o/a.box"
        (tmp_path / "n" / "o" / "a.box").write_bytes(box(2))
        assert await watched.next() == "n/o/a.box"
        (tmp_path / "s").mkdir()
        place(tmp_path / "s" / "a.npy", box(1))
        assert await watched.next() == "s"


async def test_polling_does_not_report_a_file_that_is_being_written(tmp_path):
    """Nobody says that it was closed: only rest counts, and the structure."""
    async with watching(tmp_path, method="poll", quiet_seconds=0.3, poll_seconds=0.01) as watched:
        with (tmp_path / "slow.box").open("wb", buffering=0) as file:
            file.write(b"3x")
            await watched.nothing_before("other.box")
            file.write(b"xx")
            assert await watched.next() == "slow.box"


async def test_a_network_file_system_is_polled(tmp_path, monkeypatch):
    """The kernel does not see what other hosts write there; asked for events, it gives events."""
    monkeypatch.setattr(watcher_module, "remote_kind", lambda root: "nfs")
    async with watching(tmp_path) as watched:
        assert watched.watcher.state.method == "poll"
        assert watched.watcher.state.health == "ok"
    async with watching(tmp_path, method="inotify") as watched:
        assert watched.watcher.state.method == "inotify"


async def test_at_the_limit_of_watches_the_directory_is_polled(tmp_path):
    """Status says so and names the remedy; every drop is found all the same."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    kernel = FakeKernel(limit=2)
    async with watching(tmp_path, kernel=kernel, quiet_seconds=0, poll_seconds=0.01) as watched:
        state = watched.watcher.state
        assert (state.method, state.health, state.error.code) == ("poll", "degraded", "watch-limit")
        assert "max_user_watches" in state.error.remedy
        (tmp_path / "a" / "b" / "a.box").write_bytes(box(1))
        assert await watched.next() == "a/b/a.box"
        kernel.limit = 100
        watched.watcher.request_rescan()
        await watched.health("ok")
        assert watched.watcher.state.method == "inotify"


async def test_without_an_inotify_instance_the_directory_is_polled(tmp_path):
    """The limit of instances is another limit with the same end."""

    def refuse():
        raise OSError(errno.EMFILE, "no")

    async with watching(tmp_path, kernel=refuse) as watched:
        assert watched.watcher.state.method == "poll"
        assert watched.watcher.state.error.code == "watch-limit"
