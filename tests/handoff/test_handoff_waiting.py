"""Exports that the daemon cannot accept now, as where the journal's disk is full: they wait, as drops do."""

import os

import pytest
from handoff_kit import PATIENCE_SECONDS, Jobs, serving, until

from smdaemon.errors import EnvironmentFault
from smdaemon.handoff import protocol
from smdaemon.handoff import server as server_module
from smdaemon.handoff.exports import Ended
from smdaemon.handoff.memory import PAGE_BYTES
from smdaemon.handoff.protocol import Accepted, Commit, Done, Lease, Offer


@pytest.fixture
def attempts(monkeypatch):
    """The numbers of the attempts that failed; each is followed by the next at once."""
    made = []
    monkeypatch.setattr(server_module, "delay", lambda attempt, _rng: made.append(attempt) or 0)
    return made


def full() -> Jobs:
    """A journal whose disk is full."""
    return Jobs(refuse=EnvironmentFault("disk-full", "the journal cannot be written", retryable=True))


async def test_an_export_waits_until_it_can_be_accepted(tmp_path, attempts):
    """Its trainer hears nothing, keeps its connection and has no segment back until then."""
    jobs = full()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        segment = await trainer.leased()
        await trainer.committed("e1", segment)
        await until(lambda: attempts[:3] == [1, 2, 3])
        assert await trainer.leased() != segment  # it is served meanwhile
        jobs.refuse = None
        assert await trainer.receive() == Accepted("e1", 1)
        server.ended("e1", Ended(version=1))
        assert await trainer.receive() == Done("e1", 1, "")
        assert [handed.export for handed in jobs.accepted] == ["e1"]


async def test_an_export_that_waits_outlives_its_trainer(tmp_path, attempts):
    """The daemon has the bytes, and that is enough."""
    jobs = full()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        await trainer.committed("e1", await trainer.leased())
        await until(lambda: attempts)
        trainer.close()
        await until(lambda: server.trainers == 0)
        jobs.refuse = None
        await until(lambda: jobs.accepted)
        server.ended("e1", Ended(version=1))
        assert server.holdings.used_bytes == 0


async def test_an_export_that_waits_is_taken_over_by_the_next_connection(tmp_path, attempts):
    """It is told the number of the job once there is one."""
    jobs = full()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        plan = os.dup(await trainer.committed("e1", await trainer.leased()))
        segment = os.dup(trainer.fds[0])
        await until(lambda: attempts)
        trainer.close()
        await until(lambda: server.trainers == 0)
        again = await connect()
        await again.send(Offer(1, PAGE_BYTES, protocol.commit_fields(Commit("e1", 1, 64, "m", 1))), segment, plan)
        assert isinstance(await again.receive(), Lease)
        jobs.refuse = None
        assert await again.receive() == Accepted("e1", 1)
        os.close(segment)
        os.close(plan)


async def test_an_attempt_that_takes_too_long_is_made_again(tmp_path, monkeypatch):
    """Nothing is told as lost that the journal may have taken after all."""

    def there_is_time_again(_attempt, _rng):
        monkeypatch.setattr(server_module, "_COMMIT_SECONDS", PATIENCE_SECONDS)
        return 0

    monkeypatch.setattr(server_module, "_COMMIT_SECONDS", 0)
    monkeypatch.setattr(server_module, "delay", there_is_time_again)
    async with serving(tmp_path, Jobs()) as (_, connect):
        trainer = await connect()
        await trainer.committed("e1", await trainer.leased())
        assert await trainer.receive() == Accepted("e1", 1)
