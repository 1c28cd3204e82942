"""The trainer's link: segments that are taken, given up and lost; whatever a save or a daemon does, training goes on."""

import errno
import select
import socket
import threading

import numpy as np
import pytest
import trio
from handoff_kit import PATIENCE_SECONDS, Jobs, attached, handed_over, in_thread, serving, until

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.handoff import attach, memory, protocol
from smdaemon.handoff import link as link_module
from smdaemon.handoff.exports import Ended
from smdaemon.handoff.handle import Handle
from smdaemon.handoff.holdings import SEGMENTS_LIMIT
from smdaemon.handoff.link import Link
from smdaemon.handoff.memory import PAGE_BYTES, Segment
from smdaemon.handoff.protocol import Done, Refused


def tree(value):
    """A tree like no other."""
    return {"w": np.full(4, value, np.float32)}


async def test_a_save_that_is_given_up_frees_nothing_of_the_next(tmp_path):
    """Its segment is filled anew before the daemon's words are read: what is committed then stays committed, and as it was."""

    def save_after_another(sidecar):
        link, handle = sidecar._link, Handle(1, "m")
        with link.changed:  # until both are done nothing that the daemon says is obeyed
            link.give_up(handle, link.take(handle, 64, 0, wait=False))
            return sidecar.save(2, tree(2), model="m")

    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        await in_thread(sidecar.reserve, tree(0))
        saved = await in_thread(save_after_another, sidecar)
        await until(lambda: saved.job is not None)  # what the daemon said before this is obeyed
        for step in (3, 4):
            await in_thread(sidecar.save, step, tree(step), model="m")
        assert ((await handed_over(server, saved))["w"] == 2).all()
        assert sidecar.counts == {"staged": 2, "skipped": 1}


async def test_an_end_that_is_lost_with_the_connection_is_told_on_the_next(tmp_path, monkeypatch):
    """Whatever came before it: as long as the trainer does not know how its export ended, it offers it again."""
    lost, jobs, encode = [], Jobs(), protocol.encode

    def losing(message):
        if isinstance(message, Done) and not lost:
            lost.append(message)
            raise BrokenPipeError
        return encode(message)

    async with serving(tmp_path, jobs) as (server, _), attached(tmp_path) as sidecar:
        saved = await in_thread(sidecar.save, 1, tree(1), model="m")
        await until(lambda: saved.job is not None)
        jobs.known[saved.export] = Ended(version=7)
        monkeypatch.setattr(protocol, "encode", losing)
        server.ended(saved.export, Ended(version=7))
        assert (await in_thread(saved.result, PATIENCE_SECONDS)).version == 7
        assert lost


async def test_who_knows_how_a_save_ended_can_save_again(tmp_path):
    """Also where there is memory for one segment only: it is free before the handle tells."""
    async with serving(tmp_path, Jobs(), budget=PAGE_BYTES) as (server, _), attached(tmp_path) as sidecar:

        def training():
            return [sidecar.save(step, tree(step), model="m").result(PATIENCE_SECONDS).state for step in range(20)]

        states = []

        async def ending():
            while not states:
                for export, committed in list(server.holdings.exports.items()):
                    if committed.job:
                        server.ended(export, Ended(version=1))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending)
            states += await in_thread(training)
        assert states == ["published"] * 20


def in_trainer(refuse):
    """What stands for a call that the machine refuses the trainer's receiving thread, and nobody else."""

    def wrapped(real):
        def call(*args, **kwargs):
            if threading.current_thread().name == "handoff-receive":
                refuse()
            return real(*args, **kwargs)

        return call

    return wrapped


def no_memory():
    """What the kernel says where there is none."""
    raise OSError(errno.ENOMEM, "cannot allocate memory")


def no_memory_told():
    """The same, as `populate` tells it."""
    raise EnvironmentFault("memory-short", "filling a segment with memory: cannot allocate memory", retryable=True)


@pytest.mark.parametrize(
    ("owner", "name", "refuse"),
    [(Segment, "populate", no_memory_told), (memory.mmap, "mmap", no_memory)],
    ids=["pages", "map"],
)
async def test_a_segment_that_cannot_be_mapped_is_given_back(tmp_path, monkeypatch, owner, name, refuse):
    """The save that waits for it is told at once; when there is memory again, saves go on."""
    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        with monkeypatch.context() as short:
            short.setattr(owner, name, in_trainer(refuse)(getattr(owner, name)))
            for step in (1, 2):
                bad = await in_thread(sidecar.save, step, tree(step), model="m", timeout=PATIENCE_SECONDS)
                assert bad.result(0).code == "memory-short"
        await until(lambda: server.holdings.used_bytes == 0)
        good = await in_thread(sidecar.save, 3, tree(3), model="m")
        assert ((await handed_over(server, good))["w"] == 3).all()


async def test_a_bug_in_the_receiver_is_a_lost_connection(tmp_path, monkeypatch, caplog):
    """It is logged, and the link connects again; the save meanwhile is skipped and waits for nothing."""

    def broken(*_):
        raise ZeroDivisionError("a bug")

    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        with monkeypatch.context() as bug:
            bug.setattr(Link, "_answer", broken)
            bad = await in_thread(sidecar.save, 1, tree(1), model="m", timeout=PATIENCE_SECONDS)
            assert bad.result(0).code == "handoff-away"
        assert "a bug" in caplog.text
        await until(lambda: sidecar.connected)
        good = await in_thread(sidecar.save, 2, tree(2), model="m")
        assert ((await handed_over(server, good))["w"] == 2).all()


async def test_what_the_daemon_refuses_keeps_its_code(tmp_path, caplog):
    """A trainer that asks for more segments than one may have is told so, and not that memory is short."""
    async with serving(tmp_path, Jobs()) as _, attached(tmp_path) as sidecar:
        assert not await in_thread(sidecar.reserve, 1, segments=SEGMENTS_LIMIT + 1)
        assert "[handoff-busy]; reserve fewer segments" in caplog.text
        assert await in_thread(sidecar.reserve, 1, segments=SEGMENTS_LIMIT)


async def test_what_is_leased_too_late_is_there_for_the_next_save(tmp_path, monkeypatch):
    """The save whose time is over is skipped and forgotten; its segment is not lost."""
    may_lease = threading.Event()
    monkeypatch.setattr(Segment, "populate", in_trainer(may_lease.wait)(Segment.populate))
    async with serving(tmp_path, Jobs()) as _, attached(tmp_path) as sidecar:
        late = await in_thread(sidecar.save, 1, tree(1), model="m", timeout=0)
        assert late.result(0).code == "handoff-memory"
        assert not sidecar._link._requests
        may_lease.set()
        await until(lambda: sidecar._link._leased)
        assert (await in_thread(sidecar.save, 2, tree(2), model="m", timeout=0)).staged()


def test_without_a_descriptor_for_a_connection_training_goes_on(tmp_path, monkeypatch):
    """It is connected once there is one."""

    def refused(*_):
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as short:
        short.setattr(socket, "socket", refused)
        sidecar = attach(tmp_path / "handoff.sock")
        assert sidecar.save(1, tree(1), model="m").result(0).code == "too-many-files"
    with sidecar:
        assert sidecar._link._thread.is_alive()


async def test_a_daemon_that_does_not_want_us_any_more_says_why(tmp_path, caplog):
    """A user who was removed, say: each save has the daemon's reason, and the log has it once."""
    welcome = [True]
    async with (
        serving(tmp_path, Jobs(), may_connect=lambda _uid: welcome[0]) as (server, _),
        attached(tmp_path) as sidecar,
    ):
        welcome[0] = False
        (connection,) = server._connections
        connection._scope.cancel()
        link = sidecar._link
        await until(lambda: link._absence.code == "handoff-refused")
        refused = link._absence
        await until(lambda: link._absence is not refused)  # it has tried again
        outcome = (await in_thread(sidecar.save, 1, tree(1), model="m")).result(0)
        assert (outcome.state, outcome.code) == ("skipped", "handoff-refused")
        assert "may not hand tensors over" in outcome.message
        warned = [record for record in caplog.records if "not connected" in record.message]
        assert [record.levelname for record in warned] == ["WARNING"]
        welcome[0] = True
        await until(lambda: sidecar.connected)
        assert (await in_thread(sidecar.save, 2, tree(2), model="m")).result(0).state == "pending"


@pytest.mark.parametrize("when", ["before the hello", "after it"])
def test_a_refusal_is_read_whenever_the_daemon_hangs_up(tmp_path, monkeypatch, when):
    """It reads nothing of one whom it refuses: his hello meets nobody, or makes a reset of the end."""
    closed, encode = threading.Event(), protocol.encode
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "handoff.sock"))
    listener.listen()

    def refusing():
        stream, _ = listener.accept()
        with stream:
            stream.send(encode(Refused(0, "handoff-refused", "not you", "")))
            if when == "after it":
                select.select([stream], [], [])
        closed.set()

    def late(message):
        if when == "before the hello":
            closed.wait(PATIENCE_SECONDS)
        return encode(message)

    monkeypatch.setattr(protocol, "encode", late)
    daemon = threading.Thread(target=refusing)
    daemon.start()
    with listener, pytest.raises(DropError) as refused:
        attach(tmp_path / "handoff.sock")
    daemon.join()
    assert (refused.value.code, refused.value.message) == ("handoff-refused", "not you")


async def test_a_link_that_is_closed_stays_closed(tmp_path, monkeypatch):
    """Also where its thread was about to connect again, or was being greeted: the daemon holds no segment of it."""
    greeted, may_go_on = threading.Event(), threading.Event()

    class Slow(link_module.Channel):
        def __init__(self, *args):
            super().__init__(*args)
            greeted.set()
            may_go_on.wait(PATIENCE_SECONDS)

    async with serving(tmp_path, Jobs()) as (server, _):
        sidecar = await in_thread(attach, tmp_path / "handoff.sock")
        await in_thread(sidecar.save, 1, tree(1), model="m")
        monkeypatch.setattr(link_module, "Channel", Slow)
        (connection,) = server._connections
        connection._scope.cancel()
        await until(greeted.is_set)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, sidecar.close)
            await until(sidecar._link._closing.is_set)
            may_go_on.set()
        await until(lambda: server.trainers == 0)
        assert not sidecar.connected
