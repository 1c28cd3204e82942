"""What the plots and pages are fed from: samples, news of the status, and the last lines of each job."""

import math

import numpy as np
import pytest
import trio
from daemon_kit import write_config
from daemon_process import SmdaemonProcess

from smdaemon.daemon.feed import StatusNews, feed
from smdaemon.daemon.history import INTERVAL_SECONDS, SAMPLES, History
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.states import Event
from smdaemon.proto import v1
from smdaemon.recent_lines import RecentLines


def status_of(**fields):
    """A status with two models on disks of their own, one of which does not tell its room."""
    status = v1.Status(
        host_memory_used_bytes=7, workers_busy=2, jobs={"queued": 3, "writing": 2, "published": 9, "failed": 1}
    )
    for free, whole in ((500, 1000), (300, 1000), (0, 0)):
        status.models.add(disk_free_bytes=free, disk_bytes=whole)
    status.MergeFrom(v1.Status(**fields))
    return status


def new_job(number):
    """A job that can be accepted."""
    return NewJob(model="ranker", origin="drop", source=f"/runs/{number}", identity=str(number), order=number)


async def test_a_sample_is_taken_at_once_and_then_regularly(autojump_clock):
    """Each tells memory, workers, open jobs, and the least room of any disk."""
    past = History(status_of, lambda: 0)
    assert past.newest is None
    with trio.move_on_after(2.5 * INTERVAL_SECONDS):
        await past.run()
    message = past.message()
    assert message.interval_seconds == INTERVAL_SECONDS
    assert len(message.samples) == 3
    assert past.newest == message.samples[-1]
    for sample in message.samples:
        assert (sample.host_memory_used_bytes, sample.workers_busy, sample.open_jobs) == (7, 2, 5)
        assert (sample.bytes_per_second, sample.disk_free_bytes, sample.stall_seconds) == (0, 300, 0)
        assert sample.at.seconds > 0


def test_only_the_last_hour_is_kept():
    """The oldest sample goes when another comes; an hour of them is there."""
    status = v1.Status()
    past = History(lambda: status, lambda: 0)
    for number in range(SAMPLES + 10):
        status.workers_busy = number
        past.take()
    assert [sample.workers_busy for sample in past.message().samples] == list(range(10, SAMPLES + 10))
    assert SAMPLES * INTERVAL_SECONDS == 3600


def test_a_sample_has_the_longest_stall_since_the_one_before():
    """Each stall is told once; one that is no number is none. Without models there is no room."""
    past = History(v1.Status, int)
    for seconds in (0.002, 0.05, 0.01, math.nan, math.inf):
        past.observe_stall("ranker", seconds)
    past.take()
    past.take()
    assert [sample.stall_seconds for sample in past.message().samples] == [0.05, 0]
    assert past.newest.disk_free_bytes == 0


def test_a_sample_has_the_bytes_since_the_one_before():
    """Also of an export that began and ended in between; in bytes a second."""
    written, clock = iter((0, 0, 4096, 4096, 4097)), iter((0.0, 0.0, 4.0, 6.0, 6.5))
    past = History(v1.Status, lambda: next(written), lambda: next(clock))
    for _ in range(4):
        past.take()
    assert [sample.bytes_per_second for sample in past.message().samples] == [0, 1024, 0, 2]


async def test_news_come_when_the_status_is_another(autojump_clock):
    """At once, then only after a change, and once a second at most."""
    status = v1.Event(status=status_of())
    news = StatusNews(lambda: v1.Event(status=status.status))
    assert list(news()) == [status]
    status.status.workers_busy = 1
    assert list(news()) == []
    await trio.sleep(1)
    assert [event.status.workers_busy for event in news()] == [1]
    await trio.sleep(1)
    assert list(news()) == []
    await trio.sleep(1)
    status.status.workers_busy = 0
    assert [event.status.workers_busy for event in news()] == [0]


async def test_every_reader_has_news_of_its_own():
    """What one was told another is told, too."""
    readers = [StatusNews(lambda: v1.Event(status=status_of())) for _ in range(2)]
    assert all(len(list(reader())) == 1 for reader in readers)


async def test_the_feed_tells_moves_news_and_progress_until_the_end(tmp_path, autojump_clock):
    """First the moves that were missed, then news, and where nothing moves for a while the progress."""
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        job = await ledger.accept(new_job(1))
        news = StatusNews(lambda: v1.Event(status=v1.Status(pid=7)))
        told = feed(ledger, 0, lambda: iter([v1.Event(job=v1.Job(id=job.id, bytes_done=5))]), news)
        first = [await anext(told) for _ in range(4)]
        assert [event.seq for event in first] == [1, 2, 0, 0]
        assert first[2].status.pid == 7
        assert first[3].job.bytes_done == 5
        await ledger.move(job.id, Event.STAGE)
        assert (await anext(told)).job.state == "staging"
        ledger.bus.close()
        rest = [event async for event in told]
        assert all(event.seq == 0 for event in rest)


async def test_a_reader_that_fell_behind_misses_no_move(tmp_path):
    """Its place on the bus is lost, and it goes on in the journal: every move once, in order."""
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        told = feed(ledger, 0, lambda: iter(()), lambda: iter(()))
        await ledger.accept(new_job(0))
        seen = [(await anext(told)).seq]
        for number in range(1, 200):
            await ledger.accept(new_job(number))
        with trio.fail_after(60):
            while len(seen) < 400:
                seen.append((await anext(told)).seq)
        assert seen == list(range(1, 401))
        await told.aclose()


async def test_who_resumes_beyond_the_journals_end_is_told_all(started):
    """His place is in another journal, one that was moved away: nothing of this one has come to him."""
    async with started() as running:
        running.drop("ckpt-1.npz")
        await running.ended()
        seen = await trio.to_thread.run_sync(
            lambda: next(running.client.events(after=100_000)).seq, abandon_on_cancel=True
        )
        assert seen == 1


def test_the_queue_is_what_runs_and_then_what_waits(tmp_path):
    """The oldest first, as many as asked for; how far it has come is in it. What has ended is not."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, daemon="workers = 1", model='on_backlog = "all"')
    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml", held=True) as process:
        process.logged("running")
        for step in (1, 2, 3):
            np.savez(tmp_path / "writing.npz", kernel=np.zeros(4 << 20, np.float32))
            (tmp_path / "writing.npz").rename(tmp_path / "runs" / f"ckpt-{step}.npz")
            process.job("queued")
        process.held()
        events = process.client.events(after=0)
        next(event for event in events if event.data["job"]["id"] == 3 and event.data["job"]["state"] == "queued")
        queue = process.client.get("/v1/queue")["jobs"]
        assert [(job["state"], job["version"]) for job in queue] == [("writing", 1), ("queued", 2), ("queued", 3)]
        assert queue[0]["bytes_total"] == 16 << 20
        assert [job["id"] for job in process.client.get("/v1/queue", limit=2)["jobs"]] == [1, 2]
        assert process.client.get("/v1/queue", model="other")["jobs"] == []
        process.release()
        events = process.client.events(after=0)
        next(event for event in events if event.data["job"]["id"] == 3 and event.data["job"]["state"] == "published")
        assert process.client.get("/v1/queue")["jobs"] == []
        process.stop()


@pytest.mark.parametrize("event", [{"event": "x"}, {"event": "x", "job": None}, {"event": "x", "job": "7"}])
def test_lines_of_no_job_pass_by(event):
    """A line is handed on as it is, and only those of a job are kept."""
    lines = RecentLines()
    assert lines(None, "info", event) is event
    assert lines.of(7) == []


def test_the_last_lines_of_the_last_jobs_are_kept():
    """Of each job so many lines, of so many jobs: the one that was longest without a line goes first."""
    lines = RecentLines(jobs=2, lines=3)
    for number in range(5):
        lines(None, "info", {"event": number, "job": 1})
    assert [line["event"] for line in lines.of(1)] == [2, 3, 4]
    lines(None, "info", {"event": "a", "job": 2})
    lines(None, "info", {"event": "again", "job": 1})
    lines(None, "info", {"event": "b", "job": 3})
    assert lines.of(2) == []
    assert [line["event"] for line in lines.of(1)] == [3, 4, "again"]
    assert [line["event"] for line in lines.of(3)] == ["b"]


def test_what_is_kept_is_a_copy():
    """Whoever changes an event afterwards, as log processors do, does not change what was kept."""
    lines = RecentLines()
    event = {"event": "x", "job": 1}
    lines(None, "info", event)["event"] = "y"
    lines.of(1).clear()
    assert [line["event"] for line in lines.of(1)] == ["x"]
