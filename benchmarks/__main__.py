"""`python -m benchmarks [NAMES]`: measures, prints, and leaves a JSON report of each benchmark in benchmarks/reports/."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    control,
    handoff,
    handoff_disk,
    idle,
    inspection,
    jax_export,
    latency,
    load_one,
    loop_lag,
    many_tensors,
    memory,
    reexport,
    render,
    soak,
    training,
    write_speed,
)
from benchmarks.child import ROOT
from benchmarks.harness import Benchmark, Report, Settings
from benchmarks.machine import Watch, describe, touch_memory, versions
from benchmarks.scratch import leave_by_finally, scratch

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        write_speed,
        many_tensors,
        memory,
        reexport,
        jax_export,
        handoff,
        handoff_disk,
        training,
        inspection,
        load_one,
        loop_lag,
        latency,
        idle,
        control,
        soak,
    )
}
TMPFS = Path("/dev/shm")


def main() -> int:
    """Run what the command line asks for; 1 where a benchmark could not be measured."""
    options = _options()
    if options.list:
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name:14} {benchmark.title}")
        return 0
    if options.write_readme and not options.names:
        render.write_readme()
        return 0
    leave_by_finally()
    say = _say if options.verbose else _nothing
    if not options.quick:
        began = time.perf_counter()
        touched = touch_memory()
        print(f"touched {touched / 2**30:.1f} GiB of memory in {time.perf_counter() - began:.1f} s\n", flush=True)
    failed = [name for name in options.names or BENCHMARKS if not _run(BENCHMARKS[name], options, say)]
    if options.write_readme:
        render.write_readme()
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(benchmark: Benchmark, options: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Measure one benchmark, print and store its report; whether it could be measured."""
    print(f"{benchmark.name}: {benchmark.title} ...", flush=True)
    watch = Watch()
    if not watch.was_idle:
        print(f"! the machine is not idle ({watch.busy:.0%} busy); the figures will tell little", flush=True)
    rounds = options.rounds or (1 if options.quick else benchmark.rounds)
    try:
        with scratch(options.tmpfs) as tmpfs, scratch(options.disk) as disk, watch:
            described = describe(tmpfs=tmpfs, disk=disk)
            findings = benchmark.run(Settings(rounds, options.quick, tmpfs, disk, say, options.torch_python))
    except Exception:  # noqa: BLE001 - whatever stops one benchmark is shown, and the others are measured all the same
        traceback.print_exc()
        return False
    date = datetime.now(UTC).date().isoformat()
    report = Report(
        benchmark.name, benchmark.title, date, options.quick, rounds, described, versions(), watch.to_json(), findings
    )
    print(render.text(report), flush=True)
    _store(report, options.report / f"{date}-{benchmark.name}.json")
    if options.write_readme and not options.quick:
        _store(report, render.RESULTS / f"{benchmark.name}.json")
    return True


def _store(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure smdaemon and its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and leave")
    parser.add_argument("--quick", action="store_true", help="everything small, one round: to see that it works")
    parser.add_argument("--rounds", type=int, help="turns of every peer (default: the benchmark's own)")
    parser.add_argument(
        "--report", type=_folder, default=render.HERE / "reports", metavar="DIR", help="where reports go"
    )
    parser.add_argument(
        "--disk", type=_folder, default=ROOT / "build" / "bench", metavar="DIR", help="a folder on a disk"
    )
    parser.add_argument("--tmpfs", type=_folder, default=TMPFS, metavar="DIR", help="a folder on a tmpfs")
    parser.add_argument(
        "--torch-python", default="", metavar="PATH", help="an interpreter with torch, where the running one has none"
    )
    parser.add_argument("--verbose", action="store_true", help="print every sample")
    parser.add_argument(
        "--write-readme",
        action="store_true",
        help="keep the reports in benchmarks/results/ and write its tables into the README; without NAMES only write them",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def _folder(text: str) -> Path:
    """An absolute path: daemons that are measured take relative ones from their own folders."""
    return Path(text).absolute()


def _say(line: str) -> None:
    print(line, flush=True)


def _nothing(_line: str) -> None:
    """Stay quiet."""


if __name__ == "__main__":
    sys.exit(main())
