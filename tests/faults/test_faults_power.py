"""Power is lost while the daemon works, its journal and its versions on one disk: what was told stays, what is there is whole."""

import numpy as np
import pytest
from disk_model import Kept
from drops_kit import ARRAYS
from faults_kit import TALLY, configure, drafts_of, versions_of, working

from smdaemon.durable import lasting_directory
from smdaemon.jobs.states import State

pytestmark = pytest.mark.root

STEPS = (1, 2, 3)


@pytest.mark.parametrize("rules", ["", "keep_last = 1"], ids=["all stay", "old ones go"])
async def test_versions_outlast_a_power_loss_at_every_operation(disk, tmp_path, everything, rules):
    """Cut behind whichever act: each number is a whole model, what was told is there, and the next start does the rest and sweeps."""
    runs, models, state = tmp_path / "runs", disk.path / "models", disk.path / "state"
    runs.mkdir()
    for folder in (models, state):
        lasting_directory(folder)
    lines = f'on_backlog = "all"\nwatch_method = "poll"\nquiet_seconds = 0.05\npoll_seconds = 0.05\n{rules}'
    config = configure(tmp_path, state=state, models={"ranker": (runs, models)}, lines=lines, daemon='min_free = "0B"')
    disk.ask("begin")
    told: list[tuple[int, int]] = []
    async with working(config) as daemon:
        daemon.ledger.observe(lambda move: _note(move.job, disk, told))
        for step in STEPS:
            np.savez(tmp_path / "writing.npz", **ARRAYS)
            (tmp_path / "writing.npz").rename(runs / f"ckpt-{step}.npz")
            await daemon.settled(step)
    assert [version for _, version in told] == list(STEPS)
    for kept in Kept:
        cuts = disk.ask("cuts", kept=kept)
        assert len(cuts) > 30
        for acts in cuts[:: 1 if everything else 23]:
            disk.ask("cut", acts=acts, kept=kept)
            found = [int(name) for name in versions_of(models)]  # each verified
            promised = [version for position, version in told if position <= acts]
            assert set(promised[-1:] if rules else promised) <= set(found), (kept, acts, found, promised)
            async with working(config) as daemon:
                await daemon.settled(len(STEPS))
                assert not daemon.ledger.counts().get(State.FAILED), (kept, acts, daemon.moves[-1])
            left = [int(name) for name in versions_of(models)]
            assert set(left) >= ({max(STEPS)} if rules else set(STEPS)), (kept, acts, left)
            # what this daemon had hidden when it was stopped goes with the next start
            assert not [name for name in drafts_of(models) if "-removed-" not in name], (kept, acts)
            TALLY["power losses of a whole run"] += 1


def _note(job, disk, told: list[tuple[int, int]]) -> None:
    if job.state is State.PUBLISHED:
        told.append((disk.ask("position"), job.version))
