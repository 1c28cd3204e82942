"""Watches the room on the file systems that models are published to: where it is short, the model's queue pauses, and status says so."""

import math
from collections.abc import Callable
from pathlib import Path

import trio

from smdaemon.errors import EnvironmentFault
from smdaemon.log import get_logger
from smdaemon.publish import space
from smdaemon.publish.space import Room
from smdaemon.settings import Config, ModelSettings

_log = get_logger(__name__)
LOOK_SECONDS = 5.0
ANSWER_SECONDS = 5.0


class SpaceWatch:
    """A service: `low` has, by the model's name, why a model's exports pause, `rooms` the room that it has.

    `on_change` is called when what is low changes.
    """

    def __init__(self, config: Callable[[], Config], on_change: Callable[[], None]) -> None:
        self.low: dict[str, EnvironmentFault] = {}
        self.rooms: dict[str, Room] = {}
        self._config = config
        self._on_change = on_change
        # models whose file system has not answered yet: each holds one thread at most, and none of those that others need
        self._asked: set[str] = set()
        self._threads = trio.CapacityLimiter(math.inf)

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once at each model's room. Of what does not answer in time it stays as it was known; it is not asked twice at a time."""
        config = self._config()
        answers: dict[str, tuple[Room, EnvironmentFault | None]] = {}
        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                for model in config.model:
                    if model.name not in self._asked:
                        nursery.start_soon(self._ask, model, config.daemon.min_free_bytes, answers)
        found: dict[str, EnvironmentFault] = {}
        rooms: dict[str, Room] = {}
        for model in config.model:
            room, fault = answers.get(model.name, (self.rooms.get(model.name), self.low.get(model.name)))
            if room is not None:
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

    async def _ask(
        self, model: ModelSettings, min_free: int, answers: dict[str, tuple[Room, EnvironmentFault | None]]
    ) -> None:
        name, path = model.name, Path(model.publish)

        def ask() -> tuple[Room, EnvironmentFault | None]:
            self._asked.add(name)
            try:
                return _look(path, min_free)
            finally:
                self._asked.discard(name)

        answers[name] = await trio.to_thread.run_sync(ask, limiter=self._threads, abandon_on_cancel=True)


def _look(path: Path, min_free: int) -> tuple[Room, EnvironmentFault | None]:
    """The room there, and why it is too little. What cannot be looked at says so itself when an export comes there."""
    try:
        room = space.room_of(path)
    except EnvironmentFault:
        return Room(0, 0), None
    return room, space.shortage(path, room, 0, min_free)
