"""The handoff socket: trainers connect, are leased segments, and commit exports, which become jobs like all others."""

import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import trio

from smdaemon.accepting import Accepting
from smdaemon.errors import DropError, SmdaemonError, shortage
from smdaemon.handoff import protocol
from smdaemon.handoff.connection import Connection
from smdaemon.handoff.exports import Ended, Exports, Handed
from smdaemon.handoff.holdings import Held, Holdings
from smdaemon.handoff.memory import read_plan
from smdaemon.handoff.protocol import Accepted, Commit, Done, Fail, Message, Refused
from smdaemon.jobs.job import JobError
from smdaemon.jobs.retry import delay
from smdaemon.log import get_logger
from smdaemon.staging.layout import PLAN_BYTES_LIMIT, decode_layout
from smdaemon.unix_socket import peer_of

_log = get_logger(__name__)
_COMMIT_SECONDS = 60.0
_CONNECTIONS = 1024
_TOLD_LETTERS = 2048
"""Of a message or a remedy: in JSON a letter may take twelve bytes."""


class HandoffServer:
    """Serves one listening socket. `may_connect` says of a user id whether it may hand tensors over."""

    def __init__(self, holdings: Holdings, exports: Exports, may_connect: Callable[[int], bool]) -> None:
        self.holdings = holdings
        self._exports = exports
        self._may_connect = may_connect
        self._connections: set[Connection] = set()
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    @property
    def trainers(self) -> int:
        """How many trainers are connected."""
        return len(self._connections)

    async def serve(self, listener: socket.socket) -> None:
        """Accept and serve until cancelled."""
        accepting = Accepting(trio.socket.from_stdlib_socket(listener).accept, "handoff")
        async with trio.open_nursery() as nursery:
            while True:
                accepted, _ = await accepting.next()
                nursery.start_soon(self._handle, accepted, nursery)

    def ended(self, export: str, outcome: Ended) -> None:
        """The job of an export has ended: its segment is free, its trainer is told."""
        committed = self.holdings.exports.get(export)
        if committed is None:
            return
        owner = committed.held.owner
        self.holdings.release(export)
        if isinstance(owner, Connection):
            owner.send(_told(export, outcome))

    async def _handle(self, accepted: trio.socket.SocketType, service: trio.Nursery) -> None:
        with accepted:
            uid, pid = peer_of(accepted)
            refusal = self._refusal(uid)
            if refusal is not None:
                _log.warning("trainer refused", uid=uid, pid=pid, reason=refusal.message)
                with suppress(OSError), trio.move_on_after(1):
                    await accepted.send(protocol.encode(refusal))
                return
            connection = Connection(accepted, self, pid, service)
            self._connections.add(connection)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
                left = self.holdings.disconnect(connection)
                _log.info("trainer gone", trainer=connection.name, pid=pid, open_exports=len(left))

    def _refusal(self, uid: int) -> Refused | None:
        """Why a trainer of that user is not let in; None where he is."""
        if not self._may_connect(uid):
            return Refused(0, "handoff-refused", f"user {uid} may not hand tensors over to this daemon", "")
        if len(self._connections) >= _CONNECTIONS:
            message = f"{_CONNECTIONS} trainers are connected, and the daemon takes no more"
            return Refused(0, "handoff-refused", message, "close the connections of trainers that have ended")
        return None

    # What a connection asks for.

    async def commit(self, connection: Connection, held: Held, message: Commit, plan: int) -> None:
        """Take an export over; the trainer is told what becomes of it, whatever that is."""
        try:
            self.holdings.commit(held, plan)
        except DropError:
            os.close(plan)
            raise
        if not await self._accepted(connection.name, message):
            connection.service.start_soon(self._accept_later, connection.name, message)

    async def _accept_later(self, trainer: str, message: Commit) -> None:
        """What the journal cannot take now waits for it, as a drop does, whether its trainer lives or not: the segment is held meanwhile."""
        for attempt in count(1):
            await trio.sleep(delay(attempt, self._rng))
            if await self._accepted(trainer, message):
                return

    async def _accepted(self, trainer: str, message: Commit) -> bool:
        """Have the export accepted or refused; False where it is to be tried again."""
        # half a commit must not be, whatever becomes of the connection meanwhile
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _COMMIT_SECONDS):
            return await self._accept(trainer, message)
        return False

    async def _accept(self, trainer: str, message: Commit) -> bool:
        committed = self.holdings.exports.get(message.export)
        if committed is None:
            return True  # what was given up after a while was done in the end
        try:
            content = await trio.to_thread.run_sync(read_plan, committed.plan, PLAN_BYTES_LIMIT)
            await trio.to_thread.run_sync(decode_layout, content, message.bytes)
            handed = Handed(
                message.export,
                trainer,
                message.model,
                message.step,
                message.options,
                message.bytes,
                message.stall_us / 1e6,
                message.skipped,
            )
            committed.job, ended = await self._exports.accept(handed)
        except SmdaemonError as error:
            event = "handoff waits to be accepted" if error.retryable else "handoff refused"
            _log.warning(event, trainer=trainer, code=error.code, reason=error.message)
            if not error.retryable:
                self.ended(message.export, Ended(code=error.code, message=error.message, remedy=error.remedy))
            return not error.retryable
        except Exception as error:  # noqa: BLE001 - whatever one export meets, the daemon goes on with the others
            if shortage(error) is not None:
                return False
            _log.error("internal error", trainer=trainer, model=message.model, exc_info=error)
            bug = JobError.of_bug(error)
            self.ended(message.export, Ended(code=bug.code, message=bug.message, remedy=bug.remedy))
            return True
        if isinstance(owner := committed.held.owner, Connection):
            owner.send(Accepted(message.export, committed.job))
        if ended is not None:
            self.ended(message.export, ended)
        return True

    async def cancel(self, export: str) -> None:
        """Give an export up that was committed."""
        committed = self.holdings.exports.get(export)
        if committed is not None and committed.job:
            await self._exports.cancel(committed.job)


def _told(export: str, ended: Ended) -> Message:
    if ended.version is not None:
        return Done(export, ended.version, ended.export_dir)
    return Fail(export, ended.code, ended.message[:_TOLD_LETTERS], ended.remedy[:_TOLD_LETTERS])
