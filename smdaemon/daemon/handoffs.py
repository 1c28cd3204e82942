"""Handoffs in the daemon: what trainers commit becomes jobs, and what becomes of the jobs is told to trainers.

A job of a handoff has no file to begin anew from. Its tensors are in a segment that the daemon holds, and the trainer too until the export has
ended; after a restart either the service manager hands the descriptors back, or the trainer offers them again. Until then the job waits.
"""

import os
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import trio

from smdaemon import systemd
from smdaemon.daemon.inherited import STORED
from smdaemon.daemon.intake import Intake
from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError
from smdaemon.handoff.exports import Ended, Handed
from smdaemon.handoff.holdings import Committed, Holdings
from smdaemon.handoff.memory import adopted_segment
from smdaemon.handoff.server import HandoffServer
from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.states import TERMINAL, Event, ImpossibleMoveError, State
from smdaemon.log import get_logger
from smdaemon.proto import v1
from smdaemon.settings import Config, DaemonSettings
from smdaemon.unix_socket import uid_of

_log = get_logger(__name__)


class Handoffs:
    """The handoff service, and what the rest of the daemon asks of it. `users` may connect: a reload puts others there."""

    def __init__(self, ledger: Ledger, intake: Intake, config: Callable[[], Config], wake: Callable[[], None]) -> None:
        self._ledger = ledger
        self._intake = intake
        self._config = config
        self._wake = wake
        self._cancel: Callable[[int], Awaitable[Job]] | None = None
        # of trio's clock, which no step of the time of day moves
        self._started_at = trio.current_time()
        self.users = users_of(config().daemon)
        self.saves = 0
        self.skipped = 0
        self.last_stall_seconds = 0.0
        # model, seconds that the trainer was kept; for whoever counts them
        self.observers: list[Callable[[str, float], None]] = []
        self.holdings = Holdings(config().daemon.handoff_memory_bytes, _keep, _forget)
        self.server = HandoffServer(self.holdings, self, self._may_connect)
        ledger.observe(self._saw)

    async def accept(self, handed: Handed) -> tuple[int, Ended | None]:
        """See `handoff.exports.Exports`."""
        job, new = await self._intake.handoff(handed)
        if new:
            self._count(handed, job.model)
        if job.state is State.WAITING:
            await self._attempt_now(job)
        return job.id, _ended(job) if job.state in TERMINAL else None

    async def cancel(self, job: int) -> None:
        """See `handoff.exports.Exports`."""
        assert self._cancel is not None
        try:
            await self._cancel(job)
        except SmdaemonError as error:
            _log.warning("handoff not cancelled", job=job, code=error.code, reason=error.message)

    def segment_of(self, job: Job) -> tuple[Path, Path]:
        """Segment and plan of a handoff's job.

        While they may still come, EnvironmentFault `handoff-lost`, which is tried again; then DropError `handoff-lost`.
        """
        committed = self.holdings.exports.get(job.identity)
        if committed is not None:
            return committed.paths
        grace = self._config().daemon.handoff_grace_seconds
        if trio.current_time() < self._started_at + grace:
            message = "the trainer has not offered the tensors again since the daemon started"
            raise EnvironmentFault("handoff-lost", message, retryable=True)
        raise DropError("handoff-lost", "neither the daemon nor a trainer has the tensors any more")

    def holds(self, job: Job) -> bool:
        """Whether the tensors of a handoff's job are here."""
        return job.identity in self.holdings.exports

    def restore(self, descriptors: Iterable[tuple[str, int]]) -> None:
        """Take back what the service manager kept; what belongs to no open job is closed."""
        kept: dict[str, dict[str, int]] = defaultdict(dict)
        for name, fd in descriptors:
            if (found := STORED.fullmatch(name)) is not None:
                kept[found[2]][found[1]] = fd
        wanted = {job.identity: job for job in self._ledger.open_jobs.values() if job.origin == "handoff"}
        for export, fds in kept.items():
            job = wanted.get(export)
            if job is None or len(fds) < 2:
                for fd in fds.values():
                    os.close(fd)
                _forget(export)
                continue
            try:
                self._take_back(export, fds["segment"], fds["plan"], job)
            except SmdaemonError as error:
                os.close(fds["plan"])
                _forget(export)
                _log.warning("handoff not taken back", job=job.id, code=error.code, reason=error.message)

    def _take_back(self, export: str, segment_fd: int, plan_fd: int, job: Job) -> None:
        segment = adopted_segment(segment_fd, os.fstat(segment_fd).st_size)
        try:
            self.holdings.claim(segment.nbytes, None)
        except SmdaemonError:
            segment.close()
            raise
        held = self.holdings.add(segment, None)
        self.holdings.begin(held, export)
        self.holdings.commit(held, plan_fd).job = job.id
        _log.info("handoff taken back", job=job.id, bytes=segment.nbytes)

    async def serve(self, listener: socket.socket, cancel: Callable[[int], Awaitable[Job]]) -> None:
        """Serve trainers until cancelled; `cancel` cancels a job."""
        self._cancel = cancel
        await self.server.serve(listener)

    def status(self) -> v1.Handoff:
        """What trainers have handed over."""
        return v1.Handoff(
            socket=self._config().daemon.handoff_socket,
            trainers=self.server.trainers,
            segments=self.holdings.segments,
            memory_bytes=self.holdings.budget_bytes,
            memory_used_bytes=self.holdings.used_bytes,
            exports=len(self.holdings.exports),
            saves=self.saves,
            skipped=self.skipped,
            last_stall_seconds=self.last_stall_seconds,
            refused=self.holdings.refused,
        )

    def _count(self, handed: Handed, model: str) -> None:
        self.saves += 1
        self.skipped += handed.skipped
        self.last_stall_seconds = handed.stall_seconds
        for observer in self.observers:
            observer(model, handed.stall_seconds)

    async def _attempt_now(self, job: Job) -> None:
        """What the job waited for has come."""
        try:
            await self._ledger.move(job.id, Event.DUE, reason="the trainer has offered the tensors again")
        except ImpossibleMoveError:
            return  # its time had come anyhow
        self._wake()

    def _saw(self, move: Moved) -> None:
        job = move.job
        if job.origin == "handoff" and job.state in TERMINAL:
            self.server.ended(job.identity, _ended(job))

    def _may_connect(self, uid: int) -> bool:
        return uid in self.users

    def close(self) -> None:
        """Let go of all segments; who kept a descriptor still has the memory."""
        self.holdings.close()


def users_of(settings: DaemonSettings) -> frozenset[int]:
    """The ids of the users that may hand tensors over: the daemon's own, and `handoff_users`. Looking one up may take a while."""
    return frozenset({os.getuid(), *(uid_of(user) for user in settings.handoff_users)}) - {-1}


def _ended(job: Job) -> Ended:
    if job.state is State.PUBLISHED:
        return Ended(version=job.version or 0, export_dir=job.export_dir)
    if job.error is not None:
        return Ended(code=job.error.code, message=job.error.message, remedy=job.error.remedy)
    return Ended(code="handoff-cancelled", message=job.reason or f"the job was {job.state}")


def _keep(committed: Committed) -> None:
    """Ask the service manager to keep the descriptors of an export over a restart."""
    systemd.store(f"handoff-segment-{committed.export}", [committed.held.segment.fd])
    systemd.store(f"handoff-plan-{committed.export}", [committed.plan])


def _forget(export: str) -> None:
    systemd.forget(f"handoff-segment-{export}")
    systemd.forget(f"handoff-plan-{export}")
