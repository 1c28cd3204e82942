"""The smdaemon command as a process of its own, watched through its log, its pipes and its end; nothing here sleeps."""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from smdaemon.cli.client import Client, Json
from smdaemon.jobs.states import TERMINAL

PATIENCE_SECONDS = 120
_HELD = Path(__file__).with_name("held_smdaemon.py")
_OBEY_PERMISSIONS = Path(__file__).with_name("obey_permissions.py")
_HANDED_OVER = Path(__file__).with_name("handed_over.py")


class SmdaemonProcess:
    """`smdaemon ARGV` in the directory `root`. With `held` its exports hang in their first write until `release`.

    `handed` are the descriptors that a service manager hands over, with their names; `launcher` is a command that starts the
    command behind it. A context manager: at the end of the block the process is killed if it still runs.
    """

    def __init__(
        self,
        root: Path,
        *argv: str,
        held: bool = False,
        unprivileged: bool = False,
        handed: Sequence[tuple[str, int]] = (),
        launcher: Sequence[str] = (),
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.root = root
        self.client = Client(str(root / "control.sock"))
        self._held, tell = os.pipe()
        go, self._go = os.pipe()
        command = [str(_HELD), str(tell), str(go)] if held else ["-m", "smdaemon"]
        if unprivileged:
            command.insert(0, str(_OBEY_PERMISSIONS))
        environment = dict(os.environ)
        if handed:
            command[:0] = [str(_HANDED_OVER), ",".join(str(fd) for _, fd in handed)]
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in handed)
        self._process = subprocess.Popen(
            [*launcher, sys.executable, *command, *argv],
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(tell, go, *(fd for _, fd in handed)),
        )
        os.close(tell)
        os.close(go)
        self.errors: list[str] = []
        self._log: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
        self._plain: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self._watchdog = threading.Timer(patience_seconds, self._process.kill)
        self._watchdog.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()
        os.close(self._held)
        self.release()

    def _read_errors(self) -> None:
        for line in self._process.stderr:
            self.errors.append(line)
            if line.startswith("{"):
                self._log.put(json.loads(line))
            else:
                self._plain.put(line)
        self._log.put(None)

    def logged(self, event: str) -> Json:
        """The next log line of that event; AssertionError where the process ends before."""
        while (line := self._log.get(timeout=PATIENCE_SECONDS)) is not None:
            if line["event"] == event:
                return line
        raise AssertionError(f"ended with {self._process.wait()} before {event!r}:\n{''.join(self.errors)}")

    def said(self, part: str) -> str:
        """The next line on stderr that is no log line and has `part` in it."""
        while part not in (line := self._plain.get(timeout=PATIENCE_SECONDS)):
            pass
        return line

    def held(self) -> None:
        """Return once an export hangs in a write."""
        ready, _, _ = select.select([self._held], [], [], PATIENCE_SECONDS)
        assert ready, "no export has come to its first write"
        assert os.read(self._held, 1) == b".", "".join(self.errors)

    def release(self) -> None:
        """Let exports go on."""
        if self._go >= 0:
            os.close(self._go)
            self._go = -1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Exit code and stdout, once the process has ended by itself or by a signal; `errors` is then complete."""
        out = self._process.stdout.read()
        self._reader.join()
        return self._process.wait(), out

    def stop(self) -> None:
        """End by SIGTERM; it must be a clean end without a traceback."""
        self.signal(signal.SIGTERM)
        code, _ = self.ended()
        assert code == 0, "".join(self.errors)
        assert "Traceback" not in "".join(self.errors)

    def job(self, state: str | None = None) -> Json:
        """The first job to reach `state`, else its end."""
        for event in self.client.events(after=0):
            if event.data["job"]["state"] in ({state} if state else TERMINAL):
                return event.data["job"]
        raise AssertionError(f"the stream of events ended:\n{''.join(self.errors)}")
