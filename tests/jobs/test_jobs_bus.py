"""The event bus."""

import pytest
import trio
from jobs_kit import new_job

from smdaemon.jobs.bus import Bus, Lagged
from smdaemon.jobs.job import Moved, begin

JOB = begin(new_job(), 1, 1.0)


def publish(bus, *places):
    """One move for each of the places."""
    for seq in places:
        bus.publish(Moved(seq, JOB))


async def test_every_subscriber_gets_every_move_in_order():
    """Two subscribers see the same, each at its own pace."""
    bus = Bus()
    with bus.subscribe() as one, bus.subscribe() as two:
        publish(bus, 1, 2)
        assert [(await one.receive()).seq, (await one.receive()).seq] == [1, 2]
        publish(bus, 3)
        bus.close()
        assert [item.seq async for item in one] == [3]
        assert [item.seq async for item in two] == [1, 2, 3]


async def test_a_slow_subscriber_is_dropped_and_told_where_to_go_on():
    """What fits is delivered, then comes the place of the last delivered move, then the end; others are not touched."""
    bus = Bus()
    with bus.subscribe(buffer=2) as slow, bus.subscribe(buffer=9) as quick:
        publish(bus, 1, 2, 3, 4)
        assert [item async for item in slow] == [Moved(1, JOB), Moved(2, JOB), Lagged(2)]
        assert quick.statistics().current_buffer_used == 4


async def test_a_subscriber_that_got_nothing_goes_on_where_it_came_in():
    """Without room for a single move the marker names the newest move at the time of subscription."""
    bus = Bus()
    publish(bus, 41)
    with bus.subscribe(buffer=0) as channel:
        publish(bus, 42)
        assert [item async for item in channel] == [Lagged(41)]


async def test_a_subscriber_that_left_is_forgotten():
    """After the block, or when the channel is closed within it, publishing goes on without it."""
    bus = Bus()
    with bus.subscribe() as channel:
        await channel.aclose()
        publish(bus, 1)
    assert bus._subscribers == {}
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()
    publish(bus, 2)
