import pytest
import trio
import trio.testing

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


async def test_who_takes_more_than_there_is_to_be_read_runs_alone(autojump_clock):
    """What a source takes beside the chunks is counted as far as the budget goes: nothing is refused for it, and nothing runs beside it."""
    budget = ByteBudget(10)
    async with budget.reserved(4, 2):
        assert budget.used == 6
    async with budget.reserved(4, 100):
        assert budget.used == 10
        with trio.move_on_after(1) as waited:
            async with budget.reserved(1):
                pytest.fail("it ran beside it")
    assert waited.cancelled_caught
    assert budget.used == 0


async def test_a_budget_that_shrinks_refuses_who_no_longer_fits(autojump_clock):
    """Whoever waits for more than there will ever be is told so at once, and does not hold up those behind."""
    budget = ByteBudget(10)
    ended = []

    async def use(name, nbytes):
        try:
            async with budget.reserved(nbytes):
                ended.append((name, trio.current_time() - start))
        except EnvironmentFault as fault:
            ended.append((name, fault.code))

    start = trio.current_time()
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery, budget.reserved(6):
            for item in (("large", 9), ("other", 8), ("small", 1)):
                nursery.start_soon(use, *item)
                await trio.testing.wait_all_tasks_blocked()
            budget.total = 7
            await trio.testing.wait_all_tasks_blocked()
    assert ended == [("large", "memory-budget"), ("other", "memory-budget"), ("small", 0)]


async def test_a_budget_that_grows_wakes_who_waits(autojump_clock):
    """A reload with more memory serves who waits at once, not when somebody else has ended."""
    budget = ByteBudget(10)
    served = trio.Event()

    async def use():
        async with budget.reserved(5):
            served.set()

    async with trio.open_nursery() as nursery, budget.reserved(6):
        nursery.start_soon(use)
        await trio.testing.wait_all_tasks_blocked()
        assert not served.is_set()
        budget.total = 11
        with trio.fail_after(1):
            await served.wait()
