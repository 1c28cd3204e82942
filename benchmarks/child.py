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
    call = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", "benchmarks.child", call, json.dumps(arguments, default=str)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{call} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Call the function that the command line names and print its result as the last line."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
