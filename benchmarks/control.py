"""How fast the control socket answers; there is no promise to keep."""

import time
from contextlib import closing

from benchmarks.harness import Benchmark, Findings, Row, Settings
from benchmarks.scratch import emptied
from benchmarks.service import UnixConnection, running_daemon


def run(settings: Settings) -> Findings:
    """One client asking for the status, request after request."""
    requests = settings.size(3000, 100)
    findings = Findings()
    rates: list[float] = []
    with running_daemon(emptied(settings.disk / "daemon")) as daemon:
        with closing(UnixConnection(daemon.socket)) as connection:
            for _ in range(settings.rounds):
                kept = _latencies(connection, requests)
                rates.append(requests / sum(kept))
        fresh = []
        for _ in range(requests // 5):
            with closing(UnixConnection(daemon.socket)) as connection:
                fresh += _latencies(connection, 1)
    findings.rows += [
        Row("GET /v1/status, one connection", rates, "requests/s"),
        Row("GET /v1/status, one connection", [1000 * s for s in kept], "ms"),
        Row("GET /v1/status, a connection each", [1000 * s for s in fresh], "ms"),
    ]
    findings.notes.append("one client over the unix socket, the next request after the answer")
    return findings


def _latencies(connection: UnixConnection, requests: int) -> list[float]:
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        status, _ = connection.get("/v1/status")
        times.append(time.perf_counter() - began)
        if status != 200:
            raise RuntimeError(f"GET /v1/status answered {status}")
    return times


BENCHMARK = Benchmark("control", "The control socket", run, rounds=3)
