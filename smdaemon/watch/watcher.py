"""One watched directory, from start to cancellation: reports each complete drop once.

Two tasks. One waits for the kernel (or polls), keeps the tree of watches and notes which paths were touched. The other
takes what was noted, looks at it in a thread, and reports. So the kernel's queue is emptied however long a report takes.
"""

import functools
import itertools
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import trio

from smdaemon.errors import EnvironmentFault, SmdaemonError, fault
from smdaemon.paths import absolute
from smdaemon.watch.agenda import Agenda
from smdaemon.watch.base import Claiming, Drop
from smdaemon.watch.completeness import Moment, Touch
from smdaemon.watch.drops import Looked, Sightings
from smdaemon.watch.filesystem import remote_kind
from smdaemon.watch.inotify import Inotify, Kernel
from smdaemon.watch.scan import Scan, Scanner
from smdaemon.watch.tree import News, Tree, WatchLimitError

T = TypeVar("T")

__all__ = ["Drop", "NotTakenError", "WatchSpec", "WatchState", "Watcher"]

# So many paths are looked at in one go: an event that comes while a great backlog is worked through waits no longer.
_BATCH = 256
# How long a lost root is waited for between two attempts.
_FIRST_RETRY_SECONDS = 0.1
_LAST_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class WatchSpec:
    """What to watch and how. `format`: "auto", or the name of the only format that is taken."""

    root: Path
    recursive: bool = False
    follow_links: bool = False
    format: str = "auto"
    method: Literal["auto", "inotify", "poll"] = "auto"
    quiet_seconds: float = 2.0
    poll_seconds: float = 5.0
    rescan_seconds: float = 300.0


@dataclass(frozen=True)
class WatchState:
    """How the watch is doing, for status. `method` is empty while nothing is watched; `last_rescan` is Unix time."""

    method: Literal["", "inotify", "poll"] = ""
    health: Literal["ok", "degraded"] = "ok"
    error: SmdaemonError | None = None
    directories: int = 0
    last_rescan: float | None = None


class NotTakenError(Exception):
    """Raised by `on_drop` where this one drop cannot be taken for the moment; others go on meanwhile.

    It is reported again after `again_seconds`; earlier where it changes, or somebody asks for a rescan.
    """

    def __init__(self, again_seconds: float) -> None:
        super().__init__(f"not taken; to be reported again in {again_seconds:g} s")
        self.again_seconds = again_seconds


class _Once:
    """Calls a function the first time only."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.done = False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            self._function()


class Watcher:
    """Watches one directory and awaits `on_drop` for each complete drop, once for each path and identity.

    After a start every complete drop is reported again, and so is one that `on_drop` refused with NotTakenError. `on_state` is
    called with each new `state`. `claiming` and `kernel` stand in for the real formats and the real inotify in tests.
    """

    def __init__(
        self,
        spec: WatchSpec,
        on_drop: Callable[[Drop], Awaitable[None]],
        *,
        on_state: Callable[[WatchState], None] | None = None,
        claiming: Claiming | None = None,
        kernel: Callable[[], Kernel] = Inotify,
    ) -> None:
        self.state = WatchState()
        self._spec = spec
        self._root = absolute(spec.root)  # a symlinked root stays the path that was configured
        self._on_drop = on_drop
        self._on_state = on_state
        self._new_kernel = kernel
        self._sightings = Sightings(
            self._root,
            _claiming_of(spec.format) if claiming is None else claiming,
            recursive=spec.recursive,
            quiet_seconds=spec.quiet_seconds,
            follow_links=spec.follow_links,
        )
        self._threads = trio.CapacityLimiter(2)  # one for each task
        self._touched: dict[str, Touch] = {}
        self._scanned: dict[str, Touch] = {}
        self._gone: list[str] = []
        self._agenda = Agenda()
        self._recheck = False
        self._noted = trio.Event()
        self._idle = trio.Event()
        self._rescan_wanted = False
        self._retry_wanted = False
        self._pause: trio.CancelScope | None = None

    def request_rescan(self) -> None:
        """List everything again, soon, and report what could not be taken. Call it from the trio thread."""
        self._rescan_wanted = True
        self._retry_wanted = True
        if self._pause is not None:
            self._pause.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled.

        Started once the directory is watched and what was complete in it is reported, or once it proved unwatchable.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_drops)
            await self._keep_watching(task_status)

    async def _keep_watching(self, task_status: trio.TaskStatus[None]) -> None:
        started = _Once(task_status.started)
        pause = _FIRST_RETRY_SECONDS
        while True:
            began = trio.current_time()
            self._rescan_wanted = False  # a new watch begins with listing everything
            try:
                await self._watch(started)
            except EnvironmentFault as error:
                self._degrade(error)
            except OSError as error:
                self._degrade(fault(error, "watching"))
            started()
            self._recheck = True
            self._noted.set()
            if trio.current_time() - began > _LAST_RETRY_SECONDS:
                pause = _FIRST_RETRY_SECONDS
            await self._sleep_until(trio.current_time() + pause)
            pause = min(2 * pause, _LAST_RETRY_SECONDS)

    async def _watch(self, started: _Once) -> None:
        """Watch until the root goes away: OSError or EnvironmentFault then."""
        kind = await self._in_thread(remote_kind, self._root)
        self._sightings.trust_stamps = kind is None
        poll = self._spec.method == "poll" or (self._spec.method == "auto" and kind is not None)
        if poll:
            await self._poll(started, None, math.inf)
            return
        try:
            kernel = self._new_instance()
            try:
                await self._follow(kernel, started)
            finally:
                kernel.close()
        except WatchLimitError as error:
            # Worse than events, better than nothing. Watches may become free: try again now and then.
            await self._poll(started, error, trio.current_time() + self._spec.rescan_seconds)

    def _new_instance(self) -> Kernel:
        try:
            return self._new_kernel()
        except OSError as error:
            raise WatchLimitError(f"no further inotify instance for {self._root!r}") from error

    async def _follow(self, kernel: Kernel, started: _Once) -> None:
        """Watch by events."""
        tree = Tree(kernel, self._root, recursive=self._spec.recursive)
        inode = await self._rescan(tree)
        next_rescan = trio.current_time() + self._spec.rescan_seconds
        await self._settled(started)
        while True:
            with self._pausing(min(next_rescan, trio.current_time() + self._spec.poll_seconds)):
                await kernel.wait()
            events = kernel.read()
            news = tree.read(events)
            self._note(news)
            # A parent of the root may be moved, or a symlink to it changed: no event tells of that.
            if news.root_gone or (not events and await self._in_thread(_inode, self._root) != inode):
                raise EnvironmentFault(
                    "directory-missing", f"the watched directory {self._root!r} was moved or deleted", retryable=True
                )
            if news.directories:
                await self._arm(tree, news.directories)
            if news.overflow or self._rescan_wanted:
                await self._rescan(tree)
            elif trio.current_time() >= next_rescan:
                await self._rescan(tree, changed_only=True)
                next_rescan = trio.current_time() + self._spec.rescan_seconds

    async def _rescan(self, tree: Tree, *, changed_only: bool = False) -> tuple[int, int]:
        self._rescan_wanted = False
        inode = await self._in_thread(_inode, self._root)
        list_them = tree.changed if changed_only else tree.rescan
        scan = await self._in_thread(list_them, trio.current_time(), abandon=False)
        self._note_scan(scan, "inotify", len(tree))
        return inode

    async def _arm(self, tree: Tree, directories: dict[str, Touch]) -> None:
        for touch in (Touch.SEEN, Touch.MOVED):
            wanted = [path for path, seen in directories.items() if seen is touch]
            if not wanted:
                continue
            scan = await self._in_thread(tree.arm, wanted, trio.current_time(), abandon=False)
            # What lies in a directory that was renamed into place was renamed into place with it.
            for path in (*scan.directories, *scan.files):
                self._touched[path] = max(touch, self._touched.get(path, touch))
        self._noted.set()
        self._say(replace(self.state, directories=len(tree)))

    async def _poll(self, started: _Once, error: SmdaemonError | None, until: float) -> None:
        """Watch by looking again and again."""
        scanner = Scanner(self._root, recursive=self._spec.recursive)
        next_rescan = -math.inf
        while True:
            full = self._rescan_wanted or trio.current_time() >= next_rescan
            if full:
                self._rescan_wanted = False
                next_rescan = trio.current_time() + self._spec.rescan_seconds
            scan = await self._in_thread(scanner.full if full else scanner.changed, trio.current_time())
            self._note_scan(scan, "poll", len(scanner), error)
            await self._settled(started)
            await self._sleep_until(trio.current_time() + self._spec.poll_seconds)
            if trio.current_time() >= until or (error is not None and self._rescan_wanted):
                return

    def _note(self, news: News) -> None:
        for path, touch in news.touched.items():
            self._touched[path] = touch if touch is Touch.SEEN else max(touch, self._touched.get(path, touch))
        for path in news.created:
            # Its writer's close will make an event; a link will not.
            self._agenda.put(path, trio.current_time() + self._spec.quiet_seconds)
        self._gone += news.gone
        if news.touched or news.created or news.gone:
            self._noted.set()

    def _note_scan(
        self,
        scan: Scan,
        method: Literal["inotify", "poll"],
        directories: int,
        error: SmdaemonError | None = None,
    ) -> None:
        for path in (*scan.directories, *scan.files):
            self._scanned.setdefault(path, Touch.SEEN)
        self._recheck = True
        self._noted.set()
        if error is None and scan.problems:
            error = fault(scan.problems[0], "listing")
        self._say(WatchState(method, "ok" if error is None else "degraded", error, directories, time.time()))

    def _degrade(self, error: SmdaemonError) -> None:
        before = self.state.error
        if self.state.method == "" and before is not None and (before.code, str(before)) == (error.code, str(error)):
            return  # the same again, one retry later
        self._say(replace(self.state, method="", health="degraded", error=error, directories=0))

    def _say(self, state: WatchState) -> None:
        self.state = state
        if self._on_state is not None:
            self._on_state(state)

    async def _settled(self, started: _Once) -> None:
        """Until everything noted so far was looked at, the first time."""
        if started.done:
            return
        self._idle = trio.Event()
        self._noted.set()
        await self._idle.wait()
        started()

    async def _report_drops(self) -> None:
        while True:
            touches, gone, recheck = self._take()
            if not (touches or gone or recheck):
                self._idle.set()
                await self._until_noted()
                continue
            if self._retry_wanted:
                self._retry_wanted = False
                self._sightings.retry_refused()
            looked = await self._in_thread(self._look, touches, gone, recheck, trio.current_time())
            for path, when in looked.again.items():
                self._agenda.put(path, when)
            for drop in looked.drops:
                try:
                    await self._on_drop(drop)
                except NotTakenError as refused:
                    again = trio.current_time() + refused.again_seconds
                    self._sightings.take_back(drop, again)
                    self._agenda.put(str(drop.path), again)

    async def _until_noted(self) -> None:
        with trio.move_on_at(self._agenda.next()):
            await self._noted.wait()

    def _take(self) -> tuple[dict[str, Touch], list[str], bool]:
        """A batch of work: what events touched first, then what is due, then what was listed."""
        # No await in here: what is noted after this belongs to the next batch.
        self._noted = trio.Event()
        batch: dict[str, Touch] = {}
        _move(self._touched, batch, _BATCH)
        for path in self._agenda.due(trio.current_time(), _BATCH - len(batch)):
            batch.setdefault(path, Touch.SEEN)
        _move(self._scanned, batch, _BATCH - len(batch))
        for path in batch:
            self._agenda.drop(path)
        gone, self._gone = self._gone, []
        recheck = self._recheck and not batch
        if recheck:
            self._recheck = False
        return batch, gone, recheck

    def _look(self, touches: dict[str, Touch], gone: list[str], recheck: bool, now: float) -> Looked:
        known = self._sightings.changed() if recheck else self._sightings.below(gone)
        return self._sightings.look({**dict.fromkeys(known, Touch.SEEN), **touches}, Moment(now, time.time()))

    async def _in_thread(self, work: Callable[..., T], *arguments: object, abandon: bool = True) -> T:
        """Blocking work. A server that hangs must not hold up a stop; only watches are never added to a closed kernel."""
        return await trio.to_thread.run_sync(
            functools.partial(work, *arguments), abandon_on_cancel=abandon, limiter=self._threads
        )

    async def _sleep_until(self, deadline: float) -> None:
        with self._pausing(deadline):
            await trio.sleep_forever()

    def _pausing(self, deadline: float) -> trio.CancelScope:
        """A scope that a request for a rescan ends too."""
        self._pause = trio.CancelScope(deadline=deadline)
        if self._rescan_wanted:
            self._pause.cancel()
        return self._pause


def _inode(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - paths are strings in this room
    return status.st_dev, status.st_ino


def _move(source: dict[str, Touch], target: dict[str, Touch], limit: int) -> None:
    for path in list(itertools.islice(source, limit)):
        touch = source.pop(path)
        target[path] = max(touch, target.get(path, touch))


def _claiming_of(name: str) -> Claiming:
    """The formats that there are, or the one that is asked for; DropError if there is none of that name."""
    from smdaemon.sources import formats

    if name == formats.AUTO:
        return formats.claiming
    only = formats.format_named(name)
    return lambda path: only if only.claims(path) else None
