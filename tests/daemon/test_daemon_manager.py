"""What the service manager is told, and when the watchdog is not fed."""

import os
import signal
import threading

import pytest
import trio
import trio.testing
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from service_manager_kit import PATIENCE_SECONDS, ServiceManager
from structlog.testing import capture_logs

from smdaemon import systemd
from smdaemon.config import load_config
from smdaemon.daemon.daemon import Daemon
from smdaemon.daemon.manager import Manager, told
from smdaemon.daemon.pulse import PERIOD_SECONDS, Pulse
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.ledger import Ledger, open_ledger
from smdaemon.jobs.scheduler import Scheduler
from smdaemon.jobs.turns import ModelPolicy
from smdaemon.proto import v1
from smdaemon.watch import watcher


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A service manager that listens."""
    with ServiceManager(tmp_path / "notify") as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", str(listening.path))
        yield listening


@pytest.fixture
def root(tmp_path):
    """Directories and a configuration."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path)
    return tmp_path


async def next_notice(manager, *wanted):
    """`manager.told`, without holding up the loop."""
    return await trio.to_thread.run_sync(manager.told, *wanted, abandon_on_cancel=True)


async def test_ready_comes_when_sockets_answer_and_drops_are_known(started, manager, tmp_path):
    """READY=1 with the first status; a drop that lay there is counted in it, and nothing was ready before."""
    path = write_config(tmp_path, model='on_drop = "ignore"')
    async with started(config=path) as running:
        notice = await next_notice(manager, "READY", "1")
        assert notice.lines["STATUS"] == "running: 1 model, 0 queued, 0 running, 0 failed"
        assert (await running.ask(running.client.get, "/v1/status"))["phase"] == "running"
    before = [each.lines.keys() for each in manager.heard[:-1]]
    assert all(keys <= {"EXTEND_TIMEOUT_USEC", "STATUS"} for keys in before)


async def test_the_status_follows_the_jobs(started, manager):
    """A drop that fails is told."""
    async with started() as running:
        (running.runs / "ckpt-1.npz").write_bytes(b"no zip at all")
        await running.ended()
        while not (await next_notice(manager, "STATUS")).lines["STATUS"].endswith(" 1 failed"):
            pass


async def test_a_reload_is_told_from_its_begin_to_its_end(started, manager):
    """RELOADING=1 with the monotonic time in microseconds, then READY=1; a mistake is told in the status."""
    async with started() as running:
        await next_notice(manager, "READY")
        await running.daemon.reload()
        notice = await next_notice(manager, "RELOADING", "1")
        assert 0 < int(notice.lines["MONOTONIC_USEC"]) < 2**63
        await next_notice(manager, "READY", "1")
        running.daemon._file.write_text("[daemon]\nno_such_key = 1\n")
        await running.daemon.reload()
        await next_notice(manager, "RELOADING", "1")
        notice = await next_notice(manager, "READY", "1")
        assert notice.lines["STATUS"].endswith("reload refused (config-unknown-key)")


async def test_a_stop_is_told_with_the_time_that_it_may_take(started, manager):
    """STOPPING=1, and no less time than a beat of the pulse needs."""
    async with started(daemon="drain_seconds = 3600"):
        await next_notice(manager, "READY")
    notice = await next_notice(manager, "STOPPING", "1")
    assert notice.lines["STATUS"].startswith("draining: ")
    assert int(notice.lines["EXTEND_TIMEOUT_USEC"]) > PERIOD_SECONDS * 1e6


async def test_without_a_service_manager_nothing_is_told(monkeypatch):
    """No NOTIFY_SOCKET: every call returns and does nothing; that the names in the environment are another's changes nothing."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with capture_logs() as logged:
        teller = Manager(v1.Status)
        teller.ready()
        with teller.reloading():
            teller.beat()
        teller.stopping(1)
    assert logged == []
    assert not systemd.notify("READY=1")


async def test_a_service_manager_that_is_gone_is_a_line_in_the_log(tmp_path, monkeypatch):
    """The daemon goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with capture_logs() as logged:
        assert not systemd.notify("READY=1")
    assert [line["event"] for line in logged] == ["service manager not told"]


def test_an_abstract_socket_is_reached_too(monkeypatch):
    """As in containers: the name begins with @."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        assert systemd.notify("READY=1", "STATUS=x")
        assert listening.recv(64) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_whose_watchdog_it_is(environment, seconds):
    """Only a watchdog that waits for this very process counts."""
    assert systemd.watchdog_seconds(environment) == seconds


def test_the_status_line_leaves_out_what_there_is_none_of():
    """Waiting jobs, degraded models and a refused reload are told where there are any."""
    status = v1.Status(phase="running", jobs={"queued": 2, "waiting": 1, "writing": 1, "verifying": 1, "published": 9})
    status.models.add(name="a", health="ok")
    status.models.add(name="b", health="degraded")
    assert told(status) == "running: 2 models, 2 queued, 1 waiting, 2 running, 0 failed, degraded: b"


async def test_the_status_is_told_once_a_second_at_most(manager, autojump_clock, nursery):
    """However often jobs move; the last word is always told, and what is the same is not told again."""
    status = v1.Status(phase="running", jobs={"queued": 0})
    teller = Manager(lambda: status)
    nursery.start_soon(teller.run)
    for count in range(1, 51):
        status.jobs["queued"] = count
        teller.changed()
        await trio.sleep(0.1)
    teller.changed()
    await trio.sleep(10)
    while "50 queued" not in (await next_notice(manager, "STATUS")).lines["STATUS"]:
        pass
    assert 5 <= len(manager.all()) <= 7


class Beats:
    """Counts beats, with the times of trio's clock."""

    def __init__(self):
        self.at: list[float] = []

    def __call__(self):
        """A beat."""
        self.at.append(trio.current_time())


async def test_the_pulse_beats_while_everything_answers(autojump_clock, nursery):
    """Once a period, beginning at once."""
    beats = Beats()
    nursery.start_soon(Pulse({"a": trio.lowlevel.checkpoint}, beats, period_seconds=10).run)
    began = trio.current_time()
    await trio.sleep(35)
    assert [at - began for at in beats.at] == [0, 10, 20, 30]


async def test_a_stuck_service_stops_the_pulse_and_is_named(autojump_clock, nursery):
    """No beat, one line with its name, not alive; when it answers again the pulse goes on."""
    answers = trio.Event()
    beats = Beats()
    with capture_logs() as logged:
        pulse = Pulse({"fine": trio.lowlevel.checkpoint, "stuck": answers.wait}, beats, period_seconds=10)
        nursery.start_soon(pulse.run)
        await trio.sleep(59)
        assert pulse.alive
        await trio.sleep(2)
        assert not pulse.alive
        assert beats.at == []
        assert [(line["event"], line["of"]) for line in logged] == [("no progress", "stuck")]
        answers.set()
        await trio.sleep(25)
        assert len(beats.at) == 3
        assert pulse.alive
    assert logged[-1]["event"] == "progress again"


class StuckJournal(Journal):
    """A journal whose transactions hang, as on a disk that does not answer, until `go` is set."""

    def __init__(self, path):
        super().__init__(path)
        self.go = threading.Event()

    def accept(self, *arguments):
        """Hang, then go on."""
        assert self.go.wait(120)
        return super().accept(*arguments)


async def test_a_stuck_journal_thread_stops_the_pulse(tmp_path, autojump_clock, nursery):
    """While a transaction hangs in the journal's thread there is no beat."""
    journal = StuckJournal(tmp_path / "journal.sqlite")
    ledger = Ledger(journal)
    await ledger.load()
    beats = Beats()
    pulse = Pulse({"journal": ledger.answers}, beats, period_seconds=10)
    with capture_logs() as logged:
        async with trio.open_nursery() as work:
            work.start_soon(ledger.accept, NewJob(model="m", origin="drop", source="/a", identity="1", order=1.0))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(pulse.run)
            await trio.sleep(100)
            assert beats.at == []
            assert not pulse.alive
            journal.go.set()
    while not beats.at:
        await trio.lowlevel.checkpoint()
    assert pulse.alive
    assert [line["event"] for line in logged if "of" in line] == ["no progress"]
    nursery.cancel_scope.cancel()
    journal.close()


class StuckScheduler(Scheduler):
    """A scheduler whose look at the jobs never ends."""

    async def _look(self, nursery):
        await trio.sleep_forever()


@pytest.mark.parametrize(("kind", "alive"), [(Scheduler, True), (StuckScheduler, False)])
async def test_a_stuck_scheduler_stops_the_pulse(tmp_path, autojump_clock, nursery, kind, alive):
    """A scheduler that sleeps for want of jobs answers; one that is stuck does not."""
    beats = Beats()
    async with open_ledger(tmp_path / "journal.sqlite") as ledger, trio.open_nursery() as work:
        scheduler = kind(ledger, None, workers=1, policy=lambda _: ModelPolicy())
        await scheduler.recover()  # the last that it needs the journal's thread for: the clock would jump meanwhile
        work.start_soon(scheduler.run)
        await trio.testing.wait_all_tasks_blocked()
        pulse = Pulse({"scheduler": scheduler.answers}, beats, period_seconds=10)
        work.start_soon(pulse.run)
        await trio.sleep(200)
        assert pulse.alive is alive
        assert bool(beats.at) is alive
        work.cancel_scope.cancel()


async def test_a_scheduler_that_drains_answers(tmp_path, autojump_clock, nursery):
    """Exports that take an hour to finish do not look like a stuck daemon."""
    begun, done = trio.Event(), trio.Event()

    async def execute(_job, _attempt):
        begun.set()
        await done.wait()
        raise RuntimeError("over")

    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        await ledger.accept(NewJob(model="m", origin="drop", source="/a", identity="1", order=1.0))
        async with trio.open_nursery() as work:
            scheduler = Scheduler(ledger, execute, workers=1, policy=lambda _: ModelPolicy())
            work.start_soon(scheduler.run)
            await begun.wait()
            work.start_soon(scheduler.drain, 3600)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(1):
                await scheduler.answers()
            done.set()


def test_a_daemon_under_a_watchdog_feeds_it(root, manager, monkeypatch):
    """WATCHDOG=1 again and again, and while it drains more time is asked for; SIGTERM ends it as ever."""
    write_config(root, daemon="drain_seconds = 3600")
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with SmdaemonProcess(root, "run", "--config", "config.toml", held=True) as process:
        manager.told("READY")
        for _ in range(3):
            assert "EXTEND_TIMEOUT_USEC" not in manager.told("WATCHDOG", "1").lines
        (root / "writing").write_bytes(checkpoint())
        (root / "writing").rename(root / "runs" / "ckpt-1.npz")
        process.held()
        process.signal(signal.SIGTERM)
        manager.told("STOPPING", "1")
        for _ in range(2):
            assert int(manager.told("WATCHDOG", "1").lines["EXTEND_TIMEOUT_USEC"]) > 1e6
        process.release()
        assert process.ended() == (0, "")
    assert (root / "models" / "1").is_dir()


def test_a_reload_by_signal_is_told(root, manager):
    """SIGHUP, as ExecReload sends it."""
    with SmdaemonProcess(root, "run", "--config", "config.toml") as process:
        manager.told("READY")
        process.signal(signal.SIGHUP)
        manager.told("RELOADING", "1")
        manager.told("READY", "1")
        process.stop()


async def test_a_directory_that_hangs_at_the_start_does_not_hold_up_a_stop(root, manager, monkeypatch):
    """The start is not complete, more time is asked for; a stop is obeyed all the same."""
    answers = threading.Event()
    monkeypatch.setattr(watcher, "remote_kind", lambda _path: answers.wait(PATIENCE_SECONDS) and None)
    daemon = Daemon(root / "config.toml", load_config(root / "config.toml"))
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as running:
            running.start_soon(daemon.run)
            await next_notice(manager, "EXTEND_TIMEOUT_USEC")
            daemon.stop()
    answers.set()
    assert all("READY" not in notice.lines for notice in manager.all())


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """A second model for `config.toml`, in whose watched directory nothing answers; `asked` is set once it was looked at."""

    class Hanging:
        table = '[[model]]\nname = "b"\nwatch = "hanging"\npublish = "models-b"\n'
        asked = threading.Event()
        answers = threading.Event()

    def remote_kind(path):
        if path.endswith("hanging"):
            Hanging.asked.set()
            Hanging.answers.wait(PATIENCE_SECONDS)

    (tmp_path / "hanging").mkdir()
    monkeypatch.setattr(watcher, "remote_kind", remote_kind)
    yield Hanging
    Hanging.answers.set()


async def test_a_directory_that_hangs_at_the_start_keeps_no_other_model_waiting(
    started, manager, hanging, tmp_path, monkeypatch
):
    """The start is complete after a while, its model is degraded and says why; when it answers all is well."""
    path = write_config(tmp_path)
    path.write_text(path.read_text() + hanging.table)
    monkeypatch.setattr("smdaemon.daemon.daemon.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("smdaemon.daemon.watches.PATIENCE_SECONDS", 0.1)
    async with started(config=path) as running:
        status = (await next_notice(manager, "READY", "1")).lines["STATUS"]
        assert status.startswith("running: 2 models")
        assert status.endswith(" b")
        status = await running.ask(running.client.get, "/v1/status")
        assert status["models"][1]["error"]["code"] == "directory-slow"
        running.drop("ckpt-1.npz")
        assert [job["state"] for job in await running.ended()] == ["published"]
        hanging.answers.set()
        while (await running.ask(running.client.get, "/v1/status"))["models"][1]["health"] != "ok":
            await trio.lowlevel.checkpoint()


async def test_a_directory_that_hangs_during_a_reload_does_not_hold_up_a_stop(started, manager, hanging):
    """SIGTERM is obeyed while a watch that a reload has begun gives no answer."""
    async with started() as running:
        running.daemon._file.write_text(running.daemon._file.read_text() + hanging.table)
        os.kill(os.getpid(), signal.SIGHUP)
        assert await trio.to_thread.run_sync(hanging.asked.wait, PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        await next_notice(manager, "STOPPING", "1")
    assert not hanging.answers.is_set()


async def test_a_reload_mends_one_that_hangs(started, manager, hanging):
    """A second SIGHUP is obeyed, too: a configuration without the directory that hangs is in force at once."""
    async with started() as running:
        sound = running.daemon._file.read_text()
        running.daemon._file.write_text(sound + hanging.table)
        os.kill(os.getpid(), signal.SIGHUP)
        assert await trio.to_thread.run_sync(hanging.asked.wait, PATIENCE_SECONDS)
        running.daemon._file.write_text(sound)
        await next_notice(manager, "RELOADING", "1")
        os.kill(os.getpid(), signal.SIGHUP)
        await next_notice(manager, "RELOADING", "1")
        await next_notice(manager, "READY", "1")
        assert [model.name for model in running.daemon.config.model] == ["ranker"]


def checkpoint() -> bytes:
    """A finished npz."""
    import io

    import numpy as np

    written = io.BytesIO()
    np.savez(written, **{"layer/0/kernel": np.ones((64, 64), np.float32)})
    return written.getvalue()
