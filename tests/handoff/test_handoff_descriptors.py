"""Descriptors in the daemon: whatever a trainer does, none outlives it. One that is left is memory that no budget counts."""

import os
import threading

import trio
from handoff_kit import PATIENCE_SECONDS, Jobs, memories, plan_of, serving, until

from smdaemon.handoff import connection, protocol
from smdaemon.handoff.memory import PAGE_BYTES, make_plan, make_segment
from smdaemon.handoff.protocol import Accepted, Commit, Lease, Offer, Reserve


async def test_a_trainer_that_dies_while_its_segment_is_made_leaves_none(tmp_path, monkeypatch):
    """The lease is never sent, and its copy of the descriptor goes with the segment."""
    before, making, died = memories(), threading.Event(), threading.Event()

    def slowly(nbytes):
        making.set()
        died.wait(PATIENCE_SECONDS)
        return make_segment(nbytes)

    monkeypatch.setattr(connection, "make_segment", slowly)
    async with serving(tmp_path, Jobs()) as (serves, connect):
        trainer = await connect()
        await trainer.send(Reserve(1, PAGE_BYTES))
        await until(making.is_set)
        trainer.close()
        await trio.testing.wait_all_tasks_blocked(0.05)
        died.set()
        await until(lambda: serves.trainers == 0)
        assert (serves.holdings.used_bytes, memories()) == (0, before)


async def test_what_is_queued_for_a_trainer_that_does_not_read_is_closed(tmp_path):
    """One message too many, and those before it."""
    before = memories()
    async with serving(tmp_path, Jobs()) as (serves, connect):
        deaf = await connect()
        segment = await deaf.leased()
        (connection,) = serves._connections
        for _ in range(300):
            connection.send(Lease(1, segment, PAGE_BYTES), deaf.fds[0])
        await until(lambda: serves.trainers == 0)
        deaf.close()
        # what the kernel had taken was closed with the trainer's socket
        assert memories() == before


async def test_an_offer_of_anothers_export_leaves_none(tmp_path):
    """It ends that connection; the export stays its trainer's."""
    before = memories()
    async with serving(tmp_path, Jobs()) as (serves, connect):
        good, bad = await connect(), await connect()
        plan = await good.committed("e1", await good.leased())
        assert isinstance(await good.receive(), Accepted)
        held = memories()
        offer = Offer(1, PAGE_BYTES, protocol.commit_fields(Commit("e1", 1, 64, "m")))
        await bad.send(offer, good.fds[0], plan)
        assert await bad.receive() is None
        assert (serves.trainers, memories()) == (1, held)
    assert memories() == before


async def test_an_export_that_is_committed_twice_leaves_none(tmp_path):
    """The second plan is nobody's."""
    before = memories()
    async with serving(tmp_path, Jobs()) as (_, connect):
        trainer = await connect()
        first, second = await trainer.leased(), await trainer.leased()
        await trainer.committed("e1", first)
        assert isinstance(await trainer.receive(), Accepted)
        await trainer.committed("e1", second)
        assert await trainer.receive() is None
    assert memories() == before


async def test_a_malformed_offer_leaves_none(tmp_path):
    """What it says is looked at before its memory is taken."""
    before = memories()
    made, plan = make_segment(PAGE_BYTES), make_plan(plan_of(4))
    async with serving(tmp_path, Jobs()) as (_, connect):
        trainer = await connect()
        await trainer.send(Offer(1, PAGE_BYTES, {"export": 7}), made.fd, plan)
        assert await trainer.receive() is None
    made.close()
    os.close(plan)
    assert memories() == before


async def test_a_first_message_that_is_no_introduction_leaves_none(tmp_path):
    """Nor does what came with it stay."""
    before = memories()
    async with serving(tmp_path, Jobs()) as (serves, connect):
        trainer = await connect(hello=False)
        trainer.fds.append(make_plan(plan_of(4)))
        await trainer.send(Commit("e1", 1, 64, "m"), trainer.fds[0])
        while await trainer.receive() is not None:
            pass
        trainer.close()
        await until(lambda: serves.trainers == 0)
        assert memories() == before
