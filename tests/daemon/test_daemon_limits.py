"""The daemon at its limits: descriptors that run out end nothing."""

import errno
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import trio
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from structlog.testing import capture_logs

from smdaemon.accepting import PAUSE_SECONDS, Accepting
from smdaemon.handoff import attach
from smdaemon.savedmodel.verify import verify

HANDOFF = 'handoff_socket = "handoff.sock"'
FILES = 64
PATIENCE_SECONDS = 60


@pytest.fixture
def root(tmp_path):
    """Directories, and a configuration with a handoff socket."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, daemon=HANDOFF)
    return tmp_path


@pytest.fixture
def limited(root):
    """A daemon with few descriptors."""
    launcher = [sys.executable, str(Path(__file__).with_name("limited_smdaemon.py")), str(FILES)]
    with SmdaemonProcess(root, "run", "--config", "config.toml", launcher=launcher) as process:
        process.logged("running")
        yield process


def crowd(path: Path, kind: int, held: ExitStack) -> list[socket.socket]:
    """More connections than the daemon has descriptors; those that it does not accept wait in the kernel's queue."""
    made = []
    for _ in range(2 * FILES):
        caller = held.enter_context(socket.socket(socket.AF_UNIX, kind))
        caller.connect(str(path))
        made.append(caller)
    return made


def test_a_crowd_at_the_control_socket_ends_nothing(root, limited):
    """No descriptor is left: accepting pauses and says why; when the crowd has gone everyone is answered, and drops are exported."""
    with ExitStack() as held:
        crowd(root / "control.sock", socket.SOCK_STREAM, held)
        line = limited.logged("no connections for now")
        assert (line["listener"], line["code"]) == (str(root / "control.sock"), "too-many-files")
        assert "LimitNOFILE" in line["remedy"]
        np.savez(root / "writing.npz", w=np.ones(100, np.float32))
        (root / "writing.npz").rename(root / "runs" / "ckpt-1.npz")
    limited.logged("connections again")
    assert limited.job("published")["version"] == 1
    assert limited.client.get("/v1/status")["phase"] == "running"
    verify(root / "models" / "1")
    limited.stop()


def test_a_crowd_at_the_handoff_socket_ends_nothing(root, limited):
    """The same there; a trainer that comes afterwards hands over."""
    with ExitStack() as held:
        crowd(root / "handoff.sock", socket.SOCK_SEQPACKET, held)
        assert limited.logged("no connections for now")["listener"] == "handoff"
    limited.logged("connections again")
    with attach(root / "handoff.sock") as sidecar:
        outcome = sidecar.save(3, {"w": np.ones(100, np.float32)}, model="ranker").result(PATIENCE_SECONDS)
    assert (outcome.state, outcome.version) == ("published", 3)
    limited.stop()


class Listener:
    """Gives one connection, or one error, after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def accept(self):
        """The next."""
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, "refused")
        return answer


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_shortage_is_paused_for_and_told_once(autojump_clock, number):
    """Between two tries the processor rests; a line at the begin, one at the end."""
    accepting = Accepting(Listener(*[number] * 5, "a", "b").accept, "here")
    began = trio.current_time()
    with capture_logs() as logged:
        assert await accepting.next() == "a"
        assert trio.current_time() - began == pytest.approx(5 * PAUSE_SECONDS)
        assert await accepting.next() == "b"
    assert [line["event"] for line in logged] == ["no connections for now", "connections again"]


async def test_a_long_shortage_is_told_once_a_minute(autojump_clock):
    """So that whoever looks into the log later finds it."""
    tries = round(200 / PAUSE_SECONDS)
    accepting = Accepting(Listener(*[errno.EMFILE] * tries, "a").accept, "here")
    with capture_logs() as logged:
        await accepting.next()
    assert [line["event"] for line in logged] == ["no connections for now"] * 4 + ["connections again"]


async def test_a_caller_that_has_left_is_passed_over(autojump_clock):
    """Its error is not the listener's."""
    began = trio.current_time()
    assert await Accepting(Listener(errno.ECONNABORTED, errno.EPROTO, "a").accept, "here").next() == "a"
    assert trio.current_time() == began


async def test_an_error_that_was_not_foreseen_is_raised():
    """The service manager starts the daemon again."""
    with pytest.raises(OSError, match="refused"):
        await Accepting(Listener(errno.EBADF).accept, "here").next()


def test_this_process_may_open_enough():
    """The crowd needs descriptors here, too."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 4 * FILES
