"""A handoff server on a socket of its own, with a small daemon behind it; a trainer that speaks the protocol by hand, and a real one."""

import os
import socket
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import trio

from smdaemon.errors import SmdaemonError
from smdaemon.handoff import attach, protocol
from smdaemon.handoff.exports import Ended, Handed
from smdaemon.handoff.holdings import Holdings
from smdaemon.handoff.memory import make_plan
from smdaemon.handoff.protocol import Commit, Hello, Message
from smdaemon.handoff.server import HandoffServer
from smdaemon.sources.segment import open_segment
from smdaemon.staging.base import Spec
from smdaemon.staging.layout import encode_layout, laid_out
from smdaemon.tensorbundle.tensors import array_of

PATIENCE_SECONDS = 30


@dataclass
class Jobs:
    """What takes exports: it accepts all, or refuses them, and remembers."""

    refuse: SmdaemonError | None = None
    known: dict[str, Ended] = field(default_factory=dict)
    accepted: list[Handed] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    async def accept(self, handed: Handed) -> tuple[int, Ended | None]:
        """Number them from 1."""
        if self.refuse is not None:
            raise self.refuse
        self.accepted.append(handed)
        return len(self.accepted), self.known.get(handed.export)

    async def cancel(self, job: int) -> None:
        """Remember."""
        self.cancelled.append(job)


class Trainer:
    """A connection that sends and receives messages one by one."""

    def __init__(self, stream: trio.socket.SocketType) -> None:
        self._stream = stream
        self.fds: list[int] = []

    async def send(self, message: Message, *fds: int) -> None:
        """Send a message with descriptors, which stay ours."""
        await self.send_packet(protocol.encode(message), *fds)

    async def send_packet(self, packet: bytes, *fds: int) -> None:
        """Send whatever it is."""
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(fd.to_bytes(4, "little") for fd in fds))] if fds else []
        )
        await self._stream.sendmsg([packet], rights)

    async def receive(self) -> Message | None:
        """The next message, None at the end; descriptors are kept in `fds`."""
        try:
            packet, ancillary, _, _ = await self._stream.recvmsg(1 << 17, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not packet:
            return None
        fds = [int.from_bytes(data[:4], "little") for _, _, data in ancillary]
        self.fds += fds
        return protocol.decode(packet, len(fds))

    async def leased(self, nbytes: int = 4096, request: int = 1) -> int:
        """The number of a new segment, whose descriptor is the last of `fds`."""
        await self.send(protocol.Reserve(request, nbytes))
        lease = await self.receive()
        assert isinstance(lease, protocol.Lease), lease
        return lease.segment

    async def committed(self, export: str, segment: int, **changes) -> int:
        """Begin and commit a segment of one float; the descriptor of the plan."""
        plan = make_plan(plan_of(4))
        self.fds.append(plan)
        await self.send(protocol.Begin(export, segment))
        await self.send(
            Commit(**({"export": export, "segment": segment, "bytes": 64, "model": "m", "step": 1} | changes)), plan
        )
        return plan

    def close(self) -> None:
        """Hang up, and close all descriptors."""
        self._stream.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


def plan_of(nbytes: int) -> bytes:
    """The plan of one tensor of so many bytes of floats."""
    return encode_layout(laid_out({"w": Spec("float32", (nbytes // 4,), nbytes)}))


@asynccontextmanager
async def serving(
    folder: Path, jobs: Jobs, *, budget: int = 1 << 20, may_connect=lambda _uid: True, greet: bool = True
):
    """A server, and a function that connects a trainer to it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = str(folder / "handoff.sock")
    listener.bind(path)
    listener.listen(8)
    listener.setblocking(False)
    holdings = Holdings(budget)
    server = HandoffServer(holdings, jobs, may_connect)
    trainers: list[Trainer] = []

    async def connect(name: str = "t", *, hello: bool = greet) -> Trainer:
        stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        await stream.connect(path)
        trainers.append(Trainer(stream))
        if hello:
            await trainers[-1].send(Hello(protocol.PROTOCOL, name))
            assert isinstance(await trainers[-1].receive(), protocol.Welcome)
        return trainers[-1]

    with listener, closing(holdings), trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener)
            try:
                yield server, connect
            finally:
                for trainer in trainers:
                    trainer.close()
                nursery.cancel_scope.cancel()


async def in_thread(function, *args, **kwargs):
    """The trainer's code is plain and synchronous: it runs in a thread."""
    return await trio.to_thread.run_sync(partial(function, *args, **kwargs))


@asynccontextmanager
async def attached(folder: Path, **options):
    """A trainer's sidecar of the server in `folder`."""
    sidecar = await in_thread(attach, folder / "handoff.sock", **options)
    try:
        yield sidecar
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(sidecar.close)


async def until(condition) -> None:
    """Return once `condition` holds."""
    while not condition():
        await trio.lowlevel.checkpoint()


async def handed_over(server: HandoffServer, handle) -> dict[str, np.ndarray]:
    """The tensors of a save by their names, as the daemon has them."""
    assert await in_thread(handle.staged, PATIENCE_SECONDS)
    await until(lambda: handle.export in server.holdings.exports)
    with open_segment(*server.holdings.exports[handle.export].paths) as source:
        return {name: array_of(tensor).copy() for name, tensor in source.tensors.items()}


def memories() -> int:
    """How many descriptors of segments and plans this process has, trainers and daemon together."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found += "memfd:" in str(link.readlink())
    return found
