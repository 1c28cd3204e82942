"""The smdaemon command that dies by SIGKILL at a boundary: a script, run as `mortal_smdaemon.py N COMMAND...`.

A boundary is the moment before or after a step that others can see or that must last: a transaction of the journal, a sync of a file
or a folder, a rename, the end of a data file, a result. At the N-th the process is killed, as by a machine that loses its power but not its
disk. It says on stderr which one that was.
"""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from smdaemon import durable
from smdaemon.cli.main import main
from smdaemon.handoff.holdings import Holdings
from smdaemon.jobs import results
from smdaemon.jobs.journal import Journal
from smdaemon.publish import local
from smdaemon.tensorbundle.files import OutputFile

_lock = threading.Lock()
_left = 0


def boundary(name: str) -> None:
    """One more; the process may end here."""
    global _left  # noqa: PLW0603 - one countdown for all threads
    with _lock:
        _left -= 1
        if _left == 0:
            os.write(2, f"killed at {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def between(owner: Any, name: str) -> None:
    """Put a boundary before and after a function of a module or a class."""
    inner: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        boundary(f"before {name}")
        result = inner(*args, **kwargs)
        boundary(f"after {name}")
        return result

    setattr(owner, name, outer)


def arm(count: int) -> None:
    """Die at the `count`-th boundary."""
    global _left  # noqa: PLW0603
    for method in ("accept", "move", "move_all", "resume", "next_sequence"):
        between(Journal, method)
    for module in (durable, local):
        for function in ("rename_no_replace", "sync_directory"):
            between(module, function)
    between(local, "remove_tree")
    between(results, "write_result")
    between(OutputFile, "append")
    between(OutputFile, "finish")
    between(Holdings, "commit")
    between(Holdings, "release")
    _left = count


if __name__ == "__main__":
    arm(int(sys.argv[1]))
    main(sys.argv[2:])
