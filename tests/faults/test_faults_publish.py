"""Faults where versions are published: at each operation of an export in turn, on a disk that mends, or that stays broken for a while."""

import errno
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trio
from drops_kit import ARRAYS
from faults_kit import ENDS, TALLY, Case, configure, content_of, drafts_of, versions_of, working

from smdaemon.cli.client import Client
from smdaemon.jobs.states import State

pytestmark = pytest.mark.root

OPERATIONS = ("create", "mkdir", "write", "fsync", "fsyncdir", "rename", "open", "opendir", "read", "statfs", "getattr")
# What each is called, and whether smdaemon tries again by itself.
FAULTS = {
    errno.ENOSPC: ("disk-full", State.WAITING),
    errno.EDQUOT: ("quota-exceeded", State.WAITING),
    errno.EIO: ("io-error", State.WAITING),
    errno.ESTALE: ("io-error", State.WAITING),
    errno.EACCES: ("permission-denied", State.FAILED),
    errno.EROFS: ("read-only", State.FAILED),
}
# A fault of these may be met where nothing hangs on it: the kernel asks anew, or a name is looked for that need not be there.
HARMLESS = {"getattr"}
# Retention lists what is there once a version is published: a listing may be its.
BEHIND = {"opendir"}
SILENT = 'on_drop = "ignore"\nwatch_method = "poll"\npoll_seconds = 3600'


class Place:
    """Directories of two models: one publishes to the faulty disk, the other beside it."""

    def __init__(self, root: Path, disk: Path) -> None:
        self.runs = root / "runs"
        self.other_runs = root / "other-runs"
        self.volume = disk / "volume"
        self.models = self.volume / "models"
        self.healthy = root / "healthy"
        self._steps = itertools.count(1)
        for folder in (self.runs, self.other_runs, self.volume):
            folder.mkdir()
        models = {"ranker": (self.runs, self.models), "tower": (self.other_runs, self.healthy)}
        self.config = configure(root, state=root / "state", models=models, lines=SILENT)

    def drop(self) -> tuple[Path, str]:
        """A training output, the same each time but for its step; and that step."""
        step = str(next(self._steps))
        path = self.runs / f"ckpt-{step}.npz"
        np.savez(path, **ARRAYS)
        return path, step

    def other_drop(self) -> Path:
        """The newest of them, for the other model."""
        newest = max(self.runs.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return Path(shutil.copy(newest, self.other_runs))


@pytest.fixture
def place(tmp_path, disk) -> Place:
    """Directories, one of them on the faulty disk."""
    return Place(tmp_path, disk.path)


def looks(path: Path) -> tuple[bytes, int, int]:
    """Content, inode and time of a file."""
    found = path.stat()
    return path.read_bytes(), found.st_ino, found.st_mtime_ns


async def test_an_export_survives_a_fault_at_each_of_its_operations(disk, place, everything):
    """It waits or fails with the code of the fault, nothing half-made shows, and then the same bytes are published as without a fault."""
    async with working(place.config) as work:
        source, step = place.drop()
        disk.ask("arm", kind="none", nth=0, effect=0, under="volume")
        await work.published(await work.submit(source))
        counts = disk.ask("counts")
        expected = content_of(place.models / step)
        operations = [(kind, nth) for kind in OPERATIONS for nth in range(1, counts.get(kind, 0) + 1)]
        assert len(operations) > 40
        ways = list(itertools.product(FAULTS, (True, False)))
        for (turn, operation), (way, fault) in itertools.product(enumerate(operations), enumerate(ways)):
            # in the short form each operation meets one of the faults, and each fault several operations
            if everything or turn % len(ways) == way:
                await _export_with_fault(disk, place, work, expected, Case(*operation, *fault))


async def _export_with_fault(disk, place, work, expected, case: Case) -> None:
    source, step = place.drop()
    before = looks(source)
    shutil.rmtree(place.models)
    # known to be gone: a directory that lost its versions otherwise is taken for a volume that is not mounted
    await work.ledger.remove_versions("ranker", [each.export_dir for each in await work.ledger.versions("ranker")])
    disk.ask("arm", kind=case.kind, nth=case.nth, effect=case.number, lasting=case.lasting, under="volume")
    job_id = await work.submit(source)
    first = await work.reached(job_id, ENDS)
    if not disk.ask("clear"):  # the last look of those that were counted came behind the publication
        assert first.state is State.PUBLISHED, case
        TALLY["of them too late to matter"] += 1
    assert versions_of(place.models) in ([], [step]), case
    if first.state is State.PUBLISHED:
        asked_anew = case.number == errno.ESTALE and not case.lasting  # by the kernel itself, for names
        assert case.kind in HARMLESS | BEHIND or asked_anew, case
    else:
        assert (first.error.code, first.state) == FAULTS[case.number], (case, first.error)
        assert first.error.remedy
    await work.published(job_id)
    assert content_of(place.models / step) == expected, case
    assert (versions_of(place.models), drafts_of(place.models)) == ([step], []), case
    assert looks(source) == before, case
    TALLY["exports that met a fault where they publish"] += 1


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
async def test_other_models_go_on_while_one_disk_is_broken(disk, place, number):
    """A model that publishes elsewhere is served meanwhile; the faulty one is once its disk is mended."""
    async with working(place.config) as work:
        source, step = place.drop()
        disk.ask("arm", kind="write", nth=1, effect=number, lasting=True, under="volume")
        stuck = await work.submit(source)
        assert (await work.reached(stuck, ENDS)).state is FAULTS[number][1]
        await work.published(await work.submit(place.other_drop(), model="tower"))
        assert versions_of(place.healthy) == [step]
        assert work.ledger.newest_published.keys() == {"tower"}
        disk.ask("clear")
        await work.published(stuck)
        assert content_of(place.models / step) == content_of(place.healthy / step)


async def test_short_writes_are_carried_on(disk, place):
    """A disk that takes half of what it is given, at whichever write, changes nothing."""
    async with working(place.config) as work:
        source, step = place.drop()
        await work.published(await work.submit(source))
        expected = content_of(place.models / step)
        for nth in itertools.count(1):
            source, step = place.drop()
            disk.ask("arm", kind="write", nth=nth, effect="short", under="volume")
            job = await work.reached(await work.submit(source), ENDS)
            assert (job.state, job.attempts) == (State.PUBLISHED, 1)
            assert content_of(place.models / step) == expected
            if not disk.ask("clear"):
                break
        assert nth > 4


async def test_a_disk_that_gives_back_other_bytes_publishes_nothing(disk, place):
    """Whatever is read back before a version is published is believed only where its checksums are right."""
    async with working(place.config) as work:
        for nth in itertools.count(1):
            source, step = place.drop()
            disk.ask("arm", kind="read", nth=nth, effect="zeros", lasting=True, under="volume")
            job = await work.reached(await work.submit(source), ENDS)
            if not disk.ask("clear"):
                break
            assert (job.state is State.PUBLISHED, versions_of(place.models).count(step)) == (False, 0), nth
        assert nth > 4
        assert job.state is State.PUBLISHED


@pytest.mark.parametrize("kind", ["write", "fsync", "read", "rename"])
async def test_a_publish_directory_that_vanishes_is_waited_for(disk, place, kind):
    """Its volume goes in the middle of an export: the job waits with directory-missing, and is published when the volume is there again."""
    gone = place.volume.with_name("gone")
    async with working(place.config) as work:
        source, step = place.drop()
        disk.ask("arm", kind=kind, nth=1, effect="hold", under="volume")
        job_id = await work.submit(source)
        await trio.to_thread.run_sync(disk.ask, "happened")
        place.volume.rename(gone)
        disk.ask("clear")
        job = await work.reached(job_id, ENDS)
        assert (job.state, job.error.code, job.error.retryable) == (State.WAITING, "directory-missing", True)
        gone.rename(place.volume)
        await work.published(job_id)
        assert (versions_of(place.models), drafts_of(place.models)) == ([step], [])


async def test_a_publish_directory_that_was_removed_is_made_again(disk, place):
    """Only the folder itself is gone, in the middle of an export: the next attempt makes it."""
    async with working(place.config) as work:
        source, step = place.drop()
        disk.ask("arm", kind="fsync", nth=1, effect="hold", under="volume")
        job_id = await work.submit(source)
        await trio.to_thread.run_sync(disk.ask, "happened")
        place.models.rename(place.volume / "moved")
        disk.ask("clear")
        assert (await work.reached(job_id, ENDS)).error.code == "directory-missing"
        await work.published(job_id)
        assert versions_of(place.models) == [step]


@pytest.mark.parametrize("kind", ["create", "write", "fsync", "rename", "read", "statfs"])
async def test_a_disk_that_hangs_holds_up_its_own_export_only(disk, place, kind):
    """While an operation takes for ever the daemon answers and exports other models; when it is done the export goes on."""
    async with working(place.config) as work:
        source, step = place.drop()
        disk.ask("arm", kind=kind, nth=1, effect="hold", under="" if kind == "statfs" else "volume")
        job_id = await work.submit(source)
        await trio.to_thread.run_sync(disk.ask, "happened")
        status = await trio.to_thread.run_sync(Client(work.daemon.config.daemon.control_socket).get, "/v1/status")
        assert (status["phase"], status["workers_busy"]) == ("running", 1)
        await work.published(await work.submit(place.other_drop(), model="tower"))
        assert work.scheduler.attempt(job_id) is not None
        disk.ask("clear")
        job = await work.reached(job_id, ENDS)
        assert (job.state, job.attempts) == (State.PUBLISHED, 1)
        assert versions_of(place.models) == [step]


async def test_a_cancel_while_the_disk_hangs_takes_effect_when_it_answers(disk, place):
    """The job ends as cancelled, and its draft is gone."""
    async with working(place.config) as work, trio.open_nursery() as nursery:
        source, _ = place.drop()
        disk.ask("arm", kind="fsync", nth=1, effect="hold", under="volume")
        job_id = await work.submit(source)
        await trio.to_thread.run_sync(disk.ask, "happened")
        nursery.start_soon(work.scheduler.cancel, job_id)
        await trio.testing.wait_all_tasks_blocked()
        disk.ask("clear")
        assert (await work.reached(job_id, ENDS)).state is State.CANCELLED
        assert list(place.models.iterdir()) == []


async def test_drafts_that_could_not_be_removed_go_at_the_next_start(disk, place):
    """A disk that refuses everything, removing included: the draft stays until the next attempt, or until the next start."""
    async with working(place.config) as work:
        source, _ = place.drop()
        disk.ask("arm", kind="fsync", nth=2, effect=errno.EROFS, lasting=True, under="volume")
        job = await work.reached(await work.submit(source), ENDS)
        assert (job.state, job.error.code) == (State.FAILED, "read-only")
    disk.ask("clear")
    assert len(drafts_of(place.models)) == 1
    async with working(place.config):
        assert drafts_of(place.models) == []


@pytest.mark.parametrize("kind", ["opendir", "readdir", "unlink", "rmdir", "getattr"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
async def test_drafts_that_cannot_be_removed_at_the_start_do_not_stop_it(disk, place, kind, number):
    """The daemon starts, says so in its log, and serves the model once its disk is mended."""
    async with working(place.config) as work:
        source, step = place.drop()
        draft = place.models / f".smdaemon-{(place.runs.parent / 'state' / 'owner').read_text()}-job99"
    (draft / "variables").mkdir(parents=True)
    (draft / "variables" / "half").write_bytes(b"half")
    disk.ask("arm", kind=kind, nth=1, effect=number, lasting=True, under="volume/models")
    async with working(place.config) as work:
        assert disk.ask("clear")
        await work.published(await work.submit(source))
        assert versions_of(place.models) == [step]
    async with working(place.config):
        assert drafts_of(place.models) == []


@pytest.fixture
def read_only(place):
    """Where the other model publishes, mounted read-only; call it to make it writable again."""
    place.healthy.mkdir()

    def mount(*options: str) -> None:
        subprocess.run(["mount", *options, str(place.healthy)], check=True)

    mount("--bind", str(place.healthy))
    mount("-o", "remount,bind,ro")
    yield lambda: mount("-o", "remount,bind,rw")
    subprocess.run(["umount", str(place.healthy)], check=True)


async def test_a_directory_that_is_mounted_read_only_says_so(place, read_only):
    """The kernel refuses by itself here, before any operation comes to a disk: read-only, and not permission-denied."""
    async with working(place.config) as work:
        _, step = place.drop()
        job_id = await work.submit(place.other_drop(), model="tower")
        job = await work.reached(job_id, ENDS)
        assert (job.state, job.error.code) == (State.FAILED, "read-only")
        read_only()
        await work.published(job_id)
        assert versions_of(place.healthy) == [step]
