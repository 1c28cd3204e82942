"""Removes, at the start, the drafts that an earlier run left in the publish directories."""

from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from smdaemon.errors import EnvironmentFault
from smdaemon.log import get_logger
from smdaemon.publish.local import LocalStore
from smdaemon.settings import ModelSettings

_log = get_logger(__name__)


class Sweep:
    """A service: `run` ends once all are swept, and `finished` is set then.

    `under_way` has the directories that are still being swept: a new draft there might be taken for an old one. `on_swept`
    is called when one is done.
    """

    def __init__(self, models: Iterable[ModelSettings], owner: str, on_swept: Callable[[], None]) -> None:
        self.finished = trio.Event()
        self._stores = {model.publish: LocalStore(Path(model.publish), owner) for model in models}
        self.under_way = set(self._stores)
        self._on_swept = on_swept

    async def run(self) -> None:
        """Sweep all directories, each for itself: one that hangs holds up its own model only."""
        async with trio.open_nursery() as nursery:
            for path, store in self._stores.items():
                nursery.start_soon(self._sweep, path, store, trio.CapacityLimiter(1))
        self.finished.set()

    async def _sweep(self, path: str, store: LocalStore, thread: trio.CapacityLimiter) -> None:
        try:
            left = await trio.to_thread.run_sync(store.sweep, limiter=thread, abandon_on_cancel=True)
        except EnvironmentFault as error:
            _log.warning("publish directory not swept", path=path, code=error.code, reason=error.message)
        else:
            if left:
                _log.info("removed unfinished drafts", path=path, drafts=left)
        self.under_way.discard(path)
        self._on_swept()
