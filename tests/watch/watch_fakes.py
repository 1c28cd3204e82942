"""Small working formats and a kernel that says what a test tells it to."""

import errno
import json
import os
from pathlib import Path

import trio

from smdaemon.errors import DropError
from smdaemon.watch.inotify import Event


class BoxFormat:
    """A file of one digit and as many bytes as it says: `box(3)`; a first byte that is no digit is corrupt."""

    name = "box"
    self_judging = True

    def __init__(self) -> None:
        self.asked = 0

    def is_complete(self, path):
        """Whether as many bytes are there as the digit says."""
        self.asked += 1
        content = path.read_bytes()
        if content and not content[:1].isdigit():
            raise DropError("source-corrupt", f"{path.name!r} is no box")
        return bool(content) and len(content) == 1 + int(content[:1])


class ShelfFormat:
    """A directory of .npy files, each a box: nothing says how many there are to be."""

    name = "shelf"
    self_judging = False

    def is_complete(self, path):
        """Whether there is a box, and all there are are whole."""
        files = [file for file in path.rglob("*.npy") if file.is_file()]
        return bool(files) and all(BoxFormat().is_complete(file) for file in files)

    def parts(self, path):
        """The boxes."""
        return [str(file) for file in path.rglob("*.npy") if file.is_file()]

    def seals(self, path, file):
        """No box is the last for certain."""
        return False


class SetFormat:
    """An index of shards, each a box."""

    name = "set"
    self_judging = True

    def is_complete(self, path):
        """Whether every shard is there and whole."""
        shards = set(json.loads(path.read_bytes())["weight_map"].values())
        return all((path.parent / shard).exists() and BoxFormat().is_complete(path.parent / shard) for shard in shards)

    def parts(self, path):
        """The index and its shards."""
        try:
            shards = set(json.loads(path.read_bytes())["weight_map"].values())
        except ValueError:
            shards = set()
        return [str(path), *sorted(str(path.parent / shard) for shard in shards)]


class Claims:
    """Which fake format takes a path; keeps the formats so that a test can ask them."""

    def __init__(self) -> None:
        self.box, self.shelf, self.set = BoxFormat(), ShelfFormat(), SetFormat()

    def __call__(self, path: Path):
        """The format; None for nobody's."""
        if path.is_dir():
            return self.shelf if any(path.rglob("*.npy")) else None
        if path.name.endswith(".safetensors.index.json"):
            return self.set
        return self.box if path.suffix in {".box", ".npy"} else None


def box(length: int) -> bytes:
    """A complete box."""
    return b"%d" % length + b"x" * length


class FakeKernel:
    """A kernel whose events a test makes. Watches are numbered from 1 in the order they were added."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self.limit = limit
        self.watches: dict[str, int] = {}
        self.removed: list[int] = []
        self.closed = False
        self._events: list[Event] = []
        self._there = trio.Event()

    def __call__(self):
        """Itself, as the instance that a watcher makes."""
        return self

    def add(self, directory):
        """Refuses what is no directory, and any beyond the limit."""
        if not Path(directory).is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        if directory not in self.watches and len(self.watches) >= self.limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)
        return self.watches.setdefault(directory, len(self.watches) + 1)

    def remove(self, watch):
        """Note it."""
        self.removed.append(watch)

    def say(self, *events):
        """Put events where the watcher reads them."""
        self._events += events
        self._there.set()

    async def wait(self):
        """Until something was said."""
        await self._there.wait()

    def read(self):
        """What was said."""
        events, self._events = self._events, []
        self._there = trio.Event()
        return events

    def close(self):
        """Note it."""
        self.closed = True
