"""A service manager's ear: the socket that NOTIFY_SOCKET names, read by a thread, so that it never fills up."""

import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

PATIENCE_SECONDS = 120
_LONGEST_BYTES = 4096


class Notice(NamedTuple):
    """One datagram: its lines, KEY -> VALUE, and the descriptors beside it, which are the test's to close."""

    lines: dict[str, str]
    fds: list[int]


class ServiceManager:
    """Listens at `path`; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[Notice] = []
        self._queue: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while True:
            text, fds, _, _ = socket.recv_fds(self._socket, _LONGEST_BYTES, 8)
            if not text:
                return
            self._queue.put(Notice(dict(line.split("=", 1) for line in text.decode().splitlines()), fds))

    def next(self, wanted: Callable[[Notice], bool]) -> Notice:
        """The next notice that is wanted; those before it are passed over."""
        while True:
            notice = self._queue.get(timeout=PATIENCE_SECONDS)
            self.heard.append(notice)
            if wanted(notice):
                return notice

    def told(self, key: str, value: str | None = None) -> Notice:
        """The next notice with that key, and that value if one is given."""
        return self.next(lambda notice: key in notice.lines and value in (None, notice.lines[key]))

    def all(self) -> list[Notice]:
        """Everything that has come so far."""
        while not self._queue.empty():
            self.heard.append(self._queue.get())
        return self.heard


def close(*fds: int) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
