"""Room on the disk: looked at before an export begins; a queue that pauses and says so; a limit of bytes a second."""

import os
import threading
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from smdaemon.daemon.space import SpaceWatch
from smdaemon.errors import EnvironmentFault
from smdaemon.export.rate import RateLimit
from smdaemon.jobs.attempt import JobCancelled
from smdaemon.publish import space
from smdaemon.settings import Config, DaemonSettings, ModelSettings


class Disk:
    """A file system whose room the test decides."""

    def __init__(self, monkeypatch, free: int, size: int = 1 << 40) -> None:
        self.free = free
        monkeypatch.setattr(space, "room_of", lambda _path: space.Room(self.free, size))


def promise(nbytes: int, min_free: int) -> None:
    """By an export that is alone."""
    space.Promises().make(1, Path("/m"), nbytes, min_free, lambda: 0)


def test_exports_together_leave_what_is_to_stay_free(monkeypatch):
    """What the others there have still to write counts; what they have written is on the disk already."""
    disk = Disk(monkeypatch, 1000)
    promises, written = space.Promises(), [0]
    promises.make(1, Path("/m"), 600, 100, lambda: written[0])
    with pytest.raises(EnvironmentFault, match="1000 bytes left; 400 are to be written, 600 more by exports under way"):
        promises.make(2, Path("/m"), 400, 100, lambda: 0)
    promises.make(3, Path("/m"), 300, 100, lambda: 0)
    promises.release(3)
    disk.free, written[0] = 400, 600
    promises.make(2, Path("/m"), 300, 100, lambda: 0)
    promises.release(2)
    promises.release(1)
    disk.free = 1000
    promises.make(2, Path("/m"), 900, 100, lambda: 0)


def test_what_is_written_to_another_disk_takes_no_room_here(monkeypatch):
    """File systems are told apart."""
    monkeypatch.setattr(space, "room_of", lambda path: space.Room(1000, 1 << 40, len(path.name)))
    promises = space.Promises()
    promises.make(1, Path("/m"), 900, 100, lambda: 0)
    promises.make(2, Path("/other"), 900, 100, lambda: 0)


def test_room_is_that_of_the_nearest_directory_that_is_there(tmp_path):
    """A publish directory is made with its first version."""
    found = os.statvfs(tmp_path)
    assert abs(space.room_of(tmp_path / "not" / "yet").free - found.f_bavail * found.f_frsize) < 1 << 30


def test_an_export_that_would_fill_the_disk_does_not_begin(monkeypatch):
    """The message has all three numbers; it is tried again by itself."""
    Disk(monkeypatch, 1000)
    promise(900, 100)
    with pytest.raises(EnvironmentFault, match=r"1000 bytes left; 901 .* 100 are to stay free") as fault:
        promise(901, 100)
    assert (fault.value.code, fault.value.retryable) == ("disk-low", True)


def test_a_file_system_that_tells_no_size_is_believed_in_nothing(monkeypatch):
    """Some network mounts report zero."""
    Disk(monkeypatch, 0, size=0)
    promise(1 << 40, 1 << 40)


def test_a_disk_that_is_full_to_the_last_byte_has_no_room(monkeypatch):
    """No bytes left of a size that is known are a shortage, not a file system that tells nothing."""
    Disk(monkeypatch, 0)
    with pytest.raises(EnvironmentFault, match="0 bytes left; 900 ") as fault:
        promise(900, 100)
    assert (fault.value.code, fault.value.retryable) == ("disk-low", True)


@pytest.mark.parametrize("free", [10, 0])
async def test_a_low_disk_pauses_the_queue_visibly_and_room_sets_it_going(started, monkeypatch, free):
    """The drop is accepted and waits; status says degraded, disk-low and the remedy; then it is published by itself."""
    disk = Disk(monkeypatch, free)
    async with started(daemon='min_free = "1MiB"') as running:
        running.drop("ckpt-1.npz")
        while not (status := await running.ask(running.client.get, "/v1/status"))["jobs"].get("queued"):
            await trio.lowlevel.checkpoint()
        (model,) = status["models"]
        assert (model["health"], model["error"]["code"]) == ("degraded", "disk-low")
        assert "min_free" in model["error"]["remedy"]
        (queued,) = (await running.ask(running.client.get, "/v1/queue"))["jobs"]
        assert queued["reason"] == f"the queue is paused: {model['error']['message']}"
        disk.free = 1 << 40
        await running.daemon._space.look()
        (job,) = await running.ended()
        assert job["state"] == "published"
        assert (await running.ask(running.client.get, "/v1/status"))["models"][0]["health"] == "ok"


async def test_a_file_system_that_hangs_hides_no_other(monkeypatch):
    """Its own queue pauses until it answers, and what it had stays known; a full disk beside it is seen; it is not asked again meanwhile."""
    config = Config(
        daemon=DaemonSettings(state_dir="/state", control_socket="/control", min_free="100"),
        model=[ModelSettings(name=name, watch=f"/runs/{name}", publish=f"/models/{name}") for name in "ab"],
    )
    answers, asked = threading.Event(), []

    def room_of(path: Path) -> space.Room:
        asked.append(path.name)
        if asked.count("a") == 2 and path.name == "a":
            answers.wait(60)
        return space.Room(1000 if len(asked) <= 2 else 1, 1 << 40)

    monkeypatch.setattr(space, "room_of", room_of)
    monkeypatch.setattr("smdaemon.daemon.space.ANSWER_SECONDS", 1.0)
    changes = []
    watch = SpaceWatch(lambda: config, lambda: changes.append(sorted(watch.low)))
    for _ in range(3):
        await watch.look()
    assert {name: fault.code for name, fault in watch.low.items()} == {"a": "directory-slow", "b": "disk-low"}
    assert {name: room.free for name, room in watch.rooms.items()} == {"a": 1000, "b": 1}
    config = Config(daemon=config.daemon, model=[ModelSettings(name="a", watch="/runs/a", publish="/models/c")])
    await watch.look()  # after a reload: another directory is none of that
    answers.set()
    assert (sorted(asked), changes) == (["a", "a", "b", "b", "b", "c"], [["a", "b"], ["a"]])
    assert {name: fault.code for name, fault in watch.low.items()} == {"a": "disk-low"}


async def test_an_export_larger_than_the_room_waits_with_its_reason(started, monkeypatch):
    """Above the low-water mark, but not with this export: it waits, the others go on."""
    Disk(monkeypatch, (1 << 20) + 100)
    async with started(daemon='min_free = "1MiB"') as running:
        running.drop("ckpt-1.npz", big=bytearray(4096))
        while not (await running.ask(running.client.get, "/v1/status"))["jobs"].get("waiting"):
            await trio.lowlevel.checkpoint()
        (job,) = (await running.ask(running.client.get, "/v1/jobs", state="waiting"))["jobs"]
        assert job["error"]["code"] == "disk-low"
        running.drop("ckpt-2.npz")  # 48 bytes
        (ended,) = await running.ended()
        assert (ended["state"], ended["version"]) == ("published", 2)


class Clock:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now

    def pause(self, seconds: float) -> None:
        """Wait."""
        self.now += seconds


@given(st.lists(st.integers(1, 5_000_000), min_size=1, max_size=50), st.integers(1000, 10_000_000))
def test_no_more_passes_than_the_rate_allows(chunks, rate):
    """Whatever the chunks: all of them take as long as they should, less one burst."""
    clock = Clock()
    limit = RateLimit(rate, burst_seconds=0.25, clock=clock, pause=clock.pause)
    for chunk in chunks:
        limit.passed(chunk, lambda: None)
    assert sum(chunks) <= rate * (clock.now - 100 + 0.25) * 1.0001 + 1
    assert clock.now - 100 <= sum(chunks) / rate + 0.001


def test_time_without_writing_is_not_saved_up():
    """After an idle hour the rate is what it was."""
    clock = Clock()
    limit = RateLimit(100, burst_seconds=0.25, clock=clock, pause=clock.pause)
    clock.now += 3600
    limit.passed(200, lambda: None)
    assert clock.now == pytest.approx(3700 + 1.75)


def test_whoever_waits_can_be_stopped():
    """A cancelled job does not sit its limit out."""
    clock = Clock()
    limit = RateLimit(1, clock=clock, pause=clock.pause)

    def stop() -> None:
        if clock.now > 101:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        limit.passed(1_000_000, stop)
    assert clock.now < 102


async def test_a_model_with_a_write_rate_is_published(started):
    """The option reaches the export."""
    async with started(model='write_rate = "1GB"') as running:
        running.drop("ckpt-1.npz")
        (job,) = await running.ended()
        assert job["state"] == "published"
