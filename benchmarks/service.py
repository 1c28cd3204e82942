"""A daemon on a scratch configuration, and what it costs."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.child import SMDAEMON

START_SECONDS = 60
Value = str | float | bool


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def get(self, target: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        self.request("GET", target)
        answer = self.getresponse()
        return answer.status, answer.read()


class Daemon:
    """A running daemon: its folders, its processor time, its memory."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.pid = process.pid
        self.watch, self.publish = folder / "watch", folder / "publish"
        self.socket, self.handoff = folder / "control.sock", folder / "handoff.sock"
        self._process = process
        self._log = folder / "log"

    def wait_until_ready(self) -> float:
        """Wait for GET /readyz to say yes; the seconds waited."""
        began = time.perf_counter()
        while time.perf_counter() - began < START_SECONDS:
            self.check_alive()
            with contextlib.suppress(OSError), contextlib.closing(UnixConnection(self.socket)) as connection:
                if connection.get("/readyz")[0] == 200:
                    return time.perf_counter() - began
            time.sleep(0.01)
        raise RuntimeError(f"the daemon was not ready after {START_SECONDS} s:\n{self._tail()}")

    def check_alive(self) -> None:
        """RuntimeError with the end of its log where it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self._process.returncode}:\n{self._tail()}")

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, those that ended included."""
        return cpu_seconds(self.pid)

    def threads(self) -> int:
        """How many threads it has."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())

    def memory(self, *keys: str) -> int:
        """The sum of these lines of /proc/PID/status, in bytes."""
        return memory(self.pid, *keys)

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, those that ended included."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3): CPUCLOCK_SCHED of a process


def memory(pid: int, *keys: str) -> int:
    """The sum of these lines of /proc/PID/status, in bytes; 0 for a process that is ending."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.findall(rf"^(?:{'|'.join(keys)}):\s+(\d+) kB$", status, re.MULTILINE)
    return sum(map(int, found)) * 1024


@contextmanager
def running_daemon(
    folder: Path, *, publish: Path | None = None, daemon: Mapping[str, Value] | None = None, **model: Value
) -> Iterator[Daemon]:
    """A daemon whose files all lie in `folder`, with one model; `daemon` and `model` hold further keys of the two tables."""
    (folder / "watch").mkdir(exist_ok=True)
    publish = publish or folder / "publish"
    publish.mkdir(exist_ok=True)
    # benchmarks remove what was published, and an empty directory is taken for a volume that is not mounted
    (publish / "not-empty").touch()
    keys = {"name": "bench", "watch": "watch", "publish": str(publish.absolute()), "version": "step", **model}
    lines = ["[daemon]", 'state_dir = "state"', 'control_socket = "control.sock"']
    lines += [f"{key} = {_toml(value)}" for key, value in (daemon or {}).items()]
    lines += ["", "[[model]]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")
    (folder / "state").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        command = [SMDAEMON, "run", "--config", str(folder / "config.toml")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        running = Daemon(process, folder)
        running.publish = publish or running.publish
        running.wait_until_ready()
        yield running
        running.check_alive()
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
