"""Result files and the end of the daemon."""

import itertools
import json
import threading

import trio
from daemon_kit import write_config

from smdaemon.config import load_config
from smdaemon.daemon import results
from smdaemon.daemon.results import ResultWriter
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.states import Event


async def test_a_job_that_ends_in_the_last_moment_has_its_result_at_the_next_start(tmp_path):
    """Nobody writes it any more when the writer is closed; that ends nothing, and the next start makes up for it."""
    (tmp_path / "runs").mkdir()
    config = load_config(write_config(tmp_path))
    result = tmp_path / "runs" / "r.export.result.json"
    new = NewJob(
        model="ranker", origin="request", source="/x.npz", identity="1", order=1.0, version=1, result_path=str(result)
    )
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        job = await ledger.accept(new)
        ResultWriter(ledger, lambda: config).close()
        await ledger.move(job.id, Event.CANCEL)
    assert not result.exists()
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        writer = ResultWriter(ledger, lambda: config)
        writer.close()
        await writer.run()
    assert result.exists()


async def ended_request(ledger, folder, name="r", identity="1", event=Event.CANCEL):
    """The job of a request, ended."""
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / f"{name}.export.result.json")
    new = NewJob(model="ranker", origin="request", source=path, identity=identity, order=1.0, result_path=path)
    job = await ledger.accept(new)
    await ledger.move(job.id, event)
    return job.id


def told(folder, name="r"):
    """Job and state that a result file tells."""
    said = json.loads((folder / f"{name}.export.result.json").read_text())
    return said["job"], said["state"]


async def test_a_start_brings_results_up_to_date(tmp_path):
    """A request that was asked again, or a job that was retried, and killed before its result: the file says what ended last."""
    runs = tmp_path / "runs"
    config = load_config(write_config(tmp_path))
    async with open_ledger(tmp_path / "journal.sqlite", itertools.count(1.0).__next__) as ledger:
        first = await ended_request(ledger, runs)
        again = await ended_request(ledger, runs, "again")
        writer = ResultWriter(ledger, lambda: config)
        writer.close()
        await writer.run()
        assert (told(runs), told(runs, "again")) == ((first, "cancelled"), (again, "cancelled"))
        second = await ended_request(ledger, runs, identity="2", event=Event.FAIL)
        await ledger.move(again, Event.RETRY)
        await ledger.move(again, Event.FAIL)
        writer = ResultWriter(ledger, lambda: config)
        writer.close()
        await writer.run()
    assert (told(runs), told(runs, "again")) == ((second, "failed"), (again, "failed"))


async def test_a_directory_that_hangs_holds_up_its_own_results_only(tmp_path, monkeypatch):
    """The others are written; nor does it hold up whoever gives up waiting."""
    answers = threading.Event()
    real = results.write_result

    def write(job, root):
        if "slow" in job.result_path:
            answers.wait(60)
        real(job, root)

    monkeypatch.setattr(results, "write_result", write)
    config = load_config(write_config(tmp_path))
    async with open_ledger(tmp_path / "journal.sqlite") as ledger, trio.open_nursery() as nursery:
        writer = ResultWriter(ledger, lambda: config)
        nursery.start_soon(writer.run)
        await ended_request(ledger, tmp_path / "runs/slow")
        await ended_request(ledger, tmp_path / "runs")
        while not (tmp_path / "runs/r.export.result.json").exists():
            await trio.lowlevel.checkpoint()
        writer.close()
        nursery.cancel_scope.cancel()
    assert not (tmp_path / "runs/slow/r.export.result.json").exists()
    answers.set()
