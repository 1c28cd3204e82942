# ruff: noqa: T201 - printing is how it tells
"""Which release of TensorFlow runs what is exported with which release of JAX: `make compatibility`.

    python tests/compatibility/matrix.py [--python INTERPRETER ...]

Each exporter is a Python with the JAX that is locked for it, without TensorFlow; each reader is a release of TensorFlow alone. The
readers load every export, call it, and compare the answers with JAX's. Beside it stands what jax2tf makes of the same functions.
Results go to results.json and as tables into docs/compatibility.md. Takes about a quarter of an hour, and 6 GiB in .venv-compat.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import environments
import tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PYTHONS = ("python3.11", "python3.12")
TENSORFLOWS = ("2.19.1", "2.20.0", "2.21.0")
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
}


def main() -> int:
    """Measure, and write results and page; 1 where smdaemon's own table of releases turns out wrong."""
    parser = argparse.ArgumentParser(prog="matrix.py", description="Run JAX exports in releases of TensorFlow.")
    parser.add_argument(
        "--python", action="append", metavar="INTERPRETER", help=f"who exports (default: {' and '.join(PYTHONS)})"
    )
    options = parser.parse_args()
    interpreters, missing = environments.found(options.python or PYTHONS)
    for what in missing:
        print(f"skipped: {what}; name another with --python")
    if not interpreters:
        return 1
    with tempfile.TemporaryDirectory(prefix="smdaemon-matrix-") as folder:
        results = _measured(interpreters, Path(folder))
    if missing:
        print(f"{tables.rendered(results)}\nnothing was written: {', '.join(missing)}")
    else:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        tables.write_page(results)
    wrong = tables.contradictions(results)
    for what in wrong:
        print(f"serving_target.py is wrong: {what}", file=sys.stderr)
    return 1 if wrong else 0


def _measured(interpreters: dict[str, str], folder: Path) -> dict[str, Any]:
    exports = []
    for release, python in interpreters.items():
        by_smdaemon = environments.exporter(python, release)
        exports.append(_export("smdaemon", by_smdaemon, folder / f"smdaemon-{release}"))
        by_jax2tf = environments.converter(python, release, TENSORFLOWS[-1])
        exports.append(_export("jax2tf", by_jax2tf, folder / f"jax2tf-{release}"))
    last = max(interpreters, key=lambda release: int(release.partition(".")[2]))
    exports.append(_export("probes", environments.exporter(interpreters[last], last), folder / "probes"))
    read: dict[str, Any] = {}
    for tensorflow in TENSORFLOWS:
        reader = environments.reader(next(iter(interpreters.values())), tensorflow)
        for exported in exports:
            print(f"TensorFlow {tensorflow} reads {exported['name']}", flush=True)
            read.setdefault(exported["name"], {})[tensorflow] = _read(reader, folder / exported["name"])
    return {"date": datetime.now(UTC).date().isoformat(), "exports": exports, "read": read}


def _export(way: str, python: Path, folder: Path) -> dict[str, Any]:
    """What exporting.py says that it did in `folder`."""
    print(f"{folder.name} ...", flush=True)
    lines = _run(python, HERE / "exporting.py", way, str(folder)).splitlines()
    return {"name": folder.name, "way": way, **json.loads(lines[-1])}


def _read(python: Path, folder: Path) -> dict[str, Any]:
    """By export what reading.py found: the greatest difference, or what is wrong in a few words."""
    found: dict[str, Any] = {}
    for line in _run(python, HERE / "reading.py", str(folder)).splitlines():
        told = json.loads(line)
        found[told["export"]] = told["difference"] if not told["error"] else _short(told["error"])
    return found


def _run(python: Path, *command: object) -> str:
    """What a script printed; what it and TensorFlow complained of is shown only where it failed."""
    words = [str(python), *map(str, command)]
    done = subprocess.run(words, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _short(error: str) -> str:
    """What TensorFlow says, without where it says it."""
    for pattern, message in (
        (
            r"XlaCallModuleOp with version (\d+) is not supported by this build. Must be <= (\d+)",
            r"calling convention \1, at most \2",
        ),
        (r"(?s).*failed to deserialize portable artifact using StableHLO_v([\d.]+).*", r"StableHLO too new for \1"),
        (r"Cannot deserialize computation", "StableHLO too new"),
    ):
        match = re.search(pattern, error)
        if match:
            return match.expand(message)
    return error[:300]


if __name__ == "__main__":
    sys.exit(main())
