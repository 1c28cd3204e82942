"""The smdaemon command with a disk that hangs while an old version is removed: a script, run as `held_removal.py TELL GO COMMAND...`.

HELD_AT says where: "note" between the rename and its note in the journal, "delete" before the files are deleted. A byte on the
descriptor TELL says that it has come there; it goes on when the descriptor GO can be read.
"""

import os
import select
import sys
from pathlib import Path

from smdaemon.cli.main import main
from smdaemon.jobs.journal import Journal
from smdaemon.publish import local

_remove_versions = Journal.remove_versions
_remove_tree = local.remove_tree


def hold(tell: int, go: int, where: str) -> None:
    """Make removals hang there."""

    def wait() -> None:
        os.write(tell, b".")
        select.select([go], [], [])

    def held_note(self: Journal, *arguments: object) -> None:
        wait()
        _remove_versions(self, *arguments)  # type: ignore[arg-type]

    def held_delete(path: Path) -> None:
        if "-removed-" in path.name:
            wait()
        _remove_tree(path)

    if where == "note":
        Journal.remove_versions = held_note  # type: ignore[method-assign]
    else:
        local.remove_tree = held_delete


if __name__ == "__main__":
    hold(int(sys.argv[1]), int(sys.argv[2]), os.environ["HELD_AT"])
    main(sys.argv[3:])
