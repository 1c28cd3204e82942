"""The notifiers of the configuration: a task for each, so that a receiver that is down holds up neither the others nor any export."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from smdaemon.errors import EnvironmentFault
from smdaemon.jobs.job import Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.messages import error_message, set_time
from smdaemon.log import get_logger
from smdaemon.notify.notifier import Notifier, Tally
from smdaemon.notify.targets import Target, target_of
from smdaemon.proto import v1
from smdaemon.settings import Config, NotifySettings

_log = get_logger(__name__)
_AGAIN_SECONDS = 30.0


@dataclass
class _Task:
    notifier: Notifier
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class Notifications:
    """A service; `run` until cancelled. `owner` names the daemon's state directory in the ids of events."""

    def __init__(
        self,
        ledger: Ledger,
        config: Callable[[], Config],
        *,
        owner: str,
        target: Callable[[NotifySettings], Target] = target_of,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._owner = owner
        self._target = target
        self._tasks: dict[str, _Task] = {}
        self._tallies: dict[str, Tally] = {}
        self._reloaded = trio.Event()
        self._changed = trio.Event()
        ledger.observe(self._saw)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have a task for each notifier of the configuration; started once those of the start have their places."""
        async with trio.open_nursery() as nursery:
            while True:
                self._reloaded = trio.Event()
                again = float("inf")
                try:
                    await self._apply(nursery)
                except EnvironmentFault as fault:
                    _log.warning("notifiers not begun; trying again", code=fault.code, reason=fault.message)
                    again = _AGAIN_SECONDS
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                with trio.move_on_after(again):
                    await self._reloaded.wait()

    def reload(self) -> None:
        """The configuration may be another: what has changed begins anew where it was, what waits is tried at once."""
        self._reloaded.set()
        for task in self._tasks.values():
            task.notifier.hurry()

    async def settle(self) -> None:
        """Wait until all is told but to receivers that have failed."""
        while any(task.notifier.busy for task in self._tasks.values()):
            self._changed = trio.Event()
            await self._changed.wait()

    def status(self) -> list[v1.Notifier]:
        """Each notifier of the configuration, in its order."""
        return [_message(settings, self._tally(settings.name)) for settings in self._config().notify]

    async def _apply(self, nursery: trio.Nursery) -> None:
        wanted = {settings.name: settings for settings in self._config().notify}
        for name, task in list(self._tasks.items()):
            if wanted.get(name) != task.notifier.settings:
                task.scope.cancel()
                await task.ended.wait()
                del self._tasks[name]
        for name in self._tallies.keys() - wanted.keys():
            del self._tallies[name]
        places = await self._ledger.reader_places(list(wanted))
        for name, settings in wanted.items():
            if name not in self._tasks:
                notifier = Notifier(
                    settings,
                    self._target(settings),
                    self._ledger,
                    self._tally(name),
                    owner=self._owner,
                    place=places[name],
                    on_change=self._tell,
                )
                self._tasks[name] = task = _Task(notifier)
                nursery.start_soon(_run, task)

    def _tally(self, name: str) -> Tally:
        return self._tallies.setdefault(name, Tally())

    def _saw(self, move: Moved) -> None:
        for task in self._tasks.values():
            if task.notifier.wants(move.job):
                task.notifier.wake()

    def _tell(self) -> None:
        self._changed.set()


async def _run(task: _Task) -> None:
    try:
        with task.scope:
            await task.notifier.run()
    finally:
        task.ended.set()


def _message(settings: NotifySettings, tally: Tally) -> v1.Notifier:
    message = v1.Notifier(
        name=settings.name,
        kind=settings.kind,
        delivered=tally.delivered,
        failed=tally.failed,
        given_up=tally.given_up,
    )
    if tally.behind_since is not None:
        set_time(message.behind_since, tally.behind_since)
    if tally.error is not None:
        message.error.CopyFrom(error_message(tally.error))
    return message
