"""What a daemon that runs tells Prometheus."""

from datetime import datetime

import pytest
import trio
from daemon_kit import Running
from prometheus_client.parser import text_string_to_metric_families


async def scraped(running: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics, over the socket."""

    def ask() -> str:
        connection = running.client._connection(30)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    text = await trio.to_thread.run_sync(ask)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ends(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[str, float]:
    """How many jobs of the model came to which end."""
    return {
        dict(labels)["state"]: value for (name, labels), value in samples.items() if name == "smdaemon_jobs_ended_total"
    }


async def test_ends_are_counted(started):
    """From nothing on: each job that ends counts once, by its end; a retry that fails again counts again."""
    async with started() as running:
        assert ends(await scraped(running)) == {"published": 0, "failed": 0, "superseded": 0, "cancelled": 0}
        running.drop("ckpt-1.npz")
        await running.ended()
        running.drop("nameless.npz")
        *_, failed = await running.ended(2)
        assert ends(await scraped(running)) == {"published": 1, "failed": 1, "superseded": 0, "cancelled": 0}
        await running.ask(running.client.post, f"/v1/jobs/{failed['id']}/retry")
        await running.ended(3)
        assert ends(await scraped(running))["failed"] == 2


async def test_the_oldest_open_job_and_the_disk_are_told(started, monkeypatch):
    """While a job waits for room, when it was accepted; the room; the daemon is ready and healthy all the while."""
    from smdaemon.publish import space

    model = (("model", "ranker"),)
    monkeypatch.setattr(space, "room_of", lambda _path: space.Room((1 << 20) + 100, 1 << 40))
    async with started(daemon='min_free = "1MiB"') as running:
        running.drop("ckpt-1.npz", big=bytearray(4096))
        while not (await running.ask(running.client.get, "/v1/status"))["jobs"].get("waiting"):
            await trio.lowlevel.checkpoint()
        (job,) = (await running.ask(running.client.get, "/v1/jobs"))["jobs"]
        accepted = datetime.fromisoformat(job["created_at"]).timestamp()
        samples = await scraped(running)
        assert samples["smdaemon_oldest_open_job_time_seconds", model] == pytest.approx(accepted)
        assert samples["smdaemon_disk_free_bytes", model] == (1 << 20) + 100
        assert samples["smdaemon_disk_bytes", model] == 1 << 40
        assert samples["smdaemon_ready", ()] == samples["smdaemon_healthy", ()] == 1
        await running.ask(running.client.post, f"/v1/jobs/{job['id']}/cancel")
        await running.ended()
        assert ("smdaemon_oldest_open_job_time_seconds", model) not in await scraped(running)
