"""Watches the room on the file systems that models are published to: where it is short, the model's queue pauses, and status says so."""

import math
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
        # publish directories that have not answered yet: each holds one thread at most, and none of those that others need
        self._asked: set[str] = set()
        self._answers: dict[str, tuple[Room, EnvironmentFault | None]] = {}
        self._threads = trio.CapacityLimiter(math.inf)

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once at each model's room. What does not answer in time pauses its queue, too, until it does; it is not asked twice at a time."""
        config = self._config()
        places = {model.publish for model in config.model}
        self._answers = {path: answer for path, answer in self._answers.items() if path in places}
        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                for path in places - self._asked:
                    nursery.start_soon(self._ask, path, config.daemon.min_free_bytes)
        found: dict[str, EnvironmentFault] = {}
        rooms: dict[str, Room] = {}
        for model in config.model:
            room, fault = self._answers.get(model.publish, (None, None))
            if model.publish in self._asked:
                message = f"the publish directory {model.publish!r} does not answer"
                fault = EnvironmentFault("directory-slow", message, retryable=True)
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

    async def _ask(self, path: str, min_free: int) -> None:
        def ask() -> tuple[Room, EnvironmentFault | None]:
            self._asked.add(path)
            try:
                return _look(Path(path), min_free)
            finally:
                self._asked.discard(path)

        self._answers[path] = await trio.to_thread.run_sync(ask, limiter=self._threads, abandon_on_cancel=True)


def _look(path: Path, min_free: int) -> tuple[Room, EnvironmentFault | None]:
    """The room there, and why it is too little. What cannot be looked at says so itself when an export comes there."""
    try:
        room = space.room_of(path)
    except EnvironmentFault:
        return Room(0, 0), None
    return room, space.shortage(path, room, 0, min_free)
