"""The picture of `smdaemon top`: what is known of the daemon, on as many columns and lines as there are. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from smdaemon.cli import output
from smdaemon.cli.client import Json
from smdaemon.cli.follow import Known
from smdaemon.cli.status import all_errors, counts, handoff_facts
from smdaemon.jobs.states import ACTIVE, PENDING, TERMINAL

_SPARKS = "▁▂▃▄▅▆▇█"
_LABEL_COLUMNS = 14
_PROBLEMS_SHOWN = 3
_BAR_COLUMNS = 16
_TITLE_COLUMNS = 80
_LOW_LINES = 20
"""On fewer lines there are no meters: models and queue are what one looks for."""

Column = tuple[int, str, Callable[[Json], Any]]
"""How wide the terminal is at least where it is shown, its name, and its cell."""


@dataclass(frozen=True)
class View:
    """What the person has chosen: the first model that is shown, and which models at all."""

    first: int = 0
    words: str = ""
    typing: bool = False

    def pressed(self, key: str, rows: int) -> "View":
        """The view after a key; `rows` is how many models are shown at once."""
        if self.typing:
            return self._typed(key)
        steps = {"up": -1, "down": 1, "page up": -rows, "page down": rows, "home": -self.first, "end": 1 << 30}
        if key in steps:
            return replace(self, first=max(0, self.first + steps[key]))
        return replace(self, typing=True, words="", first=0) if key == "/" else self

    def _typed(self, key: str) -> "View":
        if key == "enter":
            return replace(self, typing=False)
        if key == "backspace":
            return replace(self, words=self.words[:-1], typing=bool(self.words))
        return replace(self, words=self.words + key) if len(key) == 1 else self


@dataclass(frozen=True)
class Picture:
    """What is drawn, the view with its first model where there is one, and how many models are seen."""

    page: RenderableType
    view: View
    rows: int


def picture(known: Known, view: View, now: datetime, columns: int, lines: int) -> Picture:
    """The daemon at a glance; every part of it is one line high, and the parts together are `lines` at most."""
    if known.status is None:
        told = output.error_line(known.away) if known.away else "asking the daemon"
        return Picture(Group(Text(told), Text("q quits", style="dim")), view, 0)
    status = known.status
    meters = _meters(known, columns) if lines >= _LOW_LINES else []
    head: list[RenderableType] = [
        _title(known, now, columns),
        *meters,
        Text(counts(status["jobs"]) or "no jobs", style="dim"),
    ]
    wrong = [Text(line, style="red") for line in all_errors(status)[: _PROBLEMS_SHOWN if meters else 1]]
    models = [model for model in status["models"] if view.words.lower() in model["name"].lower()]
    queue = known.queue() + sorted(known.failed_jobs.values(), key=lambda job: -job["id"])
    open_jobs = sum(count for state, count in status["jobs"].items() if state not in TERMINAL)
    room = max(0, lines - len(head) - len(wrong) - 5)
    rows = max(min(len(models), room // 2), min(len(models), room - len(queue)), min(1, room))
    first = min(view.first, max(0, len(models) - rows))
    seen = queue[: max(0, room - rows)]
    parts: list[RenderableType] = [
        *head,
        *wrong,
        _heading("models", first, rows, len(models), view),
        _models(models[first : first + rows], now, columns),
        _heading("queue", 0, len(seen), max(len(queue), open_jobs + len(known.failed_jobs))),
        _jobs(seen, now, columns),
    ]
    parts.append(Text("q quit   / filter   arrows, PgUp, PgDn, Home, End: models", style="dim"))
    return Picture(Group(*(_one_line(part) for part in parts)), replace(view, first=first), rows)


def _one_line(part: RenderableType) -> RenderableType:
    if isinstance(part, Text):
        part.no_wrap, part.overflow = True, "ellipsis"
    return part


def _title(known: Known, now: datetime, columns: int) -> Table:
    status = known.status or {}
    ill = sum(model["health"] != "ok" for model in status["models"])
    errors = len(all_errors(status))
    if "config_error" in status:
        health = Text(f"reload refused: {output.visible(status['config_error']['code'])}", "bold red")
    elif ill:
        health = Text(f"{ill} of {len(status['models'])} models degraded", "bold red")
    elif errors:
        health = Text(output.counted(errors, "error"), "bold red")
    else:
        health = Text("all well", "green")
    link = Text("live", "green")
    if known.away is not None:
        link = Text(f"away, trying again: {output.visible(known.away.message)}", "bold red")
    up = f", {status['phase']}, up {output.age(status.get('started_at'), now)}" if columns >= _TITLE_COLUMNS else ""
    name = Text(f"smdaemon {status['version']}{up}", "bold")
    line = Table.grid(expand=True, padding=(0, 2))
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(no_wrap=True, overflow="ellipsis", justify="right", ratio=1)
    line.add_row(name, health, link)
    return line


def _meters(known: Known, columns: int) -> list[Table]:
    """A line for each thing that may run out, and one for what is written."""
    status = known.status or {}
    width = max(8, min(40, columns - 60))
    used, limit = status["host_memory_used_bytes"], status["host_memory_bytes"]
    memory = f"{output.human_bytes(used)} of {output.human_bytes(limit)}"
    busy = f"{status['workers_busy']} of {status['workers']} busy"
    meters = [
        _meter("workers", _bar(status["workers_busy"], status["workers"], width), busy),
        _meter("host memory", _bar(used, limit, width), memory),
    ]
    if "handoff" in status:
        handoff = status["handoff"]
        bar = _bar(handoff["memory_used_bytes"], handoff["memory_bytes"], width)
        meters.append(_meter("handoff", bar, handoff_facts(handoff)))
    speeds = [sample["bytes_per_second"] for sample in known.samples]
    now = sum(job["bytes_per_second"] for job in known.open_jobs.values())
    meters.append(_meter("written", Text(sparkline(speeds, width), "cyan"), f"{output.human_bytes(now)}/s"))
    return meters


def _meter(label: str, drawn: RenderableType, words: str) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_column(width=_LABEL_COLUMNS, no_wrap=True)
    line.add_column()
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_row(label, drawn, output.visible(words))
    return line


def _bar(part: float, whole: float, width: int) -> ProgressBar:
    return ProgressBar(total=max(whole, 1), completed=min(part, whole), width=width, finished_style="bar.complete")


def sparkline(values: Sequence[float], columns: int) -> str:
    """The last values as a row of blocks, the highest of them a full one; as wide as it is told."""
    shown = values[-columns:]
    highest = max(shown, default=0)
    drawn = "".join(
        _SPARKS[round(value / highest * (len(_SPARKS) - 1))] if highest > 0 else _SPARKS[0] for value in shown
    )
    return drawn.rjust(columns)


def _heading(what: str, first: int, shown: int, there: int, view: View | None = None) -> Text:
    text = Text(what, "bold")
    if shown < there:
        text.append(f" {first + 1} to {first + shown} of {there}" if shown else f", {there} of them", "dim")
    if view is not None and (view.typing or view.words):
        text.append(f"  /{output.visible(view.words)}{'_' if view.typing else ''}", "yellow")
    return text


def _models(models: Iterable[Json], now: datetime, columns: int) -> Table:
    cells: list[Column] = [
        (0, "model", lambda model: model["name"]),
        (0, ">version", lambda model: model.get("newest_version", "-")),
        (0, ">age", lambda model: output.age(model.get("newest_at"), now)),
        (70, ">size", lambda model: output.human_bytes(model["newest_bytes"]) if model["newest_bytes"] else "-"),
        (0, "health", lambda model: model["health"]),
        (80, ">runs", lambda model: _sum(model, ACTIVE) or "-"),
        (50, ">waits", lambda model: _sum(model, PENDING) or "-"),
        (50, ">failed", lambda model: model["jobs"].get("failed") or "-"),
        (100, ">free", lambda model: output.human_bytes(model["disk_free_bytes"]) if model["disk_bytes"] else "-"),
    ]
    return _table(cells, models, columns)


def _sum(model: Json, states: Iterable[str]) -> int:
    return sum(model["jobs"].get(state, 0) for state in states)


def _jobs(jobs: Iterable[Json], now: datetime, columns: int) -> Table:
    cells: list[Column] = [
        (0, ">job", lambda job: job["id"]),
        (0, "model", lambda job: job["model"]),
        (50, ">version", lambda job: job.get("version", "-")),
        (0, "state", lambda job: job["state"]),
        (60, "progress", _progress),
        (
            80,
            ">speed",
            lambda job: f"{output.human_bytes(job['bytes_per_second'])}/s" if job["bytes_per_second"] else "-",
        ),
        (70, ">left", time_left),
        (100, ">since", lambda job: output.age(job.get("updated_at"), now)),
        (100, "what", _what),
    ]
    return _table(cells, jobs, columns)


def _table(cells: Sequence[Column], rows: Iterable[Json], columns: int) -> Table:
    """A row a line; with the cells for which there is room."""
    shown = [(name, cell) for least, name, cell in cells if columns >= least]
    return output.table([name for name, _ in shown], [[cell(row) for _, cell in shown] for row in rows], one_line=True)


def _what(job: Json) -> str:
    """What is to be known of a job in few words: its error's code first, or why it waits, or which drop it is."""
    if "error" in job:
        return f"{job['error']['code']}: {job['error']['message']}"
    return str(job["reason"] or job["source"].rstrip("/").rpartition("/")[2])


def _progress(job: Json) -> Any:
    if job["state"] == "writing" and job["bytes_total"]:
        return _bar(job["bytes_done"], job["bytes_total"], _BAR_COLUMNS)
    return output.human_bytes(job["bytes_total"]) if job["bytes_total"] else "-"


def time_left(job: Json) -> str:
    """How long what is written will still take, as far as that can be told."""
    left = job["bytes_total"] - job["bytes_done"]
    if job["state"] != "writing" or job["bytes_per_second"] <= 0 or left <= 0:
        return "-"
    return output.human_seconds(left / job["bytes_per_second"])
