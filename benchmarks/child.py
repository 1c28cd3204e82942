"""Runs one function of a benchmark in a process of its own: `python -m benchmarks.child MODULE:FUNCTION JSON`."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SMDAEMON = str(Path(sys.executable).parent / "smdaemon")
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}


def fresh(function: Any, **arguments: Any) -> Any:
    """What `function(**arguments)` returns in a fresh process; arguments and result pass as JSON."""
    return result_of(start(function, **arguments))


def start(function: Any, python: str = sys.executable, /, **arguments: Any) -> "subprocess.Popen[str]":
    """A fresh process of the interpreter `python` that calls `function(**arguments)`; its result is for `result_of`."""
    call = f"{function.__module__}:{function.__name__}"
    command = [python, "-m", "benchmarks.child", call, json.dumps(arguments, default=str)]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result_of(process: "subprocess.Popen[str]") -> Any:
    """What the function of a process that `start` made returned."""
    with process:
        out, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed:\n{error.strip()}")
    return json.loads(out.splitlines()[-1])


def main() -> None:
    """Call the function that the command line names and print its result as the last line."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
