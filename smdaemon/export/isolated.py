"""An export in a process of its own, for graphs so large that handling them would stop the daemon.

protobuf parses and serialises a message without letting another thread run: half a gigabyte of graph is a second in which
the daemon answers nobody. So an export whose graph is large runs in a child (see worker.py). Plan and reports cross the pipe as
JSON lines; the child waits for a line after it has said what it will write, so that the byte budget can hold it back.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from smdaemon.errors import CODES, DropError, EnvironmentFault, SmdaemonError
from smdaemon.export.pipeline import Exported, Report
from smdaemon.export.plan import ExportPlan

WORKER = ["-m", "smdaemon.export.worker"]
LARGE_GRAPH_BYTES = 16 << 20
"""A graph of this size takes about 30 ms to parse or to serialise: the longest that the daemon's loop may stand still."""


def has_large_graph(plan: ExportPlan) -> bool:
    """Whether the graph that `plan` handles is so large that the export belongs in a process of its own."""
    return any(_size(path) > LARGE_GRAPH_BYTES for path in plan.graph_files())


def export_isolated(plan: ExportPlan, target: Path, report: Report) -> Exported:
    """As `perform`, in a child process. Raises the same errors; what `report` raises ends the child."""
    command = [sys.executable, *WORKER]
    # A session of its own: what a terminal or a service manager sends to stop the daemon is for the daemon to pass on.
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(encode_plan(plan) + b"\n" + json.dumps(str(target)).encode() + b"\n")
            child.stdin.flush()
            for line in child.stdout:
                said, value = json.loads(line)
                if said == "done":
                    return Exported(*value)
                if said == "error":
                    raise _error(*value)
                _REPORTS[said](report, value)
                if said == "writing":
                    child.stdin.write(b"\n")
                    child.stdin.flush()
        except BrokenPipeError:
            pass  # it died between two lines: the exit status says how
        finally:
            child.kill()
            with suppress(BrokenPipeError):
                child.stdin.close()
    if child.returncode == -signal.SIGKILL:
        message = "the export's process was killed, as a machine that runs out of memory does"
        raise EnvironmentFault("memory-short", message, retryable=True)
    raise RuntimeError(f"the export's process ended with {child.returncode}")


_REPORTS: dict[str, Callable[[Report, Any], None]] = {
    "writing": lambda report, value: report.writing(*value),
    "advance": lambda report, value: report.advance(value),
    "verifying": lambda report, _value: report.verifying(),
    "read_back": lambda report, value: report.read_back(value),
}


def encode_plan(plan: ExportPlan) -> bytes:
    """`plan` as one line of JSON. A path may be no UTF-8: its bytes stand in it as in a URL."""
    return msgspec.json.encode(plan, enc_hook=lambda path: quote_from_bytes(os.fsencode(path)))


def decode_plan(line: bytes) -> ExportPlan:
    """The plan in a line that `encode_plan` made."""
    return msgspec.json.decode(line, type=ExportPlan, dec_hook=_path)


def _path(_kind: type, text: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(text)))


def _error(kind: str, code: str, message: str, remedy: str, retryable: bool) -> Exception:
    """The child's error as it would have been raised here."""
    if code not in CODES:
        bug = RuntimeError(f"in the export's process: {message}")
        bug.add_note(remedy)  # the child's traceback, for the log
        return bug
    if kind == EnvironmentFault.__name__:
        return EnvironmentFault(code, message, remedy=remedy, retryable=retryable)
    if kind == DropError.__name__:
        return DropError(code, message, remedy=remedy)
    return SmdaemonError(code, message, remedy=remedy)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the export itself will say what is wrong with it
