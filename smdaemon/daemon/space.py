"""Watches the room on the file systems that models are published to: where it is short, the model's queue pauses, and status says so."""

from collections.abc import Callable
from pathlib import Path

import trio

from smdaemon.config import Config
from smdaemon.errors import EnvironmentFault
from smdaemon.log import get_logger
from smdaemon.publish.space import check_room

_log = get_logger(__name__)
LOOK_SECONDS = 5.0


class SpaceWatch:
    """A service: `low` has, by the model's name, why a model's exports pause. `on_change` is called when that changes."""

    def __init__(self, config: Callable[[], Config], on_change: Callable[[], None]) -> None:
        self.low: dict[str, EnvironmentFault] = {}
        self._config = config
        self._on_change = on_change

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        config = self._config()
        found: dict[str, EnvironmentFault] = {}
        for model in config.model:
            fault = await trio.to_thread.run_sync(_shortage, Path(model.publish), config.daemon.min_free_bytes)
            if fault is not None:
                found[model.name] = fault
        for name in found.keys() - self.low.keys():
            _log.warning("queue paused", model=name, code=found[name].code, reason=found[name].message)
        for name in self.low.keys() - found.keys():
            _log.info("queue goes on", model=name)
        changed = found.keys() != self.low.keys()
        self.low = found
        if changed:
            self._on_change()


def _shortage(path: Path, min_free: int) -> EnvironmentFault | None:
    try:
        check_room(path, 0, min_free)
    except EnvironmentFault as error:
        # what cannot be looked at says so itself when an export comes there
        return error if error.code == "disk-low" else None
    return None
