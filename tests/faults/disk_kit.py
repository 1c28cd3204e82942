"""The test's side of the faulty disk: mounts it, asks things of it, unmounts it."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

_SCRIPT = Path(__file__).with_name("faulty_disk.py")


def unavailable() -> str:
    """Why no faulty disk can be mounted here; empty where it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    try:
        import pyfuse3  # noqa: F401
    except ImportError as error:
        return f"{error}; install it with: make faults"
    return ""


class MountedDisk:
    """A faulty disk, mounted at `path` until the end of the block. May be asked by several threads."""

    def __init__(self) -> None:
        # not in a folder of pytest's: what it moves and deletes must not have a disk in it
        self.path = Path(tempfile.mkdtemp(prefix="faulty-disk-"))
        self._asking = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._answer()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        # what was killed leaves a mount that answers nobody
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, stderr=subprocess.DEVNULL)
        self.path.rmdir()

    def ask(self, request: str, **arguments: Any) -> Any:
        """What the disk answers; see `faulty_disk.Control`."""
        with self._asking:
            self._process.stdin.write(json.dumps([request, arguments]).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        assert line, f"the faulty disk ended with {self._process.wait()}"
        return json.loads(line)
