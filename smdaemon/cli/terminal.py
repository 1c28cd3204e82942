"""A terminal as a full-screen page has it: keys one by one, signals as what they mean, and all as it was at the end."""

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

from smdaemon.errors import ConfigError

_SEQUENCE = re.compile(rb"\x1b(?:O(?P<letter>.)|\[(?P<numbers>[0-9;]*)(?P<final>[@-~]))", re.DOTALL)
_BEGUN = re.compile(rb"\x1b(?:O|\[[0-9;]*)?\Z")
_LETTER_KEYS = {b"A": "up", b"B": "down", b"H": "home", b"F": "end"}
_NUMBER_KEYS = {b"1~": "home", b"7~": "home", b"4~": "end", b"8~": "end", b"5~": "page up", b"6~": "page down"}
_NAMES = _LETTER_KEYS | _NUMBER_KEYS
_LETTERS = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}
_LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHANGED = 0  # no signal has this number


def keys_of(typed: bytes) -> tuple[list[str], bytes]:
    """The keys in what was typed, by name or as the letter; and the begin of a sequence whose rest is still to come."""
    rest = b""
    if begun := _BEGUN.search(typed):
        typed, rest = typed[: begun.start()], begun[0]
    keys: list[str] = []
    at = 0
    for found in _SEQUENCE.finditer(typed):
        keys += _letters(typed[at : found.start()])
        at = found.end()
        name = _NAMES.get(found["letter"] or (found["numbers"] + b"~" if found["final"] == b"~" else found["final"]))
        keys += [name] if name else []
    return keys + _letters(typed[at:]), rest


def _letters(typed: bytes) -> list[str]:
    text = typed.decode(errors="ignore")
    return [_LETTERS.get(letter, letter) for letter in text if letter in _LETTERS or letter.isprintable()]


class Terminal:
    """The terminal of stdin and stdout; a context manager that puts its modes back. ConfigError `usage` where there is none.

    Signals do nothing in themselves here: they end the wait for the next event, and the caller leaves in order.
    """

    def __init__(self) -> None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
            raise ConfigError("usage", "this draws on a terminal, and there is none", remedy="use smdaemon status")
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._typed = b""
        self.ended_by: signal.Signals | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, self._woken)
            undo.callback(os.close, self._wake)
            undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False))
            for number in (*_LEAVING, signal.SIGTSTP, signal.SIGWINCH):
                undo.callback(signal.signal, number, signal.signal(number, _noted))
            self._modes = termios.tcgetattr(self._in)
            undo.callback(self.restore)
            self.take()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._undo.close()

    def take(self) -> None:
        """Have keys one by one and not shown; Ctrl-C and Ctrl-Z are signals still."""
        tty.setcbreak(self._in, termios.TCSADRAIN)

    def restore(self) -> None:
        """Put the modes back that were there at the begin."""
        # a terminal that was hung up has no modes any more
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._modes)

    def changed(self) -> None:
        """End the wait of `events`; may be called by any thread, as often as it likes."""
        # full: it is awake already; closed: there is nobody to wake
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake, bytes([_CHANGED]))

    def size(self) -> os.terminal_size:
        """Columns and lines, now."""
        return os.get_terminal_size(self._out)

    def events(self, seconds: float) -> Iterator[str]:
        """What has happened, waiting at most so long: keys, "resized", "changed", "suspend", "leave"."""
        ready, _, _ = select.select([self._in, self._woken], [], [], seconds)
        if self._woken in ready:
            yield from self._signalled(os.read(self._woken, 4096))
        if self._in in ready:
            yield from self._keys()

    def _signalled(self, numbers: bytes) -> Iterator[str]:
        for number in sorted(set(numbers)):
            if number in _LEAVING:
                self.ended_by = signal.Signals(number)
                yield "leave"
            elif number == signal.SIGTSTP:
                yield "suspend"
            else:
                yield "resized" if number == signal.SIGWINCH else "changed"

    def _keys(self) -> Iterator[str]:
        try:
            typed = os.read(self._in, 1024)
        except OSError:
            typed = b""  # hung up
        if not typed:
            self.ended_by = signal.SIGHUP
            yield "leave"
        keys, self._typed = keys_of(self._typed + typed)
        yield from keys

    def suspend(self, leave: Callable[[], None], come_back: Callable[[], None]) -> None:
        """Stop this process, as Ctrl-Z does, with the terminal as it was meanwhile."""
        leave()
        self.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.take()
        come_back()


def _noted(_number: int, _frame: FrameType | None) -> None:
    """A handler that leaves all to the byte on the wake-up descriptor."""
