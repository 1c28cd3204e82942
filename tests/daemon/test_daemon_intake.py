"""What comes of a drop that cannot be taken: it costs itself, and no other drop."""

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import trio
from daemon_kit import write_config
from safetensors.numpy import save
from structlog.testing import capture_logs

from smdaemon.config import load_config
from smdaemon.daemon import intake, requests, source_look, watches
from smdaemon.errors import DropError, fault
from smdaemon.handoff.exports import Handed
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.retry import LONGEST_SECONDS
from smdaemon.proto.v1 import ExportRequest
from smdaemon.sources import formats
from smdaemon.sources.base import Identity
from smdaemon.tensorbundle.reader import BundleReader
from smdaemon.watch.base import Drop


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.export.json", b'{"source": "ckpt-1.npz"}', (intake, "read_request")),
        ("model.safetensors", save({"w": np.ones(3)}, {"step": "9"}), (source_look, "open_source")),
    ],
)
async def test_a_file_that_cannot_be_read_holds_up_no_other(started, monkeypatch, name, content, where):
    """A request, and a drop whose step only a look into it tells: tried again by itself, while others are taken."""
    broken = {name}
    real = getattr(*where)

    def refusing(path, *arguments):
        if path.name in broken:
            raise fault(OSError(errno.EIO, os.strerror(errno.EIO), str(path)), "reading")
        return real(path, *arguments)

    monkeypatch.setattr(*where, refusing)
    monkeypatch.setattr(watches, "delay", lambda _tries, _rng: 0.01)
    with capture_logs() as logs:
        async with started() as running:
            (running.runs / name).write_bytes(content)
            running.drop("ckpt-1.npz")
            running.drop("ckpt-2.npz")
            jobs = await running.ended(2)
            assert {(job["version"], job["state"]) for job in jobs} == {(1, "published"), (2, "published")}
            refused = [entry for entry in logs if entry["event"] == "drop not accepted yet"]
            assert {(entry["path"], entry["code"]) for entry in refused} == {(str(running.runs / name), "io-error")}
            broken.clear()
            *_, late = await running.ended(3)
            assert late["state"] == "published"


class Unreadable:
    """An intake that can read no drop."""

    async def drop(self, _model, drop):
        """Say so."""
        raise intake.UnreadableError(fault(OSError(errno.EIO, os.strerror(errno.EIO), str(drop.path)), "reading"))


async def test_attempts_at_drops_that_are_gone_are_forgotten(autojump_clock, monkeypatch):
    """Those at one that is still there are counted on, so that it is tried ever more seldom; each is logged once."""
    monkeypatch.setattr(watches, "delay", lambda tries, _rng: 10.0 * tries)
    reporter = watches._Reporter(Unreadable(), "m")
    told = {name: Drop(Path("/w", name), "output", "npz", Identity(1, 1, 1)) for name in ("gone", "stays")}
    with capture_logs() as logs:
        for again_seconds, name in ((10.0, "gone"), (10.0, "stays"), (20.0, "stays")):
            with pytest.raises(watches.NotTakenError) as refused:
                await reporter(told[name])
            assert refused.value.again_seconds == again_seconds
            await trio.sleep(LONGEST_SECONDS)
        assert len(reporter._tries) == 2
        await trio.sleep(4 * LONGEST_SECONDS)
        with pytest.raises(watches.NotTakenError):
            await reporter(told["stays"])
    assert reporter._tries.keys() == {Path("/w/stays")}
    assert len(logs) == 4


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [("bug.npz", b"", "look_at_drop"), ("bug.export.json", b'{"source": "ckpt-1.npz"}', "read_request")],
)
async def test_a_bug_at_a_drop_fails_its_job_and_no_other(started, monkeypatch, name, content, where):
    """With its traceback in the log, once; the daemon goes on, and so does the next one."""
    real = getattr(intake, where)

    def broken(*arguments):
        if any(isinstance(each, Path) and each.name == name for each in arguments):
            raise ValueError("unforeseen \udcff")
        return real(*arguments)

    monkeypatch.setattr(intake, where, broken)
    with capture_logs() as logs:
        async with started() as running:
            (running.runs / name).write_bytes(content)
            (failed,) = await running.ended()
            assert (failed["state"], failed["error"]["code"]) == ("failed", "internal-error")
            assert failed["source"] == str(running.runs / name)
        async with started() as running:
            running.drop("ckpt-1.npz")
            *_, job = await running.ended(2)
            assert job["state"] == "published"
    (entry,) = [entry for entry in logs if entry["event"] == "internal error"]
    assert isinstance(entry["exc_info"], ValueError)


async def test_want_of_memory_at_a_drop_is_no_bug(started, monkeypatch):
    """Whether the watch or the intake meets it: the drop is tried again."""
    claiming, order_of, short = formats.claiming, source_look._order_of, ["claiming", "_order_of"]

    def want(where):
        if where in short:
            short.remove(where)
            raise MemoryError

    def claiming_short(path):
        want("claiming")
        return claiming(path)

    def order_of_short(*arguments):
        want("_order_of")
        return order_of(*arguments)

    monkeypatch.setattr(formats, "claiming", claiming_short)
    monkeypatch.setattr(source_look, "_order_of", order_of_short)
    monkeypatch.setattr(watches, "delay", lambda _tries, _rng: 0.01)
    async with started() as running:
        running.drop("ckpt-1.npz")
        (job,) = await running.ended()
        assert (job["state"], short) == ("published", [])


async def test_a_bug_that_the_watch_meets_fails_the_job_of_its_drop(started, monkeypatch):
    """The first is not looked at to its end, the second is published."""
    real = formats.claiming

    def claiming(path):
        if path.name == "bug.npz":
            raise ValueError("unforeseen")
        return real(path)

    monkeypatch.setattr(formats, "claiming", claiming)
    async with started() as running:
        running.drop("bug.npz")
        running.drop("ckpt-1.npz")
        jobs = await running.ended(2)
        assert {job["source"]: job["state"] for job in jobs} == {
            str(running.runs / "bug.npz"): "failed",
            str(running.runs / "ckpt-1.npz"): "published",
        }


@pytest.mark.parametrize("step", [2**63, -(10**400)], ids=["above", "below"])
async def test_a_handoff_of_a_step_that_is_no_version_is_refused(tmp_path, step):
    """The trainer hears the code; nothing is in the journal."""
    (tmp_path / "runs").mkdir()
    config = load_config(write_config(tmp_path))
    handed = Handed(trainer="t", export="e", model="ranker", step=step, options={}, nbytes=0)
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        with pytest.raises(DropError) as caught:
            await intake.Intake(ledger, lambda: config).handoff(handed)
        assert caught.value.code == "version-invalid"
        assert await ledger.page() == []


def _latest(folder: Path, step: int) -> None:
    (folder / "writing.tmp").write_bytes(save({"w": np.full(3, step, np.float32)}, {"step": str(step)}))
    (folder / "writing.tmp").rename(folder / "latest.safetensors")


def _values(version: Path) -> list[float]:
    with BundleReader(version / "variables/variables") as bundle:
        (key,) = (key for key, _entry in bundle.entries() if key.startswith("w/"))
        return np.frombuffer(b"".join(map(bytes, bundle.tensor(key).buffers())), np.float32).tolist()


@pytest.mark.parametrize("ask", ["drop", "request", "api"])
async def test_a_version_never_holds_what_took_the_place_of_its_drop(started, tmp_path, ask):
    """Renamed over while its job waits, across a restart too: that job fails, and the newer drop has a version of its own."""
    runs = tmp_path / "runs"
    config = load_config(write_config(tmp_path))
    (tmp_path / "state").mkdir()
    _latest(runs, 41)
    async with open_ledger(tmp_path / "state/journal.sqlite") as ledger:
        taking = intake.Intake(ledger, lambda: config)
        if ask == "api":
            await taking.request(ExportRequest(model="ranker", source="latest.safetensors", version=1041))
        elif ask == "request":
            (runs / "a.export.json").write_text('{"source": "latest.safetensors", "version": 1041}')
            identity = Identity.of((runs / "a.export.json").stat())
            await taking.drop("ranker", Drop(runs / "a.export.json", "request", "json", identity))
        else:
            identity = Identity.of((runs / "latest.safetensors").stat())
            await taking.drop("ranker", Drop(runs / "latest.safetensors", "output", "safetensors", identity))
    _latest(runs, 42)
    async with started() as running:
        first, second = sorted(await running.ended(2), key=lambda job: job["id"])
        assert (first["state"], first["error"]["code"]) == ("failed", "source-changed")
        assert (second["state"], second["version"]) == ("published", 42)
    assert sorted(path.name for path in running.models.iterdir()) == ["42"]
    assert _values(running.models / "42") == [42.0] * 3


async def test_a_drop_that_waited_over_a_restart_is_exported(started, tmp_path):
    """As long as it is what it was; so is one of a journal that does not tell what lay there."""
    config = load_config(write_config(tmp_path))
    (tmp_path / "state").mkdir()
    _latest(tmp_path / "runs", 41)
    identity = Identity.of((tmp_path / "runs/latest.safetensors").stat())
    async with open_ledger(tmp_path / "state/journal.sqlite") as ledger:
        drop = Drop(tmp_path / "runs/latest.safetensors", "output", "safetensors", identity)
        await intake.Intake(ledger, lambda: config).drop("ranker", drop)
        unknown = NewJob(model="ranker", origin="api", source=str(drop.path), identity="1", order=0.0, version=1)
        await ledger.accept(unknown)
    async with started() as running:
        assert {job["version"]: job["state"] for job in await running.ended(2)} == {41: "published", 1: "published"}


@pytest.mark.parametrize("where", ["within", "_content_of", "_order_of"])
async def test_a_look_that_hangs_does_not_hold_up_a_stop(started, monkeypatch, where):
    """A drop on a file system that does not answer: it is found again by the next start."""
    answers, asked = threading.Event(), threading.Event()
    real = getattr(source_look, where)

    def hanging(*arguments):
        asked.set()
        answers.wait(60)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(source_look, where, hanging)
        async with started() as running:
            running.drop("ckpt-1.npz")
            await trio.to_thread.run_sync(asked.wait)
    assert not answers.is_set()
    answers.set()
    async with started() as running:
        (job,) = await running.ended()
        assert job["state"] == "published"


async def test_a_handoff_asks_nothing_of_the_watched_directory(tmp_path, monkeypatch):
    """Where no option of it is a path, no file system that hangs can hold it up."""
    (tmp_path / "runs").mkdir()
    config = load_config(write_config(tmp_path))
    monkeypatch.setattr(requests, "within", None)
    handed = Handed(trainer="t", export="e", model="ranker", step=3, options={}, nbytes=0)
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        job, new = await intake.Intake(ledger, lambda: config).handoff(handed)
    assert (job.version, job.source, new) == (3, "handoff:t/3", True)


@pytest.mark.parametrize(("rule", "by_step"), [("step", True), ("sequence", False), ("timestamp", False)])
async def test_a_handoff_is_as_new_as_a_drop_would_be(tmp_path, rule, by_step):
    """By its step where the model's versions are steps, else by its time, as everything of that model."""
    (tmp_path / "runs").mkdir()
    config = load_config(write_config(tmp_path, model=f'version = "{rule}"'))
    handed = Handed(trainer="t", export="e", model="ranker", step=3, options={}, nbytes=0)
    began = time.time()
    async with open_ledger(tmp_path / "journal.sqlite") as ledger:
        job, _ = await intake.Intake(ledger, lambda: config).handoff(handed)
    assert (job.order == 3.0) if by_step else (began <= job.order <= time.time())


async def test_a_request_is_answered_once_wherever_its_link_leads(started, tmp_path):
    """A link that leads elsewhere by the next start makes no other request of it: the result stays."""
    async with started(model='on_drop = "ignore"') as running:
        for step in (1, 2):
            running.drop(f"ckpt-{step}.npz")
        (running.runs / "latest.npz").symlink_to("ckpt-1.npz")
        (running.runs / "r.export.json").write_text('{"source": "latest.npz", "version": 7}')
        (job,) = await running.ended()
        assert (job["state"], job["source"]) == ("published", str(running.runs / "ckpt-1.npz"))
    (tmp_path / "runs/latest.npz").unlink()
    (tmp_path / "runs/latest.npz").symlink_to("ckpt-2.npz")
    async with started(model='on_drop = "ignore"') as running:
        assert len((await running.ask(running.client.get, "/v1/jobs"))["jobs"]) == 1
    assert '"published"' in (tmp_path / "runs/r.export.result.json").read_text()
