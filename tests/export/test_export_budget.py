import pytest
import trio

from smdaemon.errors import EnvironmentFault
from smdaemon.export.budget import ByteBudget


async def test_bytes_are_held_for_the_block_and_given_back():
    """Inside the block they count as used, after it they do not."""
    budget = ByteBudget(10)
    async with budget.reserved(7):
        assert budget.used == 7
    assert budget.used == 0


async def test_what_exceeds_the_whole_budget_is_refused_at_once():
    """Waiting for it would last for ever."""
    with pytest.raises(EnvironmentFault) as caught:
        async with ByteBudget(10).reserved(11):
            pass
    assert caught.value.code == "memory-budget"


async def test_who_waits_is_served_in_order(autojump_clock):
    """A large export that waits is not overtaken by small ones."""
    budget = ByteBudget(10)
    served = []

    async def use(name, nbytes, seconds):
        async with budget.reserved(nbytes):
            served.append(name)
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        for item in (("first", 6, 2), ("large", 10, 1), ("small", 1, 1)):
            nursery.start_soon(use, *item)
            await trio.testing.wait_all_tasks_blocked()
    assert served == ["first", "large", "small"]


async def test_a_cancelled_waiter_holds_nothing(autojump_clock):
    """Its place in the queue is free for the next."""
    budget = ByteBudget(10)
    async with budget.reserved(10):
        with trio.move_on_after(1):
            async with budget.reserved(5):
                pytest.fail("the bytes were not free")
    async with budget.reserved(10):
        assert budget.used == 10
    assert budget.used == 0
