"""What a whole daemon writes to stderr: one JSON object a line, whatever happens; priorities where the journal reads."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemon_kit import write_config
from daemon_process import SmdaemonProcess

BROKEN = Path(__file__).with_name("broken_smdaemon.py")
HOSTILE = ["ckpt-2\n{}.npz", "ckpt-3\x1b[2J\x1b]0;title\x07.npz", "ckpt-4\u202e.npz", os.fsdecode(b"ckpt-5\xff.npz")]


@pytest.fixture
def root(tmp_path):
    """Directories and a configuration."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path)
    return tmp_path


def drop(root: Path, name: str, content: bytes | None = None) -> None:
    """A drop, sound or not."""
    np.savez(root / "writing.npz", w=np.ones(10, np.float32))
    if content is not None:
        (root / "writing.npz").write_bytes(content)
    (root / "writing.npz").rename(root / "runs" / name)


def lines(text: str) -> list[dict]:
    """The log lines of a text in which there is nothing else."""
    assert text.isascii()
    return [json.loads(line) for line in text.splitlines()]


def test_names_of_drops_never_break_a_line(root):
    """Sound and broken files with hostile names: every line is an object, and those of a job have its number and model."""
    with SmdaemonProcess(root, "run", "--config", "config.toml") as process:
        process.logged("running")
        for name in HOSTILE:
            drop(root, name)
            assert process.logged("job published")["model"] == "ranker"
            drop(root, name.replace("ckpt-", "ckpt-1"), b"PK no zip at all")
            assert process.logged("job failed")["code"] == "source-truncated"
        process.stop()
        told = lines("".join(process.errors))
    assert {line["job"] for line in told if line["room"].startswith("smdaemon.jobs")} == set(range(1, 9))
    assert all("job" in line for line in told if line["event"].startswith("job "))


def test_a_bug_that_ends_the_daemon_is_one_line(root):
    """With its traceback, as an error that is critical; the exit code is 1, so that the service manager starts it again."""
    command = [sys.executable, str(BROKEN), "run", "--config", "config.toml"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = lines(ended.stderr)[-1]
    assert (last["event"], last["level"]) == ("bug: the process ends", "critical")
    assert "RuntimeError: a bug" in last["exception"]
    assert "\x1b" not in last["exception"]


@pytest.mark.parametrize("broken", [False, True])
def test_the_journal_gets_a_priority_on_each_line(root, monkeypatch, broken):
    """JOURNAL_STREAM names the daemon's stderr: info is 6, what ends the daemon 2, why it did not start 3."""
    script = [str(BROKEN)] if broken else ["-m", "smdaemon"]
    with (root / "journal").open("wb") as journal:
        status = os.fstat(journal.fileno())
        environment = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command = [sys.executable, *script, "run", "--config", "config.toml" if broken else "missing.toml"]
        subprocess.run(command, cwd=root, stderr=journal, env=environment, check=False)
    written = (root / "journal").read_text().splitlines()
    if broken:
        assert written[-1].startswith('<2>{"')
        assert all(line.startswith(("<6>{", "<2>{")) for line in written)
    else:
        (line,) = written
        assert line.startswith("<3>error: ")


def test_the_watchdogs_kill_leaves_every_thread_in_the_log(root):
    """SIGABRT: what the loop and the threads were doing."""
    with SmdaemonProcess(root, "run", "--config", "config.toml") as process:
        process.logged("running")
        process.signal(signal.SIGABRT)
        code, _ = process.ended()
        assert code == -signal.SIGABRT
        assert any("Fatal Python error: Aborted" in line for line in process.errors)
        assert any("most recent call first" in line for line in process.errors)
