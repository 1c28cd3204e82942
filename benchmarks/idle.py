"""What a daemon costs that watches many folders in which nothing happens."""

import time
from pathlib import Path

from benchmarks.harness import Benchmark, Findings, Row, Settings
from benchmarks.scratch import emptied
from benchmarks.service import Daemon, running_daemon

SETTLE_SECONDS = 5
DEFAULT_RESCAN_SECONDS = 300


def run(settings: Settings) -> Findings:
    """Processor time and memory while idle; then with frequent rescans, to know what one costs."""
    folders = settings.size(10_000, 100)
    window = settings.size(60, 3)
    findings = Findings()
    with running_daemon(_tree(settings.disk, folders), recursive=True) as daemon:
        time.sleep(SETTLE_SECONDS)
        shares = [_share_of_core(daemon, window) for _ in range(settings.rounds)]
        resident = [daemon.memory("VmRSS") / 2**20]
        own = [daemon.memory("RssAnon", "RssShmem") / 2**20]
    often = settings.size(10, 1)
    with running_daemon(_tree(settings.disk, folders), recursive=True, rescan_seconds=often) as daemon:
        time.sleep(SETTLE_SECONDS)
        busy = _share_of_core(daemon, 3 * often)
        resident.append(daemon.memory("VmRSS") / 2**20)
    idle = Row("processor, no rescan", shares, "% of a core")
    rescan_seconds = max(0.0, busy - idle.median) / 100 * often
    with_rescans = idle.median + 100 * rescan_seconds / DEFAULT_RESCAN_SECONDS
    findings.rows += [
        idle,
        Row(f"processor, a rescan every {often} s", [busy], "% of a core"),
        Row("one rescan", [1000 * rescan_seconds], "ms of processor"),
        Row("resident memory", resident, "MiB"),
        Row("resident memory, page cache aside", own, "MiB"),
    ]
    findings.at_most(f"processor with {folders:,} folders, {window} s", max(shares), 0.2, "% of a core")
    findings.at_most(f"the same with a rescan every {DEFAULT_RESCAN_SECONDS} s", with_rescans, 0.2, "% of a core")
    findings.at_most("resident memory", max(resident), 80, "MiB")
    findings.notes.append(f"one recursive model over {folders:,} folders on a disk, seen through inotify, no drops")
    findings.notes.append("the cost of one rescan is what frequent rescans add, divided by their number")
    return findings


def _tree(disk: Path, folders: int) -> Path:
    """A scratch folder for a daemon whose watched folder holds `folders` in all, a hundred beside each other."""
    folder = emptied(disk / "daemon")
    watch = folder / "watch"
    watch.mkdir()
    made = 0
    while made < folders:
        parent = watch / f"run-{made // 100:04d}"
        parent.mkdir()
        made += 1
        for index in range(min(99, folders - made)):
            (parent / f"trial-{index:02d}").mkdir()
            made += 1
    return folder


def _share_of_core(daemon: Daemon, seconds: float) -> float:
    """Per cent of one core that the daemon uses over `seconds`."""
    began, used = time.perf_counter(), daemon.cpu_seconds()
    time.sleep(seconds)
    return 100 * (daemon.cpu_seconds() - used) / (time.perf_counter() - began)


BENCHMARK = Benchmark("idle", "Idle with 10,000 watched folders", run, rounds=1)
