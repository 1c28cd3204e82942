"""The handoff server and its trainers: leases, commits, ends; and trainers that do what they must not."""

import errno
import os

import pytest
import trio
from handoff_kit import Jobs, plan_of, serving
from structlog.testing import capture_logs

from smdaemon.errors import DropError
from smdaemon.handoff import connection as connection_module
from smdaemon.handoff import protocol
from smdaemon.handoff import server as server_module
from smdaemon.handoff.exports import Ended
from smdaemon.handoff.holdings import SEGMENTS_LIMIT
from smdaemon.handoff.memory import PAGE_BYTES, make_plan, make_segment
from smdaemon.handoff.protocol import Accepted, Begin, Cancel, Commit, Done, Fail, Hello, Lease, Offer, Refused


async def test_a_commit_becomes_a_job_and_its_end_is_told(tmp_path):
    """Lease, begin, commit, accepted; then the segment is free and the trainer hears of the version."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        segment = await trainer.leased()
        await trainer.committed("e1", segment, options={"tags": ["serve"]}, stall_us=1500, skipped=2)
        assert await trainer.receive() == Accepted("e1", 1)
        (handed,) = jobs.accepted
        assert (handed.trainer, handed.model, handed.step, handed.options) == ("t", "m", 1, {"tags": ["serve"]})
        assert (handed.stall_seconds, handed.skipped) == (0.0015, 2)
        server.ended("e1", Ended(version=7, export_dir="/models/7"))
        assert await trainer.receive() == Done("e1", 7, "/models/7")
        assert not server.holdings.exports
        await trainer.committed("e2", segment)
        assert await trainer.receive() == Accepted("e2", 2)


async def test_an_export_that_is_refused_frees_its_segment(tmp_path):
    """An unknown model, say: the trainer is told why, with the remedy, and goes on."""
    async with serving(tmp_path, Jobs(refuse=DropError("request-invalid", "no"))) as (server, connect):
        trainer = await connect()
        segment = await trainer.leased()
        await trainer.committed("e1", segment)
        failed = await trainer.receive()
        assert isinstance(failed, Fail)
        assert (failed.export, failed.code, failed.message) == ("e1", "request-invalid", "no")
        assert failed.remedy
        assert not server.holdings.exports


async def test_a_bug_at_an_export_fails_it_alone(tmp_path):
    """It is logged, the trainer is told, and the next one is served."""
    async with serving(tmp_path, Jobs(refuse=ZeroDivisionError("bug"))) as (server, connect):
        trainer = await connect()
        segment = await trainer.leased()
        with capture_logs() as logs:
            await trainer.committed("e1", segment)
            failed = await trainer.receive()
        assert (failed.export, failed.code, failed.message) == ("e1", "internal-error", "ZeroDivisionError: bug")
        assert not server.holdings.exports
    assert [line["event"] for line in logs if line.get("exc_info")] == ["internal error"]


async def test_a_plan_that_lies_fails_its_export_alone(tmp_path):
    """The trainer stays connected, no job is made."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (_, connect):
        trainer = await connect()
        segment = await trainer.leased()
        lie = make_plan(plan_of(PAGE_BYTES * 2))
        trainer.fds.append(lie)
        await trainer.send(Begin("e1", segment))
        await trainer.send(Commit("e1", segment, 64, "m"), lie)
        assert (await trainer.receive()).code == "handoff-protocol"
        assert not jobs.accepted
        await trainer.committed("e2", segment)
        assert isinstance(await trainer.receive(), Accepted)


async def test_the_budget_refuses_with_a_code_and_gives_back(tmp_path):
    """What does not fit is refused; what a trainer gives back, another can have."""
    async with serving(tmp_path, Jobs(), budget=3 * PAGE_BYTES) as (server, connect):
        first, second = await connect(), await connect()
        segment = await first.leased(2 * PAGE_BYTES)
        await second.send(protocol.Reserve(5, 2 * PAGE_BYTES))
        refused = await second.receive()
        assert isinstance(refused, Refused)
        assert (refused.request, refused.code) == (5, "handoff-memory")
        await first.send(protocol.Return(segment))
        await first.leased(PAGE_BYTES)  # answered after the return was obeyed
        await second.leased(2 * PAGE_BYTES)
        assert server.holdings.used_bytes == 3 * PAGE_BYTES


async def test_a_trainer_has_so_many_segments_and_no_more(tmp_path):
    """Also where it asks for many at once: those that are being made count."""
    async with serving(tmp_path, Jobs()) as (server, connect):
        trainer, other = await connect(), await connect()
        for number in range(60):
            await trainer.send(protocol.Reserve(number, PAGE_BYTES))
        answers = [await trainer.receive() for _ in range(60)]
        assert server.holdings.segments == sum(isinstance(each, Lease) for each in answers) == SEGMENTS_LIMIT
        assert {each.code for each in answers if isinstance(each, Refused)} == {"handoff-busy"}
        await trainer.send(protocol.Return(next(each.segment for each in answers if isinstance(each, Lease))))
        await trainer.leased()
        await other.leased()


@pytest.mark.parametrize("nbytes", [0, -5])
async def test_a_segment_of_no_bytes_is_refused(tmp_path, nbytes):
    """It is an answer, not an end."""
    async with serving(tmp_path, Jobs()) as (_, connect):
        trainer = await connect()
        await trainer.send(protocol.Reserve(1, nbytes))
        assert isinstance(await trainer.receive(), Refused)


async def test_a_trainer_that_dies_before_its_commit_leaves_nothing(tmp_path):
    """What it was filling is never given to anyone: the memory goes back."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        segment = await trainer.leased()
        await trainer.send(Begin("e1", segment))
        await trainer.leased()  # answered after the begin was obeyed
        trainer.close()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (server.holdings.used_bytes, server.holdings.segments, server.trainers) == (0, 0, 0)
        assert not jobs.accepted


async def test_a_trainer_that_dies_after_its_commit_is_exported(tmp_path):
    """The segment stays until the export has ended, then goes."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        await trainer.committed("e1", await trainer.leased())
        trainer.close()  # with unread messages: the server sees a reset before it sees the commit
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [handed.export for handed in jobs.accepted] == ["e1"]
        segment, plan = server.holdings.exports["e1"].paths
        assert segment.stat().st_size == PAGE_BYTES
        assert plan.read_bytes() == plan_of(4)
        server.ended("e1", Ended(version=1))
        assert (server.holdings.used_bytes, server.holdings.segments) == (0, 0)


async def test_a_cancel_before_the_commit_frees_and_after_it_cancels_the_job(tmp_path):
    """Either way by the export's own name; the first without an answer."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (_, connect):
        trainer = await connect()
        segment = await trainer.leased()
        await trainer.send(Begin("e1", segment))
        await trainer.send(Cancel("e1"))
        await trainer.committed("e2", segment)
        # a release of the cancelled one would meet the segment as it is filled for the next
        assert isinstance(await trainer.receive(), Accepted)
        await trainer.send(Cancel("e2"))
        await trainer.leased()
        assert jobs.cancelled == [1]


async def test_what_an_earlier_daemon_leased_is_offered_to_the_next(tmp_path):
    """A free segment is leased again, a committed one becomes its job again."""
    jobs = Jobs()
    made = make_segment(PAGE_BYTES)
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        await trainer.send(Offer(4, PAGE_BYTES), made.fd)
        assert isinstance(await trainer.receive(), Lease)
        plan = make_plan(plan_of(4))
        commit = protocol.commit_fields(Commit("e1", 99, 64, "m", 3))
        await trainer.send(Offer(5, PAGE_BYTES, commit), made.fd, plan)
        lease = await trainer.receive()
        assert isinstance(lease, Lease)
        assert await trainer.receive() == Accepted("e1", 1)
        assert jobs.accepted[0].step == 3
        server.ended("e1", Ended(code="disk-full", message="m", remedy="r"))
        assert await trainer.receive() == Fail("e1", "disk-full", "m", "r")
        os.close(plan)
    made.close()


async def test_an_export_that_ended_meanwhile_is_told_when_it_is_offered(tmp_path):
    """The daemon died after the publication and before it could say so."""
    jobs = Jobs(known={"e1": Ended(version=4, export_dir="/m/4")})
    made, plan = make_segment(PAGE_BYTES), make_plan(plan_of(4))
    async with serving(tmp_path, jobs) as (_, connect):
        trainer = await connect()
        await trainer.send(Offer(5, PAGE_BYTES, protocol.commit_fields(Commit("e1", 1, 64, "m"))), made.fd, plan)
        told = [await trainer.receive() for _ in range(3)]
        assert [type(each) for each in told] == [Lease, Accepted, Done]
    made.close()
    os.close(plan)


async def test_an_export_that_is_held_already_is_taken_over(tmp_path):
    """Its trainer lost the connection, not the daemon: one copy is enough, and the end is told to the new connection."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (server, connect):
        trainer = await connect()
        plan = await trainer.committed("e1", await trainer.leased())
        segment_fd, plan_fd = os.dup(trainer.fds[0]), os.dup(plan)
        assert isinstance(await trainer.receive(), Accepted)
        trainer.close()
        await trio.testing.wait_all_tasks_blocked(0.05)
        again = await connect()
        commit = protocol.commit_fields(Commit("e1", 1, 64, "m", 1))
        await again.send(Offer(1, PAGE_BYTES, commit), segment_fd, plan_fd)
        assert isinstance(await again.receive(), Lease)
        assert await again.receive() == Accepted("e1", 1)
        assert (len(jobs.accepted), server.holdings.used_bytes) == (1, PAGE_BYTES)
        server.ended("e1", Ended(version=1))
        assert await again.receive() == Done("e1", 1, "")
        os.close(segment_fd)
        os.close(plan_fd)


async def offend_by_noise(trainer, _segment):
    """Noise in place of a message."""
    await trainer.send_packet(b"noise")


async def offend_by_a_type_that_is_no_text(trainer, _segment):
    """What no table can look up."""
    await trainer.send_packet(b'{"type": []}')


async def offend_by_order(trainer, segment):
    """A commit without a begin."""
    fd = make_plan(plan_of(4))
    trainer.fds.append(fd)
    await trainer.send(Commit("e1", segment, 64, "m"), fd)


async def offend_by_anothers_segment(trainer, segment):
    """A segment that is not its own."""
    await trainer.send(Begin("e1", segment + 1000))


async def offend_by_a_bad_name(trainer, segment):
    """A name that is a path."""
    await trainer.send(Begin("../e1", segment))


async def offend_by_too_many_bytes(trainer, segment):
    """More bytes than the segment has."""
    await trainer.committed("e1", segment, bytes=PAGE_BYTES + 1)


async def offend_by_an_offer_of_too_many_bytes(trainer, segment):
    """The same of a segment that another daemon leased."""
    commit = protocol.commit_fields(Commit("e1", segment, PAGE_BYTES + 1, "m"))
    trainer.fds.append(make_plan(plan_of(4)))
    await trainer.send(Offer(1, PAGE_BYTES, commit), *trainer.fds[-2:])


async def offend_by_an_unsealed_plan(trainer, segment):
    """A plan that could still be changed."""
    fd = os.memfd_create("plan")
    os.write(fd, plan_of(4))
    trainer.fds.append(fd)
    await trainer.send(Begin("e1", segment))
    await trainer.send(Commit("e1", segment, 64, "m"), fd)


async def offend_by_an_unsealed_segment(trainer, _segment):
    """A segment that could be cut short."""
    fd = os.memfd_create("segment")
    os.ftruncate(fd, PAGE_BYTES)
    trainer.fds.append(fd)
    await trainer.send(Offer(1, PAGE_BYTES), fd)


async def offend_by_a_committed_offer_without_plan(trainer, _segment):
    """A committed segment without its plan."""
    await trainer.send(Offer(1, PAGE_BYTES, protocol.commit_fields(Commit("e1", 1, 64, "m"))), trainer.fds[0])


async def offend_by_the_daemons_words(trainer, segment):
    """A message that only the daemon sends."""
    await trainer.send(Accepted("e1", segment))


async def offend_by_a_second_hello(trainer, _segment):
    """An introduction once more."""
    await trainer.send(Hello(1, "x"))


async def offend_by_length(trainer, _segment):
    """A packet that is too long."""
    await trainer.send_packet(b" " * (protocol.MESSAGE_BYTES + 2))


OFFENCES = {name: offence for name, offence in globals().items() if name.startswith("offend_")}


@pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)
async def test_whoever_does_what_he_must_not_is_disconnected_alone(tmp_path, offence):
    """His memory goes back, nothing becomes a job, and the others notice nothing."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as (server, connect):
        good, bad = await connect(), await connect()
        segment = await bad.leased()
        await offence(bad, segment)
        last = await bad.receive()  # the end, or the answer to an export
        assert last is None or isinstance(last, Fail)
        assert not jobs.accepted
        await good.committed("e9", await good.leased())
        assert isinstance(await good.receive(), Accepted)
        if last is None:
            assert server.trainers == 1
            assert server.holdings.used_bytes == PAGE_BYTES


async def test_a_bug_in_a_connection_ends_that_connection(tmp_path):
    """It is logged with its traceback; the export goes on, and so do the others."""

    class Broken(Jobs):
        async def cancel(self, job):
            raise ZeroDivisionError(job)

    async with serving(tmp_path, Broken()) as (server, connect):
        good, bad = await connect(), await connect()
        await bad.committed("e1", await bad.leased())
        assert isinstance(await bad.receive(), Accepted)
        with capture_logs() as logs:
            await bad.send(Cancel("e1"))
            assert await bad.receive() is None
            await good.leased()
        assert server.trainers == 1
        assert list(server.holdings.exports) == ["e1"]
    assert [line["event"] for line in logs if line.get("exc_info")] == ["bug in a connection"]


@pytest.mark.parametrize(
    "shortage", [OSError(errno.EMFILE, "files"), MemoryError(), RuntimeError("can't start new thread")], ids=repr
)
async def test_what_the_machine_is_short_of_refuses_a_segment(tmp_path, monkeypatch, shortage):
    """The trainer stays connected, and has its segment when there is one."""

    def short(_nbytes):
        raise shortage

    async with serving(tmp_path, Jobs()) as (server, connect):
        trainer = await connect()
        with monkeypatch.context() as machine:
            machine.setattr(connection_module, "make_segment", short)
            await trainer.send(protocol.Reserve(1, PAGE_BYTES))
            refused = await trainer.receive()
        assert refused.code == ("too-many-files" if isinstance(shortage, OSError) else "memory-short")
        assert server.holdings.used_bytes == 0
        await trainer.leased()


async def test_another_protocol_is_refused_with_the_remedy(tmp_path):
    """Both sides must be of one release."""
    async with serving(tmp_path, Jobs()) as (_, connect):
        trainer = await connect(hello=False)
        await trainer.send(Hello(protocol.PROTOCOL + 1, "x"))
        refused = await trainer.receive()
        assert isinstance(refused, Refused)
        assert (refused.code, refused.remedy) == (
            "handoff-protocol",
            "install the same release of smdaemon on both sides",
        )
        assert await trainer.receive() is None


async def test_a_foreign_user_is_refused(tmp_path):
    """The kernel says who it is; whoever may not is told so, and is gone."""
    async with serving(tmp_path, Jobs(), may_connect=lambda uid: uid != os.getuid()) as (_, connect):
        trainer = await connect(hello=False)
        assert (await trainer.receive()).code == "handoff-refused"
        assert await trainer.receive() is None


async def test_one_trainer_too_many_is_told_so(tmp_path, monkeypatch):
    """It may hand over, but not now: the refusal says which it is."""
    monkeypatch.setattr(server_module, "_CONNECTIONS", 1)
    async with serving(tmp_path, Jobs()) as (_, connect):
        await connect()
        trainer = await connect(hello=False)
        refused = await trainer.receive()
        assert (refused.code, refused.message) == (
            "handoff-refused",
            "1 trainers are connected, and the daemon takes no more",
        )
        assert "close the connections" in refused.remedy
        assert await trainer.receive() is None


async def test_a_long_reason_is_told_as_far_as_a_message_goes(tmp_path):
    """Letters that take twelve bytes each: the trainer hears how its export ended, and stays connected."""
    reason = "\N{OCTOPUS}" * 10_000
    async with serving(tmp_path, Jobs(refuse=DropError("request-invalid", reason, remedy=reason))) as (_, connect):
        trainer = await connect()
        await trainer.committed("e1", await trainer.leased())
        failed = await trainer.receive()
        assert failed.code == "request-invalid"
        assert reason.startswith(failed.message)
        assert isinstance(await trainer.leased(), int)


async def test_who_says_nothing_is_not_waited_for(tmp_path, autojump_clock):
    """Ten seconds for an introduction."""
    async with serving(tmp_path, Jobs()) as (server, connect):
        trainer = await connect(hello=False)
        assert await trainer.receive() is None
        assert server.trainers == 0


async def test_who_does_not_read_is_disconnected(tmp_path):
    """Messages for a trainer are queued within bounds: one that reads none of them holds nobody up."""
    async with serving(tmp_path, Jobs()) as (server, connect):
        deaf, other = await connect(), await connect()
        for number in range(3000):
            if server.trainers < 2:
                break
            with trio.move_on_after(0.05):
                await deaf.send(protocol.Reserve(number, 0))
        await other.leased()
        assert server.trainers == 1
