"""`smdaemon jobs`, `show`, `cancel` and `retry`: what the daemon's journal says about exports."""

from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter

from smdaemon.cli import output
from smdaemon.cli.client import Client, RemoteError
from smdaemon.cli.options import AsJson, JobId, Socket
from smdaemon.errors import ConfigError
from smdaemon.jobs.states import State


def jobs(
    *,
    model: Annotated[str | None, Parameter(help="Only jobs of this model.")] = None,
    state: Annotated[str | None, Parameter(help="Only jobs in this state, such as failed.")] = None,
    before: Annotated[int | None, Parameter(help="Only jobs older than this number: the next page.")] = None,
    limit: Annotated[int, Parameter(help="How many, 1 to 1000.")] = 20,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """List jobs, newest first."""
    answer = Client(socket).get("/v1/jobs", model=model, state=state, before=before, limit=limit)
    if as_json:
        output.print_json(answer)
        return
    if not answer["jobs"]:
        print("no jobs")
        return
    console = output.console()
    console.print(job_table(answer["jobs"], datetime.now(UTC)))
    if answer["next_before"]:
        console.print(f"older ones: smdaemon jobs --before {answer['next_before']}")


def job_table(rows: list[dict[str, Any]], now: datetime) -> Any:
    """Jobs as a table for the terminal."""
    return output.table(
        [">job", "model", "state", ">version", ">tensors", "progress", ">age", "what"],
        [
            (
                job["id"],
                job["model"],
                job["state"],
                job.get("version", "-"),
                job["tensors"] or "-",
                output.progress(job),
                output.age(job.get("created_at"), now),
                explanation(job),
            )
            for job in rows
        ],
    )


def explanation(job: dict[str, Any]) -> str:
    """What is to be known of a job beside its state: its error, why it waits, or what it made."""
    if "error" in job and job["state"] in {State.FAILED, State.WAITING}:  # elsewhere it is that of an earlier attempt
        return f"{job['error']['message']} ({job['error']['code']})"
    return str(job["reason"] or job["export_dir"] or job["source"])


def show(job: JobId, /, *, as_json: AsJson = False, socket: Socket = None) -> None:
    """Show one job with its history, its error and the remedy."""
    answer = Client(socket).get(f"/v1/jobs/{job}")
    if as_json:
        output.print_json(answer)
        return
    console = output.console()
    console.print(output.pairs(_facts(answer)))
    if answer["validator_output"]:
        console.print()
        console.print("the validator said")
        for line in answer["validator_output"].splitlines():
            print(f"  {output.visible(line.expandtabs())}")
    if answer["history"]:
        console.print()
        console.print(_history(answer["history"]))


def _facts(job: dict[str, Any]) -> list[tuple[str, object]]:
    error = job.get("error", {})
    facts: list[tuple[str, object]] = [
        ("job", job["id"]),
        ("model", job["model"]),
        ("state", job["state"]),
        ("reason", job["reason"]),
        ("error", f"{error['message']} ({error['code']})" if error else ""),
        ("remedy", error.get("remedy", "")),
        ("retry at", output.clock(job["retry_at"]) if "retry_at" in job else ""),
        ("source", job["source"]),
        ("format", job["format"]),
        ("asked by", job["origin"]),
        ("restores", job.get("restores", "")),
        ("version", job.get("version", "")),
        ("published", job["export_dir"]),
        ("tensors", job["tensors"] or ""),
        ("progress", output.progress(job) if job["bytes_total"] else ""),
        ("attempts", job["attempts"]),
        ("created", output.clock(job.get("created_at"))),
        ("updated", output.clock(job.get("updated_at"))),
    ]
    return [(name, value) for name, value in facts if value != ""]


def _history(history: list[dict[str, Any]]) -> Any:
    rows = []
    before: datetime | None = None
    for move in history:
        at = output.parse_time(move["at"])
        took = "" if before is None else f"+{output.human_seconds((at - before).total_seconds())}"
        rows.append((output.clock(move["at"]), took, move["state"], move["reason"]))
        before = at
    return output.table(["at", ">after", "state", "reason"], rows)


def cancel(job: JobId, /, *, as_json: AsJson = False, socket: Socket = None) -> None:
    """Cancel an open job; its source is left untouched."""
    _act(job, "cancel", as_json=as_json, socket=socket)


def retry(
    *job: JobId,
    failed: Annotated[bool, Parameter(negative="", help="All failed jobs, in place of some by their numbers.")] = False,
    model: Annotated[str | None, Parameter(help="With --failed: only those of this model.")] = None,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Run failed or cancelled jobs again."""
    if bool(job) is failed or (model and not failed):
        raise ConfigError("usage", "name jobs, or give --failed, with or without --model")
    for each in job or _failed(Client(socket), model):
        try:
            _act(each, "retry", as_json=as_json, socket=socket)
        except RemoteError as error:
            if job or error.code != "job-not-retryable":  # of all that failed: somebody was faster
                raise


def _failed(client: Client, model: str | None) -> list[int]:
    """The failed jobs, oldest first, as they came."""
    found: list[int] = []
    before = None
    while before != 0:
        answer = client.get("/v1/jobs", state="failed", model=model, before=before, limit=1000)
        found += [job["id"] for job in answer["jobs"]]
        before = answer["next_before"]
    return sorted(found)


def _act(job: int, action: str, *, as_json: bool, socket: str | None) -> None:
    answer = Client(socket).post(f"/v1/jobs/{job}/{action}")
    if as_json:
        output.print_json(answer)
    else:
        print(f"job {answer['id']}: {output.visible(answer['state'])}")
