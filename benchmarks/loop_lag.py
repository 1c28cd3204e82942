"""How long the daemon's loop stands still while a graph of half a gigabyte is exported: in a child process, and beside it.

protobuf parses and serialises without letting another thread run. What that would do to the daemon is seen in a program of one
trio task that wants to wake every ten milliseconds; what it does to the real one, in the answers to GET /healthz.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks import models
from benchmarks.child import fresh
from benchmarks.harness import Benchmark, Findings, Row, Settings
from benchmarks.inputs import write_safetensors
from benchmarks.latency import Arrivals
from benchmarks.scratch import emptied
from benchmarks.service import UnixConnection, running_daemon

TENSORS = 4
NBYTES = 1 << 20
EVERY_SECONDS = 0.01
SETTLE_SECONDS = 1.0


def timer_lags(target: str, template: str, source: str, *, isolated: bool) -> list[float]:
    """By how many seconds each wake of a timer task was late while an export ran in a thread of the same trio program."""
    import trio

    from smdaemon.export.isolated import export_isolated
    from smdaemon.export.pipeline import Silent, export
    from smdaemon.export.plan import ExportPlan

    plan = ExportPlan(Path(source), template=Path(template), sync=False)
    lags: list[float] = []

    async def ticks() -> None:
        while True:
            due = trio.current_time() + EVERY_SECONDS
            await trio.sleep_until(due)
            lags.append(trio.current_time() - due)

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ticks)
            perform = export_isolated if isolated else export
            await trio.to_thread.run_sync(perform, plan, Path(target, "model"), Silent())
            nursery.cancel_scope.cancel()

    trio.run(program)
    return lags


def run(settings: Settings) -> Findings:
    """The daemon, then the program with the export in a child and with the export in its own process."""
    graph_bytes = settings.size(500 << 20, 40 << 20)
    template, source = settings.disk / "template", settings.disk / "ckpt-1.safetensors"
    graph_bytes = fresh(
        models.large_graph, export_dir=template, tensors=TENSORS, nbytes=NBYTES, graph_bytes=graph_bytes
    )
    write_safetensors(source, TENSORS, NBYTES)
    calm, daemon, isolated, inside = (list[float]() for _ in range(4))
    for turn in range(settings.rounds):
        before, during = _daemon_lags(settings, template, source)
        calm += before
        daemon += during
        for kept, in_child in ((isolated, True), (inside, False)):
            target = emptied(settings.disk / "out")
            kept.extend(fresh(timer_lags, target=target, template=template, source=source, isolated=in_child))
            emptied(target)
        settings.say(f"  round {turn + 1}/{settings.rounds}  daemon: {max(during):.3g}, in process: {max(inside):.3g}")
    rows = [
        Row("daemon, nothing to do: GET /healthz", calm),
        Row("daemon, exporting: GET /healthz", daemon),
        Row("trio program, export in a child: lateness", isolated),
        Row("trio program, export in a thread: lateness", inside),
    ]
    rows = [Row(row.name, [1000 * seconds for seconds in row.samples], "ms") for row in rows]
    findings = Findings(rows)
    findings.at_most(f"{rows[1].name}, 99th percentile", rows[1].percentile(99), 20, "ms")
    findings.at_most(f"{rows[1].name}, highest", max(rows[1].samples), 100, "ms")
    findings.at_most(f"{rows[2].name}, 99th percentile", rows[2].percentile(99), 20, "ms")
    findings.at_most(f"{rows[2].name}, highest", max(rows[2].samples), 100, "ms")
    findings.notes += [
        f"saved_model.pb of {graph_bytes >> 20} MiB, {models.LARGE_CONSTANTS:,} constants, as the template; the drop has {NBYTES >> 10} KiB",
        f"every {1000 * EVERY_SECONDS:.0f} ms a request on one connection, or a timer of the only other task; round trip and lateness are shown",
        "from the drop, or the call, until the export is published, or done; the daemon syncs and reads back, as always",
        "the export in a thread is what the daemon would do without a child: shown for comparison, no promise",
    ]
    return findings


def _daemon_lags(settings: Settings, template: Path, source: Path) -> tuple[list[float], list[float]]:
    """Seconds of every GET /healthz before a drop, and from the drop to its publication."""
    folder = emptied(settings.disk / "daemon")
    with running_daemon(folder, template=str(template)) as daemon, Arrivals(daemon.publish) as arrivals:
        before = _asked(daemon.socket, lambda: time.sleep(SETTLE_SECONDS))

        def dropped_and_published() -> None:
            (folder / "drop").hardlink_to(source)
            (folder / "drop").rename(daemon.watch / source.name)
            arrivals.wait_for("1", timeout_seconds=120)

        during = _asked(daemon.socket, dropped_and_published)
    emptied(folder)
    return before, during


def _asked(socket: Path, meanwhile: Callable[[], None]) -> list[float]:
    """Seconds of every GET /healthz, one at a time and ten milliseconds apart, while `meanwhile` runs."""
    times: list[float] = []
    over = threading.Event()

    def ask() -> None:
        with closing(UnixConnection(socket)) as connection:
            while not over.wait(EVERY_SECONDS):
                began = time.perf_counter()
                status, _ = connection.get("/healthz")
                times.append(time.perf_counter() - began)
                if status != 200:
                    raise RuntimeError(f"GET /healthz answered {status}")

    with ThreadPoolExecutor(1) as executor:
        asking = executor.submit(ask)
        try:
            meanwhile()
        finally:
            over.set()
        asking.result()
    return times


BENCHMARK = Benchmark("loop_lag", "The daemon's loop while it exports a graph of 500 MiB", run, rounds=2)
