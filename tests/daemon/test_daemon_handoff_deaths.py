"""Trainer, daemon or both die while tensors are handed over."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from handoff_trees import HANDOFF, PATIENCE_SECONDS, assert_saved, in_thread, params, read
from service_manager_kit import ServiceManager, close

from smdaemon.handoff import attach
from smdaemon.handoff.client import Sidecar
from smdaemon.handoff.handle import Handle

TRAINER = """
import sys, numpy as np
from smdaemon.handoff import attach, attach_async
sidecar = attach(sys.argv[1])
sidecar.reserve(1 << 20)
{body}
print("ready", flush=True)
sys.stdin.read()
"""


def killed_trainer(root: Path, body: str) -> None:
    """A trainer in a process of its own that does `body` and is killed."""
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER.format(body=body), str(root / "handoff.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with trainer:
        assert trainer.stdout.readline() == "ready\n"
        trainer.send_signal(signal.SIGKILL)


async def test_a_trainer_killed_before_its_commit_publishes_nothing(started, tmp_path):
    """And its memory is the machine's again."""
    async with started(daemon=HANDOFF) as running:
        body = """
from smdaemon.handoff.handle import Handle
sidecar._link.take(Handle(1, "ranker"), 100, 0, wait=False)
"""
        await in_thread(killed_trainer, tmp_path, body)
        while (handoff := (await running.ask(running.client.get, "/v1/status"))["handoff"])["trainers"]:
            await trio.lowlevel.checkpoint()
        assert (handoff["memory_used_bytes"], handoff["exports"], handoff["saves"]) == (0, 0, 0)
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())


async def test_a_trainer_killed_after_its_commit_is_exported(started, tmp_path):
    """The daemon has the bytes: the version appears without the trainer."""
    async with started(daemon=HANDOFF) as running:
        body = 'sidecar.save(9, {"w": np.arange(1000.0)}, model="ranker")'
        await in_thread(killed_trainer, tmp_path, body)
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 9)
    np.testing.assert_array_equal(read(tmp_path / "models" / "9")["w"], np.arange(1000.0))


@pytest.fixture
def root(tmp_path) -> Path:
    """Directories and a configuration with a handoff socket."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, daemon=HANDOFF)
    return tmp_path


def daemon(root: Path, **options) -> SmdaemonProcess:
    """A daemon on `root`."""
    return SmdaemonProcess(root, "run", "--config", "config.toml", **options)


def killed_while_it_exports(root: Path) -> tuple[Sidecar, Handle]:
    """What a trainer has of a daemon that was killed in the middle of an export of `params(4)` as step 4."""
    with daemon(root, held=True) as process:
        process.logged("running")
        sidecar = attach(root / "handoff.sock")
        handle = sidecar.save(4, params(4), model="ranker")
        process.held()
        process.signal(signal.SIGKILL)
    return sidecar, handle


def test_a_killed_daemon_gets_the_tensors_again(root):
    """SIGKILL in the middle of the export: the trainer skips, connects again, offers what was not done, and it is published."""
    sidecar, handle = killed_while_it_exports(root)
    with sidecar:
        with sidecar._link.changed:
            sidecar._link.changed.wait_for(lambda: not sidecar.connected, PATIENCE_SECONDS)
        skipped = sidecar.save(5, params(5), model="ranker")
        assert skipped.result(0).code == "handoff-away"
        with daemon(root) as second:
            second.logged("running")
            outcome = handle.result(PATIENCE_SECONDS)
            assert (outcome.state, outcome.version) == ("published", 4)
            assert sidecar.save(6, params(6), model="ranker", on_busy="wait").result(PATIENCE_SECONDS).version == 6
            second.stop()
    assert_saved(root / "models" / "4", params(4))
    assert_saved(root / "models" / "6", params(6))
    assert sorted(path.name for path in (root / "models").iterdir()) == ["4", "6"]


def test_when_both_sides_die_the_job_says_so(root):
    """Nobody has the tensors: once the grace is over the job fails, and says what to do."""
    write_config(root, daemon=f"{HANDOFF}\nhandoff_grace_seconds = 0")
    sidecar, _ = killed_while_it_exports(root)
    sidecar.close()
    with daemon(root) as second:
        second.logged("running")
        job = second.job()
        assert (job["state"], job["error"]["code"]) == ("failed", "handoff-lost")
        second.stop()


def test_the_service_manager_keeps_the_tensors_over_a_restart(root, monkeypatch):
    """FDSTORE: trainer and daemon are both gone, and what the manager hands back is published, then forgotten."""
    with ServiceManager(root / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        sidecar, _ = killed_while_it_exports(root)
        sidecar.close()
        kept = [manager.told("FDSTORE") for _ in range(2)]
        assert [(notice.lines["FDPOLL"], len(notice.fds)) for notice in kept] == [("0", 1)] * 2
        handed = [(notice.lines["FDNAME"], notice.fds[0]) for notice in kept]
        with daemon(root, handed=handed) as second:
            assert second.logged("handoff taken back")["job"] == 1
            second.logged("job published")
            forgotten = {manager.told("FDSTOREREMOVE").lines["FDNAME"] for _ in range(2)}
            assert forgotten == {name for name, _ in handed}
            second.stop()
        close(*(fd for _, fd in handed))
    assert_saved(root / "models" / "4", params(4))
