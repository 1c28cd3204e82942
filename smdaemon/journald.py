"""Whether what is written goes to systemd's journal, and the priority that a line then begins with, so that `journalctl -p err` finds it."""

import os
from typing import TextIO

# sd-daemon(3): "<N>" before a line; the numbers are those of syslog.
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def is_journal(stream: TextIO) -> bool:
    """Whether `stream` is the one that the service manager connected to the journal; children inherit the variable, not the stream."""
    device, colon, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not colon:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def with_priority(text: str, level: str) -> str:
    """`text` with the priority of `level` before each of its lines."""
    prefix = f"<{_PRIORITIES.get(level, 6)}>"
    return "\n".join(prefix + line for line in text.split("\n"))
