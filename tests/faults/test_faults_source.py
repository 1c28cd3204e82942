"""Faults where training outputs lie: at each operation by which one is found, accepted and read, in every format."""

import errno
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import trio
from drops_kit import ARRAYS, FORMATS
from faults_kit import ENDS, TALLY, Case, configure, content_of, drafts_of, versions_of, working

from smdaemon.errors import SmdaemonError
from smdaemon.jobs.states import State
from smdaemon.tensorbundle import BundleReader

pytestmark = pytest.mark.root

OPERATIONS = ("open", "opendir", "read", "readdir", "getattr", "lookup")
# What each may be called, and what an export that meets it does.
FAULTS = {
    errno.EIO: ({"io-error"}, State.WAITING),
    errno.ETIMEDOUT: ({"io-error"}, State.WAITING),
    errno.EACCES: ({"permission-denied"}, State.FAILED),
}
# Of the kernel's own looks the first answer decides nothing: it asks again.
HARMLESS = {"getattr", "lookup"}
SILENT = 'on_drop = "ignore"\nwatch_method = "poll"\npoll_seconds = 3600'


class Place:
    """A watched directory on the faulty disk, a publish directory beside it."""

    def __init__(self, root: Path, disk: Path, lines: str) -> None:
        self.runs = disk / "runs"
        self.models = root / "models"
        self.runs.mkdir()
        self.config = configure(root, state=root / "state", models={"ranker": (self.runs, self.models)}, lines=lines)


@pytest.mark.parametrize("format_name", FORMATS)
async def test_an_export_survives_a_fault_at_each_look_at_its_source(disk, tmp_path, format_name, everything):
    """It waits or fails with the code of the fault, and then everything in the source is published, as without a fault."""
    pytest.importorskip({"orbax": "tensorstore", "flax-msgpack": "msgpack"}.get(format_name, "safetensors"))
    place = Place(tmp_path, disk.path, SILENT)
    steps = itertools.count(1)
    async with working(place.config) as work:
        source = FORMATS[format_name](place.runs / f"ckpt-{next(steps)}")
        disk.ask("arm", kind="none", nth=0, effect=0, under="runs/")
        await work.published(await work.submit(source))
        counts = disk.ask("counts")
        expected = content_of(place.models / "1")
        operations = [(kind, nth) for kind in OPERATIONS for nth in range(1, counts.get(kind, 0) + 1)]
        assert len(operations) > 10
        ways = list(itertools.product(FAULTS, (True, False)))
        stride = 1 if everything else 3 * len(ways)
        for case in [Case(*op, *way) for op, way in itertools.product(operations, ways)][::stride]:
            step = next(steps)
            source = FORMATS[format_name](place.runs / f"ckpt-{step}")
            disk.ask("arm", kind=case.kind, nth=case.nth, effect=case.number, lasting=case.lasting, under="runs/")
            await _exported(disk, work, source, case)
            assert content_of(place.models / str(step)) == expected, case


async def _exported(disk, work, source: Path, case: Case) -> None:
    codes, state = FAULTS[case.number]
    TALLY["exports that met a fault in their source"] += 1
    try:
        job_id = await work.submit(source)
    except SmdaemonError as error:  # it was met when the request was looked at
        refused = error
        disk.ask("clear")
        job_id = await work.submit(source)
    else:
        refused = None
    assert refused is None or refused.code in codes, case
    first = await work.reached(job_id, ENDS)
    disk.ask("clear")
    if first.error is None:
        assert case.kind in HARMLESS or first.state is State.PUBLISHED, case
    else:
        assert (first.error.code in codes, first.state) == (True, state), (case, first.error)
    await work.published(job_id)


async def test_short_reads_are_carried_on(disk, tmp_path):
    """A disk that gives half of what it was asked for, at whichever read, changes nothing."""
    place = Place(tmp_path, disk.path, SILENT)
    async with working(place.config) as work:
        source = FORMATS["npz"](place.runs / "ckpt-1")
        await work.published(await work.submit(source))
        for step in itertools.count(2):
            source = FORMATS["npz"](place.runs / f"ckpt-{step}")
            disk.ask("arm", kind="read", nth=step - 1, effect="short", under="runs/")
            await work.published(await work.submit(source))
            assert content_of(place.models / str(step)) == content_of(place.models / "1")
            if not disk.ask("clear"):
                break
        assert step > 6


async def test_a_source_that_vanishes_while_it_is_read_fails_and_can_be_retried(disk, tmp_path):
    """It goes in the middle of an export: the job says that the source changed; nothing shows; when it is back a retry publishes."""
    place = Place(tmp_path, disk.path, SILENT)
    async with working(place.config) as work:
        source = FORMATS["npz"](place.runs / "ckpt-1")
        disk.ask("arm", kind="read", nth=5, effect="hold", under="runs/")
        job_id = await work.submit(source)
        await trio.to_thread.run_sync(disk.ask, "happened")
        source.rename(disk.path / "gone")
        disk.ask("clear")
        job = await work.reached(job_id, ENDS)
        assert (job.state, job.error.code in {"source-changed", "source-missing"}) == (State.FAILED, True)
        assert (versions_of(place.models), drafts_of(place.models)) == ([], [])
        (disk.path / "gone").rename(source)
        await work.published(job_id)
        assert versions_of(place.models) == ["1"]


async def test_a_watched_directory_that_is_moved_takes_its_drops_along(disk, tmp_path):
    """In the middle of an export: what was opened is read to its end, for it is the same, and no other takes its place."""
    place = Place(tmp_path, disk.path, SILENT)
    async with working(place.config) as work:
        source = FORMATS["npz"](place.runs / "ckpt-1")
        disk.ask("arm", kind="read", nth=5, effect="hold", under="runs/")
        job_id = await work.submit(source)
        await trio.to_thread.run_sync(disk.ask, "happened")
        place.runs.rename(disk.path / "gone")
        place.runs.mkdir()
        np.savez(source, w=np.zeros(3, np.float32))
        disk.ask("clear")
        await work.published(job_id)
        with BundleReader(place.models / "1" / "variables" / "variables") as bundle:
            assert len(bundle.keys()) > 2  # the object graph is one


def _by_name(runs: Path) -> Path:
    return FORMATS["npz"](runs / "ckpt-7")


def _by_metadata(runs: Path) -> Path:
    from safetensors.numpy import save_file

    save_file(ARRAYS, runs / "model.safetensors", {"step": "7"})
    return runs / "model.safetensors"


def _by_request(runs: Path) -> Path:
    np.savez(runs / "weights.npz", **ARRAYS)
    request = runs / "mine.export.json"
    request.write_text(json.dumps({"source": "weights.npz", "version": 7}))
    return request


@pytest.mark.parametrize("drop", [_by_name, _by_metadata, _by_request])
async def test_a_fault_while_a_drop_is_found_loses_nothing(disk, tmp_path, drop, everything):
    """Whichever look of the watch and of the intake a broken disk refuses: once it is mended the drop is exported, once, by itself."""
    lines = 'watch_method = "poll"\npoll_seconds = 3600\nquiet_seconds = 0'
    lines += '\non_drop = "ignore"' if drop is _by_request else ""
    place = Place(tmp_path, disk.path, lines)
    source = drop(place.runs)
    disk.ask("arm", kind="none", nth=0, effect=0, under="runs")
    async with working(place.config) as work:
        await work.published(1)
    counts = disk.ask("counts")
    operations = [(kind, nth) for kind in OPERATIONS for nth in range(1, counts.get(kind, 0) + 1)]
    for turn, (kind, nth) in list(enumerate(operations))[:: 1 if everything else 7]:
        where = tmp_path / str(turn)
        where.mkdir()
        models = {"ranker": (place.runs, where / "models")}
        config = configure(tmp_path, state=where / "state", models=models, lines=lines)
        for path in place.runs.glob("*.result.json"):
            path.unlink()
        disk.ask("arm", kind=kind, nth=nth, effect=errno.EIO, lasting=True, under="runs")
        async with working(config, disk) as work:
            TALLY["drops that were found through faults"] += 1
            work.daemon._watches.rescan()
            job = await work.published(1)
            await work.idle()
            assert (job.version, job.source) == (7, str(place.runs / "weights.npz" if drop is _by_request else source))
            assert work.ledger.counts() == {State.PUBLISHED: 1}, (kind, nth)
            assert (versions_of(where / "models"), drafts_of(where / "models")) == (["7"], [])
        if drop is _by_request:
            result = json.loads((place.runs / "mine.export.result.json").read_text())
            assert (result["state"], result["version"]) == ("published", 7)
