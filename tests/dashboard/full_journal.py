"""A daemon with a past: many models, and thousands of jobs that its journal knows, written into it directly."""

import time
from contextlib import closing
from pathlib import Path

import numpy as np

from smdaemon.jobs.job import JobError, NewJob
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import Event

_HOUR_SECONDS = 3600.0
_BYTES = 420_000_000
_ERROR = JobError("source-truncated", "'ckpt' ends after 12 of 4096 bytes", "write the source again")


def write_models(root: Path, models: list[str], *, daemon: str = "", model: str = "") -> Path:
    """A configuration with these models, each with a watched directory of its own; further lines for the tables."""
    tables = []
    for name in models:
        (root / "runs" / name).mkdir(parents=True, exist_ok=True)
        tables.append(f'[[model]]\nname = "{name}"\nwatch = "runs/{name}"\npublish = "models/{name}"\n{model}\n')
    (root / "models").mkdir(exist_ok=True)
    path = root / "config.toml"
    head = '[daemon]\nstate_dir = "state"\ncontrol_socket = "control.sock"\nhost_memory = "256MiB"\n'
    path.write_text(f"{head}{daemon}\n{''.join(tables)}")
    return path


def fill_journal(root: Path, models: list[str], *, ended: int, queued: int, hours: float = 24) -> None:
    """So many jobs that have ended in the last hours, of each model in turn, one in nine failed; then so many that wait in the queue.

    Those that wait have a sound source: the daemon will export them when their turn comes.
    """
    (root / "state").mkdir(mode=0o700, exist_ok=True)
    source = root / "runs" / "weights.npz"
    np.savez(source, w=np.ones((4, 4), np.float32))
    now = time.time()
    with closing(Journal(root / "state" / "journal.sqlite")) as journal:
        journal._connection.pragma("synchronous", "off")  # nobody needs these rows after a power failure
        for number in range(ended):
            at = now - hours * _HOUR_SECONDS * (1 - number / ended)
            _end(journal, models[number % len(models)], number, at, failed=number % 9 == 4)
        for number in range(queued):
            model = models[number % len(models)]
            drop = root / "runs" / model / f"ckpt-{ended + number}.npz"
            drop.hardlink_to(source)
            journal.accept(_job(model, ended + number, str(drop)), now)


def _job(model: str, number: int, source: str) -> NewJob:
    return NewJob(
        model=model, origin="drop", source=source, identity=f"made {number}", order=number, version=number, format="npz"
    )


def _end(journal: Journal, model: str, number: int, at: float, *, failed: bool) -> None:
    accepted, _ = journal.accept(_job(model, number, f"/runs/{model}/ckpt-{number}.npz"), at - 4)
    job = accepted.job.id
    journal.move(job, Event.STAGE, at - 3, attempts=1)
    if failed:
        journal.move(job, Event.FAIL, at - 2, reason=_ERROR.message, error=_ERROR)
        return
    journal.move(job, Event.WRITE, at - 2, version=number, tensors=148, bytes_total=_BYTES)
    journal.move(job, Event.VERIFY, at - 1)
    journal.move(job, Event.COMMIT, at - 0.5)
    journal.move(job, Event.PUBLISH, at, export_dir=f"/models/{model}/{number}")
