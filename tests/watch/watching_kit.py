"""A watcher at work on a real directory, for tests that wait for what it reports."""

from contextlib import asynccontextmanager
from pathlib import Path

import trio
from watch_fakes import Claims, box

from smdaemon.watch.inotify import Inotify
from smdaemon.watch.watcher import Watcher, WatchSpec

# So long that a test which waited for it would fail: what is reported was reported for another reason.
NEVER = 3600.0
BOUND = 20.0


class Watched:
    """A watcher at work, and what it reported."""

    def __init__(self, root, claiming, kernel, **spec):
        send, self._reported = trio.open_memory_channel(10_000)
        wanted = WatchSpec(**{"root": root, "recursive": True, "quiet_seconds": NEVER, "poll_seconds": NEVER, **spec})
        self.root = root
        self.changed = trio.Event()
        self.watcher = Watcher(wanted, send.send, on_state=self._note, claiming=claiming or Claims(), kernel=kernel)

    def _note(self, state):
        assert state is self.watcher.state
        self.changed.set()
        self.changed = trio.Event()

    async def next(self):
        """The name of the next drop."""
        with trio.fail_after(BOUND):
            drop = await self._reported.receive()
        return str(drop.path.relative_to(self.root))

    async def take(self, count):
        """The names of as many drops, sorted."""
        return sorted([await self.next() for _ in range(count)])

    async def nothing_before(self, name):
        """A whole box put there now is the next thing reported: nothing else was waiting."""
        place(self.root / name, box(1))
        assert await self.next() == name

    async def health(self, wanted):
        """Until the watch is as healthy as that."""
        with trio.fail_after(BOUND):
            while self.watcher.state.health != wanted:
                await self.changed.wait()


@asynccontextmanager
async def watching(root, *, claiming=None, kernel=Inotify, **spec):
    """A watcher that has started; cancelled at the end."""
    watched = Watched(root, claiming, kernel, **spec)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(BOUND):
            await nursery.start(watched.watcher.run)
        yield watched
        nursery.cancel_scope.cancel()


def place(path: Path, content: bytes) -> None:
    """Write a file beside and rename it into place."""
    hidden = path.with_name(f".{path.name}")
    hidden.write_bytes(content)
    hidden.rename(path)
