"""Folders that are gone when the run is over, however it ends short of SIGKILL."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A fresh folder in `parent`, removed at the end; `parent` is made and removed too where it was missing."""
    ours = not parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="smdaemon-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if ours:
            with suppress(OSError):  # another run may use it
                parent.rmdir()


def emptied(folder: Path) -> Path:
    """`folder`, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def leave_by_finally() -> None:
    """Let SIGTERM and SIGHUP end the run as an exception, so that what was made is cleaned up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
