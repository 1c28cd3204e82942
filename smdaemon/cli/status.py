"""`smdaemon status`: the daemon, its models and what runs, as a page, as JSON, or told again with every change."""

import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smdaemon.cli import output
from smdaemon.cli.client import Client
from smdaemon.cli.jobs import job_table
from smdaemon.cli.options import AsJson, Socket
from smdaemon.errors import SmdaemonError
from smdaemon.jobs.states import ACTIVE

if TYPE_CHECKING:
    from rich.console import RenderableType

_FAILURES_SHOWN = 3
# Between two pictures: at most, for bytes that move without an event, and at least, for bursts of events.
_REDRAW_SECONDS = 1.0
_PAUSE_SECONDS = 0.1

Json = dict[str, Any]


def status(
    *,
    as_json: AsJson = False,
    watch: Annotated[
        bool,
        Parameter(
            negative="", help="Tell it again with every change until Ctrl-C; on a terminal this is smdaemon top."
        ),
    ] = False,
    socket: Socket = None,
) -> None:
    """Show the daemon, its models and what runs."""
    client = Client(socket)
    if watch and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        from smdaemon.cli.top import top

        top(socket=socket)
    elif watch:
        _watch(client, as_json=as_json)
    elif as_json:
        output.print_json(client.get("/v1/status"))
    else:
        output.console().print(page(*snapshot(client), datetime.now(UTC)))


def snapshot(client: Client) -> tuple[Json, list[Json], list[Json]]:
    """The status, the jobs that run, and the newest failed ones."""
    answer = client.get("/v1/status")
    running = [job for job in client.get("/v1/queue", limit=100)["jobs"] if job["state"] in ACTIVE]
    failed: list[Json] = []
    if answer["jobs"].get("failed"):
        failed = client.get("/v1/jobs", state="failed", limit=_FAILURES_SHOWN)["jobs"]
    return answer, running, failed


def page(answer: Json, running: list[Json], failed: list[Json], now: datetime) -> "RenderableType":
    """The page for people."""
    from rich.console import Group

    parts: list[Any] = [output.pairs(_daemon_facts(answer, now))]
    if answer["models"]:
        parts += ["", _model_table(answer["models"], now), *model_errors(answer["models"])]
    if notifiers := answer.get("notifiers"):
        parts += ["", _notifier_table(notifiers, now), *_errors(notifiers, "error")]
    if running:
        parts += ["", "running", job_table(running, now)]
    if failed:
        parts += ["", "failed", job_table(failed, now), "smdaemon show JOB says what to do"]
    return Group(*parts)


def _daemon_facts(answer: Json, now: datetime) -> list[tuple[str, object]]:
    used, limit = answer["host_memory_used_bytes"], answer["host_memory_bytes"]
    facts: list[tuple[str, object]] = [
        ("smdaemon", f"{answer['version']}, {answer['phase']}, pid {answer['pid']}"),
        ("up", output.age(answer.get("started_at"), now)),
        ("config", answer["config_file"]),
        ("jobs", counts(answer["jobs"]) or "none"),
        ("workers", f"{answer['workers_busy']} of {answer['workers']} busy"),
        ("host memory", f"{output.human_bytes(used)} of {output.human_bytes(limit)}"),
    ]
    if "handoff" in answer:
        facts.append(("handoff", handoff_facts(answer["handoff"])))
    if "serving" in answer:
        facts.append(("serving config", _serving(answer["serving"])))
    if "config_error" in answer:
        error = answer["config_error"]
        facts.insert(3, ("reload refused", f"{error['message']} ({error['code']}); {error['remedy']}"))
    return facts


def handoff_facts(handoff: Json) -> str:
    """What trainers hand over, in words."""
    used, limit = handoff["memory_used_bytes"], handoff["memory_bytes"]
    told = f"{handoff['trainers']} trainers, {output.human_bytes(used)} of {output.human_bytes(limit)}"
    if handoff["saves"]:
        told += f", {handoff['saves']} saves, {handoff['skipped']} skipped, last stall {handoff['last_stall_seconds'] * 1e3:.1f} ms"
    return told


def _serving(serving: Json) -> str:
    told = str(serving["config_file"])
    if error := serving.get("error"):
        told += f": {error['message']} ({error['code']}); {error['remedy']}"
    return told


def counts(jobs: dict[str, int]) -> str:
    """How many jobs are in which state, in words."""
    return ", ".join(f"{count} {state}" for state, count in jobs.items() if count)


def _model_table(models: list[Json], now: datetime) -> "RenderableType":
    rows = [
        (
            model["name"],
            model.get("newest_version", "-"),
            output.age(model.get("newest_at"), now),
            model["health"],
            model["watch_method"] or "-",
            counts(model["jobs"]) or "-",
            model["publish"],
        )
        for model in models
    ]
    return output.table(["model", ">version", ">age", "health", "watched by", "jobs", "publishes to"], rows)


def _notifier_table(notifiers: list[Json], now: datetime) -> "RenderableType":
    rows = [
        (
            notifier["name"],
            notifier["kind"],
            notifier["delivered"],
            notifier["failed"],
            notifier["given_up"],
            output.age(notifier.get("behind_since"), now),
        )
        for notifier in notifiers
    ]
    return output.table(["notifier", "kind", ">delivered", ">failed", ">given up", ">behind"], rows)


def model_errors(models: list[Json]) -> list[str]:
    """A line for each error of a model, its watch's or its retention's."""
    return _errors(models, "error", "retention_error")


def all_errors(status: Json) -> list[str]:
    """A line for each error of a model, of a notifier, and of TensorFlow Serving's file."""
    lines = [*model_errors(status["models"]), *_errors(status.get("notifiers", []), "error")]
    serving = status.get("serving", {})
    return [*lines, output.visible(f"serving config: {_serving(serving)}")] if "error" in serving else lines


def _errors(told: list[Json], *kinds: str) -> list[str]:
    """A line for each error: too long for a column."""
    return [
        output.visible(f"{each['name']}: {error['message']} ({error['code']}); {error['remedy']}")
        for each in told
        for kind in kinds
        if (error := each.get(kind))
    ]


def _watch(client: Client, *, as_json: bool) -> None:
    """Draw until Ctrl-C; while the daemon is away, say so and go on."""
    changed = threading.Event()
    threading.Thread(target=_listen, args=(client, changed), daemon=True).start()
    try:
        if as_json:
            _draw_loop(client, changed, _print_json_line)
        else:
            _draw_loop(client, changed, lambda client: output.console().print(_picture(client), ""))
    except KeyboardInterrupt:
        return


def _draw_loop(client: Client, changed: threading.Event, draw: Callable[[Client], None]) -> None:
    while True:
        changed.clear()
        draw(client)
        time.sleep(_PAUSE_SECONDS)
        changed.wait(_REDRAW_SECONDS)


def _picture(client: Client) -> "RenderableType":
    try:
        return page(*snapshot(client), datetime.now(UTC))
    except SmdaemonError as error:
        return output.error_line(error)


def _print_json_line(client: Client) -> None:
    """One line for each picture, so that a reader of the pipe can follow."""
    try:
        line: Json = client.get("/v1/status")
    except SmdaemonError as error:
        line = {"error": {"code": error.code, "message": error.message, "remedy": error.remedy}}
    print(json.dumps(line), flush=True)


def _listen(client: Client, changed: threading.Event) -> None:
    """Set `changed` with every event of the daemon; the redraw timer covers the times without a stream."""
    while True:
        try:
            for _ in client.events():
                changed.set()
        except SmdaemonError:
            pass
        time.sleep(_REDRAW_SECONDS)
