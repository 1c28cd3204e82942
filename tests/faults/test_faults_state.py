"""Faults in the state directory, as the daemon meets them: while it starts, and while it takes drops and publishes."""

import errno
import itertools
import json
from pathlib import Path

import pytest
from drops_kit import FORMATS
from faults_kit import TALLY, Case, configure, drafts_of, versions_of, working

from smdaemon.errors import SmdaemonError
from smdaemon.jobs.states import State

pytestmark = pytest.mark.root

OPERATIONS = (
    *("open", "create", "mkdir", "opendir", "read", "write", "fsync", "fsyncdir"),
    *("setattr", "rename", "unlink", "getattr", "lookup"),
)
FAULTS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
CODES = {"io-error", "disk-full", "quota-exceeded", "read-only", "permission-denied", "journal-corrupt"}


class Place:
    """A state directory on the faulty disk; what is watched and where is published lie beside it."""

    def __init__(self, root: Path, disk: Path) -> None:
        self.root = root
        self.runs, self.models = root / "runs", root / "models"
        root.mkdir()
        self.runs.mkdir()
        lines = 'on_backlog = "latest"\nquiet_seconds = 0\nwatch_method = "poll"\npoll_seconds = 3600'
        self.config = configure(root, state=disk / "state", models={"ranker": (self.runs, self.models)}, lines=lines)

    def drop(self, *steps: int) -> None:
        """Finished outputs of these steps."""
        for step in steps:
            FORMATS["npz"](self.root / f"ckpt-{step}").rename(self.runs / f"ckpt-{step}.npz")


def codes_of(group: BaseExceptionGroup) -> set[str]:
    """The codes in a group, which must hold nothing that has none."""
    foreseen, others = group.split(SmdaemonError)
    assert others is None, others
    return {
        code
        for error in foreseen.exceptions
        for code in (codes_of(error) if isinstance(error, BaseExceptionGroup) else {error.code})
    }


def cases(counts: dict[str, int]) -> list[Case]:
    """Every fault at every operation."""
    operations = [(kind, nth) for kind in OPERATIONS for nth in range(1, counts.get(kind, 0) + 1)]
    assert len(operations) > 20
    return [Case(*op, *way) for op, way in itertools.product(operations, itertools.product(FAULTS, (True, False)))]


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
async def test_a_start_that_the_state_directory_refuses_ends_with_a_code(disk, tmp_path, first, everything):
    """It says what is wrong, or goes on without; the next start on a mended disk does all that is owed, once."""
    counts = await _counted_start(disk, Place(tmp_path / "counted", disk.path), first=first)
    for number, case in enumerate(cases(counts)[:: 1 if everything else 97]):
        disk.ask("reset")
        place = Place(tmp_path / str(number), disk.path)
        if not first:
            async with working(place.config):
                pass
        place.drop(1)
        disk.ask("arm", kind=case.kind, nth=case.nth, effect=case.number, lasting=case.lasting, under="state")
        try:
            async with working(place.config, disk) as work:
                await work.published(1)
        except BaseExceptionGroup as group:
            refused = codes_of(group)
        else:
            refused = set()
        disk.ask("clear")
        assert refused <= CODES, (case, refused)
        TALLY["starts that met a fault in the state directory"] += 1
        await _all_done(place, {State.PUBLISHED: 1})


async def _counted_start(disk, place: Place, *, first: bool) -> dict[str, int]:
    if not first:
        async with working(place.config):
            pass
    place.drop(1)
    disk.ask("arm", kind="none", nth=0, effect=0, under="state")
    async with working(place.config) as work:
        await work.published(1)
    return disk.ask("counts")


async def _all_done(place: Place, *states: dict[State, int]) -> None:
    """All jobs are in one of these, no draft is left, and the newest drop is published."""
    async with working(place.config) as work:
        await work.idle()
        assert work.ledger.counts() in states
        assert drafts_of(place.models) == []
        assert "" not in {part for name in place.models.iterdir() for part in name.name.split("/")}
    newest = str(max(int(path.stem.rpartition("-")[2]) for path in place.runs.glob("ckpt-*")))
    assert newest in versions_of(place.models)


async def test_a_running_daemon_goes_on_when_its_journal_can_be_written_again(disk, tmp_path, everything):
    """No drop is lost and none is taken twice; the daemon goes on all the while.

    The newest is published; of the others each is passed over, or published where the journal took it only after the newest was.
    """
    place = Place(tmp_path / "counted", disk.path)
    async with working(place.config) as work:
        disk.ask("arm", kind="none", nth=0, effect=0, under="state")
        await _three_drops(place, work)
    counts = disk.ask("counts")
    for number, case in enumerate(cases(counts)[:: 1 if everything else 31]):
        disk.ask("reset")
        place = Place(tmp_path / str(number), disk.path)
        async with working(place.config) as work:
            disk.ask("arm", kind=case.kind, nth=case.nth, effect=case.number, lasting=case.lasting, under="state")
            await _three_drops(place, work, disk)
        disk.ask("clear")
        TALLY["daemons whose journal met a fault"] += 1
        await _all_done(
            place,
            {State.PUBLISHED: 1, State.SUPERSEDED: 2},
            {State.PUBLISHED: 2, State.SUPERSEDED: 1},
            {State.PUBLISHED: 3},
        )


async def _three_drops(place: Place, work, disk=None) -> None:
    """Drops of which the newest is published and the others are superseded. A broken disk is mended once it was met three times."""
    async with work.mending(disk):
        place.drop(3, 2, 1)
        work.daemon._watches.rescan()
        await work.settled(3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
async def test_nothing_is_accepted_that_the_journal_does_not_hold(disk, tmp_path, number):
    """While the state directory is full a drop is no job, not even in the status; it is one, once, when there is room."""
    place = Place(tmp_path / "root", disk.path)
    async with working(place.config) as work:
        disk.ask("arm", kind="write", nth=1, effect=number, lasting=True, under="state")
        place.drop(1)
        work.daemon._watches.rescan()
        while disk.ask("fired") < 5:
            await work.tick()
            assert (work.ledger.open_jobs, work.ledger.counts(), work.moves) == ({}, {}, [])
        assert not place.models.exists()
        disk.ask("clear")
        await work.published(1)
        assert work.ledger.counts() == {State.PUBLISHED: 1}


async def test_a_result_that_could_not_be_written_is_written_at_the_next_start(disk, tmp_path):
    """The disk of a request is full when its export ends: the version is published, the daemon goes on, the result comes later."""
    runs = disk.path / "runs"
    runs.mkdir()
    models = {"ranker": (runs, tmp_path / "models")}
    lines = 'on_drop = "ignore"\nquiet_seconds = 0\nwatch_method = "poll"\npoll_seconds = 3600'
    config = configure(tmp_path, state=tmp_path / "state", models=models, lines=lines)
    FORMATS["npz"](runs / "ckpt-1")
    (runs / "mine.export.json").write_text('{"source": "ckpt-1.npz"}')
    for kind in ("create", "write", "fsync", "rename"):
        disk.ask("arm", kind=kind, nth=1, effect=errno.ENOSPC, lasting=True, under="runs/.writing-")
        async with working(config) as work:
            await work.published(1)
        assert not (runs / "mine.export.result.json").exists(), kind
        assert disk.ask("clear"), kind
    async with working(config):
        pass
    assert json.loads((runs / "mine.export.result.json").read_text())["state"] == "published"
    assert [path.name for path in runs.iterdir() if path.name.startswith(".")] == []
