"""What commands share when they print: one-line errors, sizes and times for people, tables; nothing raw reaches the terminal."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from smdaemon import printable
from smdaemon.errors import SmdaemonError
from smdaemon.journald import is_journal, with_priority

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


def visible(text: object) -> str:
    """`text` with every character that could command the terminal, or hide, written as an escape."""
    return printable.visible(str(text))


def error_line(error: SmdaemonError) -> str:
    """'error: MESSAGE (CODE); REMEDY'."""
    return f"error: {visible(error.message)} ({visible(error.code)}); {visible(error.remedy)}"


def print_error(error: SmdaemonError) -> None:
    """The error on one line of stderr."""
    line = error_line(error)
    print(with_priority(line, "error") if is_journal(sys.stderr) else line, file=sys.stderr)


def print_json(data: Any) -> None:
    """`data` as indented ASCII JSON on stdout: safe on any terminal."""
    print(json.dumps(data, indent=2))


def counted(count: int, what: str) -> str:
    """1, 'tensor' -> '1 tensor'; 2 -> '2 tensors'."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def human_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        count /= 1024
        if count < 1023.95 or unit == "PiB":
            break
    return f"{count:.1f} {unit}"


def human_seconds(seconds: float) -> str:
    """A duration with its two largest units: 0.012 -> '12 ms', 3725 -> '1h 2m'."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{smaller_unit}"
    return f"{whole} s"


def parse_time(text: str) -> datetime:
    """An RFC 3339 time of the daemon, to the microsecond."""
    head, dot, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{head}{dot}{fraction[:6]}").replace(tzinfo=UTC)


def age(text: str | None, now: datetime) -> str:
    """How long ago the time `text` was, '-' where there is none."""
    return "-" if not text else human_seconds((now - parse_time(text)).total_seconds())


def clock(text: str | None) -> str:
    """The time `text` in local time, to the second, '-' where there is none."""
    return "-" if not text else parse_time(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def progress(job: dict[str, Any]) -> str:
    """A job's bytes done of total, with its speed: '50% of 2.0 GiB, 1.1 GiB/s'. What is written besides the tensors is done, too, and in no total."""
    done, total, speed = int(job["bytes_done"]), int(job["bytes_total"]), float(job["bytes_per_second"])
    if not total:
        return "-"
    text = f"{min(100, 100 * done // total)}% of {human_bytes(total)}"
    return f"{text}, {human_bytes(speed)}/s" if speed > 0 else text


def console() -> "Console":
    """A console on stdout that neither reads markup in names nor folds lines that go to a file or a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, one_line: bool = False) -> "Table":
    """A plain table; a column whose name starts with '>' is set to the right.

    Cells are made visible, what rich can draw by itself stays. They are folded, never cut, unless each row is to take one line.
    """
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(
            Text(name.removeprefix(">")),
            justify="right" if name.startswith(">") else "left",
            overflow="ellipsis" if one_line else "fold",
            no_wrap=one_line and name != columns[-1],  # the last column gives way first
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, ProgressBar) else _text(cell, one_line=one_line) for cell in row))
    return made


def _text(cell: object, *, one_line: bool = False) -> "Text":
    from rich.text import Text

    return Text(visible(cell), style=_STYLES.get(str(cell), ""), no_wrap=one_line or None)


def pairs(rows: Iterable[tuple[str, object]]) -> "RenderableType":
    """Names and values in two columns."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        made.add_row(Text(name, style="bold"), _text(value))
    return made


_STYLES = {"ok": "green", "published": "green", "degraded": "red", "failed": "red", "waiting": "yellow"}
