"""A tutorial, done as a person does it: its blocks in their order, shell commands in one shell, Python in one interpreter."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 240

_BLOCK = re.compile(r"^```(python|py|bash|toml)(?: title=\"([\w.]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
_END = "the block has ended"


class Block(NamedTuple):
    """A block of a page; `title` is the file that it is to be saved as, or empty."""

    label: str
    title: str
    content: str


def has(module: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(module) is not None


def blocks(page: Path, *, torch: bool) -> Iterator[Block]:
    """What is run of a page. `py` is Python that needs torch: run where it is, in place of the `python` behind it."""
    replaced = False
    for found in map(Block._make, _BLOCK.findall(page.read_text())):
        if found.label == "py" and not torch:
            continue
        if not (replaced and found.label == "python"):
            yield found
        replaced = found.label == "py"


def follow(page: Path, folder: Path) -> str:
    """Do what the page says in `folder`/place, which is the working directory meanwhile; what the commands printed.

    AssertionError for a command that fails; whatever else its Python raises. What was started ends with it.
    """
    (folder / "tools").mkdir()
    command = folder / "tools" / "smdaemon"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m smdaemon "$@"\n')
    command.chmod(0o755)
    names: dict[str, object] = {"__name__": page.stem}
    printed = ""
    with shell(folder) as bash:
        for block in blocks(page, torch=has("torch")):
            match block.label:
                case "bash":
                    printed += run(bash, block.content)
                case "toml":
                    if block.title:
                        Path(block.title).write_text(block.content)
                case _:
                    exec(compile(block.content, str(page), "exec"), names)
    return printed


@contextmanager
def shell(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A shell in a session of its own, which has this smdaemon in its PATH and ends at the first command that fails."""
    environment = os.environ | {
        "PATH": f"{folder / 'tools'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    with subprocess.Popen(
        ["bash", "-euo", "pipefail"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:

        def kill() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        # a reader that waits for ever is freed by the end of the process
        patience = threading.Timer(PATIENCE_SECONDS, kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            kill()


def run(bash: "subprocess.Popen[str]", commands: str) -> str:
    """Run these commands to their end; what they printed."""
    assert bash.stdin is not None
    assert bash.stdout is not None
    bash.stdin.write(f"{commands}\necho '{_END}'\n")
    bash.stdin.flush()
    printed = ""
    for line in bash.stdout:
        if line == f"{_END}\n":
            return printed
        printed += line
    raise AssertionError(f"a command failed, or did not end:\n{commands}\nit printed:\n{printed}")
