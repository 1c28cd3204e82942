"""`smdaemon versions`, `pin`, `unpin`, `prune` and `rollback`: what there is of a model, what stays, and the way back."""

from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter

from smdaemon.cli import output
from smdaemon.cli.client import Client, RemoteError
from smdaemon.cli.options import AsJson, Socket
from smdaemon.errors import ConfigError
from smdaemon.jobs.states import TERMINAL

Model = Annotated[str, Parameter(help="The model's name.")]
Number = Annotated[int, Parameter(help="The version's number, as `smdaemon versions` lists it.")]

Json = dict[str, Any]


def versions(model: Model, /, *, as_json: AsJson = False, socket: Socket = None) -> None:
    """List the published versions of a model, newest first, and why each stays."""
    answer = Client(socket).get(_path(model, "versions"))
    if as_json:
        output.print_json(answer)
    elif answer["versions"]:
        output.console().print(_table(answer["versions"], datetime.now(UTC)))
    else:
        print("no versions")


def pin(model: Model, version: Number, /, *, as_json: AsJson = False, socket: Socket = None) -> None:
    """Keep a version, whatever the rules of retention say."""
    _pin(model, version, "pin", as_json=as_json, socket=socket)


def unpin(model: Model, version: Number, /, *, as_json: AsJson = False, socket: Socket = None) -> None:
    """Leave a pinned version to the rules of retention again."""
    _pin(model, version, "unpin", as_json=as_json, socket=socket)


def _pin(model: str, version: int, action: str, *, as_json: bool, socket: str | None) -> None:
    answer = Client(socket).post(_path(model, action), {"version": version})
    if as_json:
        output.print_json(answer)
        return
    stays = ", ".join(answer["kept_by"])
    print(f"version {answer['version']}: {output.visible(stays) or 'no rule keeps it; the next commit removes it'}")


def prune(
    model: Model,
    /,
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Remove nothing, only say what would go.")] = False,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Remove the versions of a model that no rule of retention keeps, and say why the others stay."""
    answer = Client(socket).post(_path(model, "prune"), dry_run="true" if dry_run else None)
    if as_json:
        output.print_json(answer)
        return
    gone = ", ".join(map(str, answer["removed"])) or "nothing"
    print(f"{'would remove' if dry_run else 'removed'}: {gone}")
    if answer["kept"]:
        output.console().print(_table(answer["kept"], datetime.now(UTC)))


def rollback(
    model: Model,
    /,
    *,
    to: Annotated[
        int | None, Parameter(help="The version to go back to (default: the newest good one before the newest).")
    ] = None,
    wait: Annotated[bool, Parameter(help="Return when it is published, and not as soon as it is accepted.")] = True,
    as_json: AsJson = False,
    socket: Socket = None,
) -> None:
    """Publish an older version of a model once more, as its newest."""
    client = Client(socket)
    job = client.post(_path(model, "rollback"), {} if to is None else {"to": to})
    if wait:
        job = _ended(client, job)
    if as_json:
        output.print_json(job)
    elif job["state"] == "published":
        print(f"version {job['restores']} is published once more as version {job['version']} (job {job['id']})")
    else:
        print(f"job {job['id']}: {output.visible(job['state'])}, publishes version {job['restores']} once more")
    if job["state"] == "failed":
        error = job["error"]
        raise RemoteError(error["code"], error["message"], remedy=error["remedy"])
    if wait and job["state"] != "published":
        told = f"job {job['id']} was {job['state']}: version {job['restores']} is not published once more"
        raise ConfigError("job-cancelled", told)


def _ended(client: Client, job: Json) -> Json:
    """The job once it has ended; it is looked at after each of its moves."""
    path = f"/v1/jobs/{job['id']}"
    job = client.get(path)
    seen = job["history"][-1]["seq"]
    while job["state"] not in TERMINAL:
        for event in client.events(after=seen):
            seen = event.seq or seen
            if event.data["job"]["id"] == job["id"] and event.data["job"]["state"] in TERMINAL:
                break
        job = client.get(path)
    return job


def _path(model: str, action: str) -> str:
    if "/" in model or model in {"", ".", ".."}:
        raise ConfigError("request-model-unknown", f"no model is called {model!r}")
    return f"/v1/models/{model}/{action}"


def _table(rows: list[Json], now: datetime) -> Any:
    return output.table(
        [">version", ">age", "metrics", "copy of", "what lies there", "stays by"],
        [
            (
                version["version"],
                output.age(version.get("published_at"), now),
                ", ".join(f"{name} {value:.6g}" for name, value in version["metrics"].items()) or "-",
                version.get("restores", "-"),
                version["state"] + (", not good" if "withdrawn_at" in version else ""),
                ", ".join(version["kept_by"]) or "nothing: the next commit removes it",
            )
            for version in rows
        ],
    )
