"""A command on a terminal of its own, a real one: what it draws is kept as an emulator shows it; nothing here sleeps."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Self

import pyte

PATIENCE_SECONDS = 60


class OnTerminal:
    """`smdaemon ARGV` with a terminal of so many columns and lines; killed at the end of the block if it still runs."""

    def __init__(self, *argv: str, columns: int = 100, lines: int = 30, term: str = "xterm-256color") -> None:
        self._near, self._far = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._resize(columns, lines)
        self.modes = termios.tcgetattr(self._far)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "smdaemon", *argv],
            stdin=self._far,
            stdout=self._far,
            stderr=self._far,
            env=os.environ
            | {"TERM": term, "COLUMNS": "40", "LINES": "9"},  # as a shell may export them, and never change
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._near)
        os.close(self._far)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._far, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Another size, as a window manager gives it: the kernel signals it by SIGWINCH."""
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._near, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        self.process.send_signal(number)

    def text(self) -> str:
        """What is to be seen now."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, *parts: str, absent: str = "") -> str:
        """What is to be seen once all of these are in it, and what is `absent` is not; AssertionError where that never is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(part in self.text() for part in parts) or (absent and absent in self.text()):
            assert time.monotonic() < deadline, f"never {parts} without {absent!r}:\n{self.text()}"
            assert self._read(), f"it ended before {parts}:\n{self.text()}"
        return self.text()

    def _read(self) -> bytes:
        """What was drawn since; empty once the command has ended and all is read."""
        while not select.select([self._near], [], [], 0.05)[0]:
            if self.process.poll() is not None:
                return b""
        drawn = os.read(self._near, 65536)
        self.raw += drawn
        self._stream.feed(drawn)
        return drawn

    def ended(self) -> int:
        """The exit status, negative for a signal, once the command has ended; everything it drew has then been read."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def modes_now(self) -> list:
        """The modes of the terminal, to compare with those that it had at first."""
        return termios.tcgetattr(self._far)
