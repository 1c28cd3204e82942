"""Watches the room on the file systems that models are published to: where it is short, the model's queue pauses, and status says so."""

from collections.abc import Callable
from pathlib import Path

import trio

from smdaemon.errors import EnvironmentFault
from smdaemon.log import get_logger
from smdaemon.publish import space
from smdaemon.publish.space import Room
from smdaemon.settings import Config

_log = get_logger(__name__)
LOOK_SECONDS = 5.0


class SpaceWatch:
    """A service: `low` has, by the model's name, why a model's exports pause, `rooms` the room that it has.

    `on_change` is called when what is low changes.
    """

    def __init__(self, config: Callable[[], Config], on_change: Callable[[], None]) -> None:
        self.low: dict[str, EnvironmentFault] = {}
        self.rooms: dict[str, Room] = {}
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
        rooms: dict[str, Room] = {}
        for model in config.model:
            room, fault = await trio.to_thread.run_sync(_look, Path(model.publish), config.daemon.min_free_bytes)
            rooms[model.name] = room
            if fault is not None:
                found[model.name] = fault
        for name in found.keys() - self.low.keys():
            _log.warning("queue paused", model=name, code=found[name].code, reason=found[name].message)
        for name in self.low.keys() - found.keys():
            _log.info("queue goes on", model=name)
        changed = found.keys() != self.low.keys()
        self.low, self.rooms = found, rooms
        if changed:
            self._on_change()


def _look(path: Path, min_free: int) -> tuple[Room, EnvironmentFault | None]:
    """The room there, and why it is too little. What cannot be looked at says so itself when an export comes there."""
    try:
        room = space.room_of(path)
    except EnvironmentFault:
        return Room(0, 0), None
    return room, space.shortage(path, room, 0, min_free)
