"""What the daemon makes of trainers: whose saves it counts, whom it lets in, and how long it waits for them."""

import os
import pwd
import time
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs

from smdaemon.errors import EnvironmentFault, SmdaemonError
from smdaemon.handoff.exports import Handed

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


async def test_a_job_that_the_journal_cannot_cancel_now_stays(started, monkeypatch):
    """A full disk is the operator's to see; the trainer's connection and the daemon go on."""

    async def full(_job):
        raise EnvironmentFault("disk-full", "the journal cannot be written", retryable=True)

    async with started(daemon=HANDOFF) as running:
        handoffs = running.daemon._handoffs
        monkeypatch.setattr(handoffs, "_cancel", full)
        with capture_logs() as logs:
            await handoffs.cancel(1)
    assert [(line["event"], line["code"]) for line in logs if "code" in line] == [
        ("handoff not cancelled", "disk-full")
    ]


async def test_a_step_of_the_clock_does_not_end_the_grace(started, monkeypatch):
    """A trainer has its time to offer the tensors again, whatever the time of day becomes."""
    async with started(daemon=HANDOFF) as running:
        job = await running.daemon._handoffs._intake.handoff(handed("e1"))
        ask = partial(running.daemon._handoffs.segment_of, job[0])
        now = time.time()
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda: now + 1e6)
            with pytest.raises(EnvironmentFault) as waits:
                ask()
        assert (waits.value.code, waits.value.retryable) == ("handoff-lost", True)


async def test_users_are_looked_up_at_the_start_and_by_a_reload(started, tmp_path, monkeypatch):
    """A connection asks nobody: a directory of users that does not answer would hold up the daemon."""
    asked = []

    def getpwnam(user):
        asked.append(user)
        if user in {"nobody-knows", "²"}:
            raise KeyError(user)
        return pwd.struct_passwd((user, "x", {"first": 4001, "second": 4002}[user], 1, "", "/", "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    users = 'handoff_users = ["first", "nobody-knows", "4003", "\\u00b2"]'
    async with started(daemon=f"{HANDOFF}\n{users}") as running:
        may_connect = running.daemon._handoffs._may_connect
        assert [may_connect(uid) for uid in (os.getuid(), 4001, 4002, 4003, -1)] == [True, True, False, True, False]
        assert asked == ["first", "nobody-knows", "²"]
        path = tmp_path / "config.toml"
        path.write_text(path.read_text().replace('"first"', '"second"'))
        await running.daemon.reload()
        assert [may_connect(uid) for uid in (os.getuid(), 4001, 4002)] == [True, False, True]
        assert asked == ["first", "nobody-knows", "²", "second", "nobody-knows", "²"]
