"""The daemon: every service in one nursery, from start over reloads to a drained stop.

What is below starts first and stops last: state directory, journal, scheduler, control socket, watches. A signal to stop
closes the intake, lets running exports finish until the deadline, and leaves the rest in the journal for the next start.
"""

import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import msgspec
import trio

from smdaemon import log, systemd
from smdaemon.config import differences
from smdaemon.control.access import Access, access_of
from smdaemon.control.server import serve
from smdaemon.control.tls import tls_of
from smdaemon.daemon.execution import Execution
from smdaemon.daemon.handoffs import Handoffs, users_of
from smdaemon.daemon.inherited import inherited
from smdaemon.daemon.intake import Intake
from smdaemon.daemon.locks import state_directory
from smdaemon.daemon.manager import Manager
from smdaemon.daemon.notifications import Notifications
from smdaemon.daemon.pulse import Pulse
from smdaemon.daemon.results import FINISH_SECONDS, ResultWriter
from smdaemon.daemon.serving import Serving
from smdaemon.daemon.settings import load_settings
from smdaemon.daemon.space import SpaceWatch
from smdaemon.daemon.sweep import Sweep
from smdaemon.daemon.versions import Versions
from smdaemon.daemon.view import Condition, View
from smdaemon.daemon.watches import PATIENCE_SECONDS, Watches
from smdaemon.durable import write_atomically
from smdaemon.errors import ConfigError, EnvironmentFault, fault
from smdaemon.export.budget import ByteBudget
from smdaemon.jobs.ledger import Ledger, open_ledger
from smdaemon.jobs.scheduler import Scheduler
from smdaemon.jobs.turns import ModelPolicy
from smdaemon.paths import exists
from smdaemon.proto import v1
from smdaemon.settings import Config, DaemonSettings
from smdaemon.unix_socket import unix_listener

_log = log.get_logger(__name__)
_DAY_SECONDS = 86_400.0
_FORGET_EVERY_SECONDS = 3_600.0
_JOBS_KEPT = 1000
# For the last events to be told and the last version to be written into Serving's file; the next start does what is left.
_SETTLE_SECONDS = 10.0
# Settings of [daemon] that only a restart can change: what they name is open, or what they set is what the process is.
_FIXED = (
    *("state_dir", "control_socket", "control_mode", "control_group"),
    *("control_listen", "control_tls_cert", "control_tls_key"),
    *("handoff_socket", "handoff_mode", "handoff_group"),
    *("nice", "io_priority"),
)


class Daemon:
    """One daemon on one configuration file."""

    def __init__(self, config_file: Path, config: Config) -> None:
        now = time.time()
        self._file = config_file
        self._condition = Condition(config, str(config_file), "starting", now, now)
        self._stop = trio.Event()
        self._stop_now = trio.Event()
        self._reload_wanted = trio.Event()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._condition.config

    def stop(self) -> None:
        """Begin to drain; called once more, stop without waiting for running exports."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def run(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until SIGTERM, SIGINT or `stop`, then drain. Started with the addresses of the control socket.

        Raises ConfigError or EnvironmentFault (in a group, as nurseries do) where the daemon cannot start.
        """
        settings = self.config.daemon
        self._access = _access_of(settings)
        self._tls = tls_of(settings)
        with (
            inherited(systemd.handed_over(), settings) as self._inherited,
            state_directory(Path(settings.state_dir)) as state,
        ):
            async with open_ledger(state / "journal.sqlite") as ledger, trio.open_nursery() as nursery:
                owner = _owner_of(state)
                self._sweep = Sweep(self.config.model, owner, self._wake)
                self._space = SpaceWatch(lambda: self.config, self._wake)
                self._budget = ByteBudget(settings.host_memory_bytes)
                intake = Intake(ledger, lambda: self.config)
                handoffs = self._handoffs = Handoffs(ledger, intake, lambda: self.config, self._wake)
                versions = Versions(ledger, lambda: self.config, owner=owner)
                self._make_tellers(ledger, versions, owner)
                execution = Execution(
                    ledger,
                    lambda: self.config,
                    self._budget,
                    owner=owner,
                    segment_of=handoffs.segment_of,
                    lock_of=versions.lock,
                )
                self._scheduler = Scheduler(ledger, execution, workers=settings.workers, policy=self._policy)
                self._watches = Watches(intake, nursery, self._scheduler.wake)
                manager = self._manager = Manager(self._status)
                pulse = self._pulse_of(ledger)
                view = self._view = View(
                    condition=self._condition,
                    ledger=ledger,
                    scheduler=self._scheduler,
                    intake=intake,
                    watches=self._watches,
                    budget=self._budget,
                    handoffs=handoffs,
                    versions=versions,
                    space=self._space,
                    pulse=pulse,
                    notifications=self._notifications,
                    serving=self._serving,
                )
                ledger.observe(manager.changed)
                results = ResultWriter(ledger, lambda: self.config)
                served = trio.Event()
                addresses = await nursery.start(self._serve, view, served)
                await nursery.start(self._obey_signals)
                nursery.start_soon(self._reload_when_wanted)
                for service in (pulse.run, self._sweep.run, results.run, versions.run, self._serving.run):
                    nursery.start_soon(service)
                await nursery.start(self._notifications.run)
                await self._scheduler.recover()
                handoffs.restore(self._inherited.stored)
                if settings.handoff_socket:
                    await nursery.start(self._serve_trainers, handoffs)
                await self._space.look()
                # after the look: the first sample knows the room, too
                for service in (view.past.run, self._space.run, self._scheduler.run):
                    nursery.start_soon(service)
                nursery.start_soon(self._forget_old_jobs, ledger)
                await self._watch_all(self._stop)
                if not self._stop.is_set():
                    self._condition.phase = "running"
                    _log.info("running", control=addresses, models=[model.name for model in self.config.model])
                    manager.ready()
                    nursery.start_soon(manager.run)
                task_status.started(addresses)
                await self._stop.wait()
                await self._drain()
                await results.finish()
                view.stopping.set()
                await served.wait()
                nursery.cancel_scope.cancel()
        _log.info("stopped")

    def _make_tellers(self, ledger: Ledger, versions: Versions, owner: str) -> None:
        """Who tell others what was published."""
        self._notifications = Notifications(ledger, lambda: self.config, owner=owner)
        self._serving = Serving(ledger, lambda: self.config, versions)

    async def _watch_all(self, *signs: trio.Event) -> None:
        """Return when every watch has looked and what an earlier run left is gone, or at one of the signs.

        A file system that hangs is not waited for then, nor for longer than a minute: the other models are served.
        """
        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            async with _until(*signs):
                await self._watches.apply(self.config.model)
                await self._sweep.finished.wait()
        if patience.cancelled_caught:
            late = [each.name for each in self.config.model if not self._watches.has_looked(each.name)]
            _log.warning("directories do not answer", watches=late, sweeps=sorted(self._sweep.under_way))

    async def reload(self) -> None:
        """Read the configuration again and put it in force; where it has a mistake the old one stays."""
        with self._manager.reloading():
            await self._reload()

    async def _reload(self) -> None:
        try:
            new = await trio.to_thread.run_sync(load_settings, self._file)
            access = await trio.to_thread.run_sync(_access_of, new.daemon)
            trainers = await trio.to_thread.run_sync(users_of, new.daemon)
            if self._tls is not None:
                await trio.to_thread.run_sync(self._tls.reload)
        except (ConfigError, EnvironmentFault) as error:
            self._condition.config_error = error
            _log.error("configuration refused", code=error.code, reason=error.message, remedy=error.remedy)
            return
        if self._stop.is_set():
            return  # no watch is begun any more
        later = [key for key in _FIXED if getattr(new.daemon, key) != getattr(self.config.daemon, key)]
        new = msgspec.structs.replace(new, daemon=_with_fixed(new.daemon, self.config.daemon))
        changes = differences(self.config, new)
        self._access = access
        self._condition.config = new
        self._condition.config_error = None
        self._condition.config_loaded_at = time.time()
        log.configure(new.daemon.log_level, new.daemon.log_format)
        self._scheduler.workers = new.daemon.workers
        self._budget.total = new.daemon.host_memory_bytes
        self._handoffs.users = trainers
        self._handoffs.holdings.budget_bytes = new.daemon.handoff_memory_bytes
        self._notifications.reload()
        self._serving.reload()
        await self._watch_all(self._stop, self._reload_wanted)
        self._watches.rescan()
        self._scheduler.wake()
        _log.info("configuration read", changes=changes, after_restart=later)

    async def _drain(self) -> None:
        self._condition.phase = "draining"
        self._watches.stop()
        seconds = self.config.daemon.drain_seconds
        self._manager.stopping(seconds + _SETTLE_SECONDS + FINISH_SECONDS)
        _log.info("draining", running=self._scheduler.busy, seconds=seconds)
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await self._stop_now.wait()
                await self._scheduler.drain(0)

            nursery.start_soon(hurry)
            await self._scheduler.drain(seconds, queue=self.config.daemon.drain_queue)
            nursery.cancel_scope.cancel()
        await self._settle()

    async def _settle(self) -> None:
        """Let the last of what others are to know be told, unless the stop is urgent."""
        with trio.move_on_after(_SETTLE_SECONDS):
            async with _until(self._stop_now):
                await self._serving.settle()
                await self._notifications.settle()

    async def _serve(self, view: View, served: trio.Event, *, task_status: trio.TaskStatus[list[str]]) -> None:
        settings = self.config.daemon
        try:
            await serve(
                view,
                unix_socket=None if self._inherited.control_is_unix else Path(settings.control_socket),
                mode=int(settings.control_mode, 8),
                group=settings.control_group,
                tcp=None if self._inherited.control_is_network else settings.control_listen or None,
                tls=self._tls,
                sockets=self._inherited.control,
                access=lambda: self._access,
                task_status=task_status,
            )
        finally:
            served.set()

    async def _serve_trainers(self, handoffs: Handoffs, *, task_status: trio.TaskStatus[None]) -> None:
        settings = self.config.daemon
        path, mode = Path(settings.handoff_socket), int(settings.handoff_mode, 8)
        with ExitStack() as held:
            listeners = self._inherited.handoff
            if not listeners:
                kind = socket.SOCK_SEQPACKET
                made = unix_listener(path, mode, group=settings.handoff_group, setting="handoff_socket", kind=kind)
                listeners = [held.enter_context(made)]
            held.enter_context(closing(handoffs))
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    listener.setblocking(False)
                    nursery.start_soon(handoffs.serve, listener, self._scheduler.cancel)
                task_status.started()

    async def _obey_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Note what signals want; nothing is waited for between two of them."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP:
                    self.stop()
                else:
                    self._reload_wanted.set()

    async def _reload_when_wanted(self) -> None:
        while True:
            await self._reload_wanted.wait()
            # made anew first: what is wanted from now on is another reload
            self._reload_wanted = trio.Event()
            if not self._stop.is_set():
                await self.reload()

    async def _forget_old_jobs(self, ledger: Ledger) -> None:
        """Keep the journal from growing for ever: an hourly look, which costs nothing where there is nothing to forget."""
        while True:
            older_than = time.time() - self.config.daemon.keep_jobs_days * _DAY_SECONDS
            try:
                forgotten = await ledger.prune(older_than, _JOBS_KEPT)
            except EnvironmentFault as error:
                _log.warning("old jobs not forgotten", code=error.code, reason=error.message)
            else:
                if forgotten:
                    _log.info("forgot old jobs", jobs=forgotten)
            await trio.sleep(_FORGET_EVERY_SECONDS)

    def _pulse_of(self, ledger: Ledger) -> Pulse:
        proofs = {"journal": ledger.answers, "scheduler": self._scheduler.answers}
        return Pulse(proofs, self._manager.beat, period_seconds=self._manager.period_seconds)

    def _status(self) -> v1.Status:
        return self._view.status()

    def _wake(self) -> None:
        self._scheduler.wake()

    def _policy(self, model: str) -> ModelPolicy:
        settings = self.config.model_named(model)
        if settings is None:
            return ModelPolicy()
        return ModelPolicy(
            on_backlog=settings.on_backlog,
            priority=settings.priority,
            max_parallel=0 if settings.publish in self._sweep.under_way else 1,
            paused=not self._watches.has_looked(model) or model in self._space.low,
        )


@asynccontextmanager
async def _until(*signs: trio.Event) -> AsyncIterator[None]:
    """The block ends at the latest at one of the signs."""

    async def wait(sign: trio.Event) -> None:
        await sign.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for sign in signs:
            nursery.start_soon(wait, sign)
        yield
        nursery.cancel_scope.cancel()


def _access_of(settings: DaemonSettings) -> Access:
    return access_of(settings.control_users, settings.control_token_file)


def _with_fixed(new: DaemonSettings, old: DaemonSettings) -> DaemonSettings:
    return msgspec.structs.replace(new, **{key: getattr(old, key) for key in _FIXED})


def _owner_of(state: Path) -> str:
    """The name that marks this state directory's drafts in publish directories; made once, and lasting before there is a draft."""
    path = state / "owner"
    try:
        owner = path.read_text() if exists(path) else ""
        if not owner:
            owner = uuid.uuid4().hex[:12]
            write_atomically(path, owner.encode())
    except OSError as error:
        raise fault(error, "state directory") from error
    return owner
