"""One trainer's connection: what it asks and is told, message by message, with the descriptors beside them.

One task reads messages; segments are made in tasks beside it, as that takes seconds, while commits must not wait. What is to be sent goes through a queue, so that
nobody waits for a trainer that does not read. Whatever a trainer does wrong ends its connection.
"""

import os
import socket
import struct
from contextlib import suppress
from typing import Protocol

import trio

from smdaemon.errors import DropError, SmdaemonError, shortage
from smdaemon.handoff import protocol
from smdaemon.handoff.holdings import Committed, Held, Holdings
from smdaemon.handoff.memory import PAGE_BYTES, adopted_segment, make_segment
from smdaemon.handoff.protocol import (
    FDS_LIMIT,
    MESSAGE_BYTES,
    PROTOCOL,
    Accepted,
    Begin,
    Cancel,
    Commit,
    Hello,
    Lease,
    Message,
    Offer,
    Refused,
    Reserve,
    Return,
    SegmentState,
    Welcome,
)
from smdaemon.log import get_logger

_log = get_logger(__name__)
_QUEUED_MESSAGES = 256
_HELLO_SECONDS = 10.0
_EXPORT_NAME_LETTERS = 64


class Server(Protocol):
    """What a connection needs of the server."""

    @property
    def holdings(self) -> Holdings:
        """What trainers hold."""
        ...

    async def commit(self, connection: "Connection", held: Held, message: Commit, plan: int) -> None:
        """Take an export over; the trainer is told what becomes of it, whatever that is."""
        ...

    async def cancel(self, export: str) -> None:
        """Give an export up that was committed."""
        ...


class Connection:
    """One trainer. `service` holds what is to outlive the connection."""

    def __init__(self, stream: trio.socket.SocketType, server: Server, pid: int, service: trio.Nursery) -> None:
        self.name = f"pid {pid}"
        self.service = service
        self._stream = stream
        self._server = server
        self._outgoing, self._queue = trio.open_memory_channel[tuple[Message, int]](_QUEUED_MESSAGES)
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve until the trainer is gone or does what it must not."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_queued)
                    await self._greet()
                    while (received := await self._receive()) is not None:
                        await self._obey(*received, nursery)
                    nursery.cancel_scope.cancel()
        except* DropError as group:
            for error in _each(group):
                _log.warning("trainer disconnected", trainer=self.name, code=error.code, reason=error.message)
        except* OSError as group:
            _log.info("connection broken", trainer=self.name, reason=str(group.exceptions[0]))
        except* Exception as group:  # noqa: BLE001 - whatever a trainer has said ends its own connection, never the daemon
            _log.error("bug in a connection", trainer=self.name, exc_info=group)
        finally:
            self._forget_queued()

    def send(self, message: Message, fd: int = -1) -> None:
        """Have `message` sent, and a copy of `fd` with it; a trainer that reads none of its messages is disconnected."""
        copy = os.dup(fd) if fd >= 0 else -1
        try:
            self._outgoing.send_nowait((message, copy))
        except trio.WouldBlock:
            _close([copy])
            _log.warning("trainer disconnected", trainer=self.name, reason="it does not read its messages")
            self._scope.cancel()

    async def _greet(self) -> None:
        with trio.move_on_after(_HELLO_SECONDS):
            received = await self._receive()
            if received is not None:
                _close(received[1])
            if received is not None and isinstance(hello := received[0], Hello):
                if hello.protocol != PROTOCOL:
                    message = f"the trainer speaks protocol {hello.protocol}, this daemon {PROTOCOL}"
                    remedy = "install the same release of smdaemon on both sides"
                    await self._stream.send(protocol.encode(Refused(0, "handoff-protocol", message, remedy)))
                    raise DropError("handoff-protocol", message)
                self.name = _printable(hello.name)
                _log.info("trainer connected", trainer=self.name, rank=hello.rank, world=hello.world)
                self.send(Welcome(PROTOCOL, self._server.holdings.budget_bytes))
                return
        raise DropError("handoff-protocol", "a trainer did not introduce itself")

    async def _receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, which are the receiver's now; None at the end."""
        space = socket.CMSG_SPACE(FDS_LIMIT * 4)
        try:
            received = await self._stream.recvmsg(MESSAGE_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # it left without having read everything; what it said before is still there to be read
            received = await self._stream.recvmsg(MESSAGE_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
        packet, ancillary, flags, _ = received
        fds = _descriptors(ancillary)
        try:
            if not packet and not fds:
                return None
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise DropError("handoff-protocol", "a packet is too long, or comes with too many descriptors")
            return protocol.decode(packet, len(fds)), fds
        except BaseException:
            _close(fds)
            raise

    async def _send_queued(self) -> None:
        async for message, fd in self._queue:
            try:
                packet = protocol.encode(message)
                if fd >= 0:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
                    await self._stream.sendmsg([packet], rights)
                else:
                    await self._stream.send(packet)
            finally:
                _close([fd])

    def _forget_queued(self) -> None:
        """What was never sent has descriptors, too: a lease of a segment that was made while its trainer died."""
        with suppress(trio.WouldBlock):
            while True:
                _close([self._queue.receive_nowait()[1]])

    async def _obey(self, message: Message, fds: list[int], nursery: trio.Nursery) -> None:
        """What the trainer asks; whatever it sent is owned by what it is for, or closed."""
        holdings = self._server.holdings
        try:
            match message:
                case Reserve():
                    nursery.start_soon(self._reserve, message)
                case Begin():
                    _check_name(message.export)
                    holdings.begin(holdings.of(message.segment, self), message.export)
                case Commit():
                    held = holdings.of(message.segment, self)
                    _check_filled(held, message)
                    await self._server.commit(self, held, message, fds.pop())
                case Cancel():
                    await self._cancel(message.export)
                case Offer():
                    await self._adopt(message, fds)
                case Return():
                    holdings.give_back(holdings.of(message.segment, self))
                case _:
                    raise DropError("handoff-protocol", f"a trainer sent a {message.type} message")
        finally:
            _close(fds)

    async def _reserve(self, message: Reserve) -> None:
        """Make a segment and lease it; a refusal is an answer, not an end."""
        holdings = self._server.holdings
        nbytes = max(PAGE_BYTES, message.bytes + -message.bytes % PAGE_BYTES)
        try:
            if message.bytes <= 0:
                raise DropError("handoff-protocol", f"a segment of {message.bytes} bytes is asked for")
            holdings.claim(nbytes, self)
            try:
                segment = await trio.to_thread.run_sync(make_segment, nbytes)
                segment.unmap()  # the pages stay; this process has no use for its view of them
            except BaseException:
                holdings.unclaim(nbytes, self)
                raise
        except Exception as error:
            refusal = error if isinstance(error, SmdaemonError) else shortage(error)
            if refusal is None:
                raise
            self._refuse(message.request, refusal)
            return
        held = holdings.add(segment, self)
        self.send(Lease(message.request, held.number, segment.nbytes), segment.fd)

    def _refuse(self, request: int, error: SmdaemonError) -> None:
        self._server.holdings.refused += 1
        _log.warning("segment refused", trainer=self.name, code=error.code, reason=error.message)
        self.send(Refused(request, error.code, error.message, error.remedy))

    async def _adopt(self, message: Offer, fds: list[int]) -> None:
        """Take over what an earlier daemon leased, and what was committed with it."""
        holdings = self._server.holdings
        commit = None if message.commit is None else protocol.commit_of(message.commit)
        if commit is not None and len(fds) < FDS_LIMIT:
            raise DropError("handoff-protocol", "a committed segment was offered without its plan")
        segment = adopted_segment(fds.pop(0), message.bytes)
        if commit is not None and commit.export in holdings.exports:
            # its descriptors outlived the earlier daemon: what we hold is what is offered
            segment.close()
            self._take_over(holdings.exports[commit.export], message.request)
            return
        try:
            holdings.claim(segment.nbytes, self)
        except SmdaemonError as error:
            segment.close()
            self._refuse(message.request, error)
            return
        held = holdings.add(segment, self)
        self.send(Lease(message.request, held.number, segment.nbytes), segment.fd)
        if commit is not None:
            _check_name(commit.export)
            holdings.begin(held, commit.export)
            _check_filled(held, commit)
            await self._server.commit(self, held, commit, fds.pop(0))

    def _take_over(self, committed: Committed, request: int) -> None:
        """The export that is held without a trainer is this one's again."""
        held = committed.held
        if held.owner is not None and held.owner is not self:
            raise DropError("handoff-protocol", f"the export {committed.export!r} is another trainer's")
        held.owner = self
        self.send(Lease(request, held.number, held.segment.nbytes), held.segment.fd)
        if committed.job:  # else it waits to be accepted, and is told then
            self.send(Accepted(committed.export, committed.job))

    async def _cancel(self, export: str) -> None:
        holdings = self._server.holdings
        for held in holdings.held_by(self):
            if held.export == export and held.state is SegmentState.FILLING:
                # no answer: to the trainer the segment is free already, and an answer might meet what is filled next
                holdings.cancel(held)
                return
        await self._server.cancel(export)


def _check_name(export: str) -> None:
    if (
        not export
        or len(export) > _EXPORT_NAME_LETTERS
        or not export.replace("-", "").isalnum()
        or not export.isascii()
    ):
        raise DropError("handoff-protocol", f"{export!r:.80} is no name of an export")


def _check_filled(held: Held, commit: Commit) -> None:
    if held.export != commit.export or not 0 < commit.bytes <= held.segment.nbytes:
        message = f"segment {held.number} is not filled with {commit.bytes} bytes for {commit.export!r}"
        raise DropError("handoff-protocol", message)


def _printable(name: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in name[:128])


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
    return fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _each(group: BaseExceptionGroup[DropError]) -> list[DropError]:
    return [
        inner
        for error in group.exceptions
        for inner in (_each(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
