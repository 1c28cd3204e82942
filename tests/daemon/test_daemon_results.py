"""Result files and the end of the daemon."""

from daemon_kit import write_config

from smdaemon.config import load_config
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
