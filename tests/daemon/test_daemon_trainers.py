"""What the daemon makes of trainers: whose saves it counts."""

import pytest
import trio

from smdaemon.errors import SmdaemonError
from smdaemon.handoff.server import Handed

HANDOFF = 'handoff_socket = "handoff.sock"'


def handed(export: str, model: str = "ranker", **changes) -> Handed:
    """An export as a trainer commits it."""
    return Handed(**{"export": export, "trainer": "t", "model": model, "step": 1, "options": {}, "nbytes": 4} | changes)


def scraped(running) -> str:
    """What Prometheus sees."""
    connection = running.client._connection(timeout=60)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200, text
    return text


async def test_only_what_is_accepted_is_counted(started):
    """A save that is refused, under whatever name of a model, leaves no trace in status and metrics; one that is offered again, none more."""
    async with started(daemon=HANDOFF) as running:
        handoffs = running.daemon._handoffs
        for number, model in enumerate(["unknown", "\ud800", "other"]):
            with pytest.raises(SmdaemonError):
                await handoffs.accept(handed(f"refused{number}", model, skipped=3))
        for _ in range(3):
            await handoffs.accept(handed("taken", skipped=2, stall_seconds=0.5))
        status = (await running.ask(running.client.get, "/v1/status"))["handoff"]
        assert (status["saves"], status["skipped"], status["last_stall_seconds"]) == (1, 2, 0.5)
        stalls = [
            line
            for line in (await trio.to_thread.run_sync(scraped, running)).splitlines()
            if line.startswith("smdaemon_handoff_stall_seconds_count")
        ]
        assert stalls == ['smdaemon_handoff_stall_seconds_count{model="ranker"} 1.0']
