"""A scheduler whose clock jumps. pytest-trio uses a clock only if the test itself asks for it, so each does."""

import pytest
import trio
import trio.testing
from scheduler_kit import START, Exporter, House

from smdaemon.jobs.ledger import open_ledger


@pytest.fixture
def inline_threads(monkeypatch):
    """The journal's thread does its work within the task.

    The clock jumps as soon as all tasks are blocked, and one that waits for a thread is: a deadline could pass meanwhile.
    """

    async def run_sync(function, *args, limiter=None):
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
async def build(tmp_path, inline_threads, nursery):
    """Makes a house; `start=False` leaves the scheduler to be started."""
    async with open_ledger(tmp_path / "journal.sqlite", lambda: START + trio.current_time()) as ledger:

        def make(export=None, *, workers=1, policies=None, start=True):
            house = House(ledger, nursery, export or Exporter(), workers, policies or {})
            if start:
                house.start()
            return house

        yield make
        nursery.cancel_scope.cancel()
