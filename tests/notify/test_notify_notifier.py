"""A notifier on a real journal, with a fake target and a clock that jumps: when it tries again, when it gives up, what it remembers.

pytest-trio uses a clock only if the test itself asks for it, so each does.
"""

import itertools
import math

import pytest
import trio
from structlog.testing import capture_logs

from smdaemon.errors import EnvironmentFault
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.retry import JITTER, LONGEST_SECONDS
from smdaemon.jobs.states import Event
from smdaemon.notify.notifier import Notifier, Tally
from smdaemon.notify.targets import RefusedError
from smdaemon.settings import NotifySettings

START = 1_700_000_000.0
DOWN = EnvironmentFault("webhook-unreachable", "nobody there", retryable=True)


class Target:
    """Notes when it was asked for what; `troubles` are raised first come first served, then `always` if there is one."""

    def __init__(self, *troubles, always=None):
        self.troubles = list(troubles)
        self.always = always
        self.asked = []

    @property
    def jobs(self):
        """The jobs that it was told of."""
        return [job for job, _ in self.asked]

    @property
    def waits(self):
        """The seconds between its attempts."""
        times = [at for _, at in self.asked]
        return [after - before for before, after in itertools.pairwise(times)]

    async def deliver(self, event):
        """One attempt."""
        await trio.lowlevel.checkpoint()
        self.asked.append((event.job.id, trio.current_time()))
        trouble = self.troubles.pop(0) if self.troubles else self.always
        if trouble is not None:
            raise trouble


@pytest.fixture
async def ledger(tmp_path, autojump_clock):
    """A journal whose time is trio's."""
    async with open_ledger(tmp_path / "journal.sqlite", lambda: START + autojump_clock.current_time()) as opened:
        yield opened


async def fail_one(ledger, step, model="ranker"):
    """A job that has failed: one event."""
    job = await ledger.accept(
        NewJob(model=model, origin="drop", source=f"/runs/{step}", identity=f"{model}{step}", order=step)
    )
    await ledger.move(job.id, Event.FAIL, reason="bad")


async def run_until(ledger, target, check, **settings):
    """The tally of a notifier, once `check(tally)` holds."""
    tally = Tally()
    send, changes = trio.open_memory_channel(math.inf)
    made = NotifySettings(name="n", webhook="https://host/", on=["failed"], **settings)
    notifier = Notifier(made, target, ledger, tally, owner="me", place=0, on_change=lambda: send.send_nowait(None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        while not check(tally):
            await changes.receive()
        nursery.cancel_scope.cancel()
    return tally


async def test_attempts_come_at_growing_distances(ledger, autojump_clock):
    """1 s, then twice as long each time, up to 5 min; then the next event begins anew."""
    target = Target(*[DOWN] * 12, None, DOWN)
    await ledger.reader_places(["n"])
    await fail_one(ledger, 1)
    await fail_one(ledger, 2)
    tally = await run_until(ledger, target, lambda tally: tally.delivered == 2)
    assert target.jobs == [1] * 13 + [2] * 2
    for attempt, wait in enumerate(target.waits[:12]):
        longest = min(2.0**attempt, LONGEST_SECONDS)
        assert longest * (1 - JITTER) <= wait <= longest
    assert target.waits[-1] <= 1.0
    assert (tally.failed, tally.given_up, tally.error) == (13, 0, None)


async def test_a_receiver_may_ask_for_more_time(ledger, autojump_clock):
    """Retry-After is kept to, up to the longest wait of all."""
    target = Target(RefusedError("busy", wait_seconds=60.0), RefusedError("busy", wait_seconds=1e9))
    await fail_one(ledger, 1)
    await run_until(ledger, target, lambda tally: tally.delivered == 1)
    assert target.waits == [pytest.approx(60.0), pytest.approx(LONGEST_SECONDS)]


async def test_an_event_is_given_up_after_its_time_and_each_is_tried_once(ledger, autojump_clock):
    """What piled up behind it is older than its time by then: one attempt each, so that a dead receiver is caught up with."""
    target = Target(always=DOWN)
    for step in range(5):
        await fail_one(ledger, step)
    with capture_logs() as logs:
        tally = await run_until(ledger, target, lambda tally: tally.given_up == 5, retry_for_seconds=100.0)
    assert target.jobs[-4:] == [2, 3, 4, 5]
    first = [at for job, at in target.asked if job == 1]
    assert first[-1] - first[0] == pytest.approx(100.0, abs=1.0)
    assert tally.delivered == 0
    given_up = [line for line in logs if line["event"] == "notification given up"]
    assert [line["log_level"] for line in given_up] == ["error"] * 5
    assert given_up[0]["code"] == "webhook-unreachable"


async def test_after_a_long_stop_an_event_has_its_time_once_more(ledger, autojump_clock):
    """A daemon that was down for a week does not give up at the first refusal."""
    await fail_one(ledger, 1)
    await trio.sleep(7 * 86_400)
    target = Target(DOWN, DOWN)
    tally = await run_until(ledger, target, lambda tally: tally.delivered == 1)
    assert tally.failed == 2


async def test_a_bug_in_a_delivery_is_tried_again(ledger, autojump_clock):
    """What one receiver brings about does not end the daemon; the traceback is in the log."""
    target = Target(ValueError("strange"))
    await fail_one(ledger, 1)
    with capture_logs() as logs:
        await run_until(ledger, target, lambda tally: tally.delivered == 1)
    assert [line["event"] for line in logs if "exc_info" in line] == ["bug: a delivery failed"]


async def test_what_nobody_is_told_of_is_passed_over(ledger, autojump_clock, monkeypatch):
    """Events of other models are noted in bunches, not one by one."""
    monkeypatch.setattr("smdaemon.notify.notifier._NOTE_EVERY", 10)
    await ledger.reader_places(["n"])
    for step in range(10):
        await fail_one(ledger, step, model="other")
    await fail_one(ledger, 99)
    target = Target()
    await run_until(ledger, target, lambda tally: tally.delivered == 1, models=["rank*"])
    assert target.jobs == [11]
    (place,) = (await ledger.reader_places(["n"])).values()
    assert place == ledger.bus.last_seq


async def test_a_journal_that_cannot_be_read_is_waited_for(ledger, autojump_clock, monkeypatch):
    """The notifier goes on by itself."""
    await fail_one(ledger, 1)
    real, troubles = ledger.moves_after, [EnvironmentFault("io-error", "a disk", retryable=True)] * 3

    async def moves_after(*args):
        if troubles:
            raise troubles.pop()
        return await real(*args)

    monkeypatch.setattr(ledger, "moves_after", moves_after)
    target = Target()
    await run_until(ledger, target, lambda tally: tally.delivered == 1)
    assert target.jobs == [1]


async def test_a_note_that_is_refused_is_made_up_for(ledger, autojump_clock, monkeypatch):
    """A delivery is not repeated for it while the daemon runs."""
    await ledger.reader_places(["n"])
    real, troubles = ledger.advance_reader, [EnvironmentFault("disk-full", "no space", retryable=True)]

    async def advance_reader(*args):
        if troubles:
            raise troubles.pop()
        await real(*args)

    monkeypatch.setattr(ledger, "advance_reader", advance_reader)
    target = Target()
    await fail_one(ledger, 1)
    await fail_one(ledger, 2)
    await run_until(ledger, target, lambda tally: tally.delivered == 2)
    await trio.sleep(1)
    assert target.jobs == [1, 2]
    assert await ledger.reader_places(["n"]) == {"n": ledger.bus.last_seq}


@pytest.mark.parametrize("method", ["moves_after", "advance_reader"])
async def test_a_fault_of_the_journal_that_is_over_is_not_shown(ledger, autojump_clock, monkeypatch, method):
    """Also where nothing further happens: who waits for all to be told does not skip this notifier for it."""
    await ledger.reader_places(["n"])
    await fail_one(ledger, 1)
    real, troubles = getattr(ledger, method), [EnvironmentFault("disk-full", "no space", retryable=True)] * 3

    async def faulty(*args):
        if troubles:
            raise troubles.pop()
        return await real(*args)

    monkeypatch.setattr(ledger, method, faulty)
    target = Target()
    with capture_logs() as logs:
        tally = await run_until(ledger, target, lambda tally: tally.delivered == 1 and tally.error is None)
    assert [line["code"] for line in logs if line["log_level"] == "warning"] == ["disk-full"] * 3
    assert (troubles, tally.behind_since) == ([], None)
    assert await ledger.reader_places(["n"]) == {"n": ledger.bus.last_seq}


async def test_a_note_that_is_refused_holds_up_no_event(ledger, autojump_clock, monkeypatch):
    """What happens while the journal takes none is told at once."""

    async def refuse(*_):
        raise EnvironmentFault("disk-full", "no space", retryable=True)

    monkeypatch.setattr(ledger, "advance_reader", refuse)
    target = Target()
    tally = Tally()
    made = NotifySettings(name="n", webhook="https://host/", on=["failed"])
    notifier = Notifier(made, target, ledger, tally, owner="me", place=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        for step in (1, 2):
            await trio.sleep(1000)
            await fail_one(ledger, step)
            began = trio.current_time()
            notifier.wake()
            while tally.delivered < step:
                await trio.lowlevel.checkpoint()
            assert trio.current_time() == began
        assert tally.error is not None
        nursery.cancel_scope.cancel()


async def test_places_are_kept_and_forgotten_by_name(ledger, autojump_clock):
    """A new reader begins at the newest move; one that is no longer there is forgotten; none goes back."""
    await fail_one(ledger, 1)
    newest = ledger.bus.last_seq
    assert await ledger.reader_places(["a", "b"]) == {"a": newest, "b": newest}
    await fail_one(ledger, 2)
    await ledger.advance_reader("a", newest + 1)
    await ledger.advance_reader("a", newest)
    assert await ledger.reader_places(["a"]) == {"a": newest + 1}
    await ledger.advance_reader("b", newest + 1)
    assert await ledger.reader_places(["b"]) == {"b": ledger.bus.last_seq}
