"""A daemon that ends between the rename and the journal's row of it: what is published is published, whatever became of its source."""

import shutil
import threading

import numpy as np
import pytest
import trio
from daemon_kit import Running, write_config

from smdaemon.errors import EnvironmentFault
from smdaemon.handoff import attach
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import Event
from smdaemon.publish.local import LocalStore, identity_of

LINES = 'drain_seconds = 0\nhandoff_socket = "handoff.sock"\nhandoff_grace_seconds = 0\n'


class FullJournal:
    """A journal without room for the row of a publication; `refused` is set once it was to take one."""

    def __init__(self, monkeypatch):
        self.refused = threading.Event()
        move = Journal.move

        def refuse(journal, job_id, event, now, **fields):
            if event is Event.PUBLISH:
                self.refused.set()
                raise EnvironmentFault("disk-full", "no room for the journal", retryable=True)
            return move(journal, job_id, event, now, **fields)

        monkeypatch.setattr(Journal, "move", refuse)

    async def until_refused(self):
        """Return once a version has its number and the journal does not know."""
        await trio.to_thread.run_sync(self.refused.wait, 60)


def save(root, step):
    """A trainer's only save; it ends after its commit."""
    sidecar = attach(root / "handoff.sock")
    sidecar.save(step, {"scale": np.full(4, step, np.float32)}, model="ranker", metrics={"loss": 0.5})
    sidecar.close()


async def listed(running: Running) -> list[dict]:
    """The versions as the socket shows them."""
    return (await running.ask(running.client.get, "/v1/models/ranker/versions"))["versions"]


@pytest.mark.parametrize("origin", ["drop", "handoff"])
async def test_a_published_version_needs_its_source_no_more(started, tmp_path, monkeypatch, origin):
    """The checkpoint was rotated away, the trainer has ended: the next start finds the version and writes nothing anew."""
    with monkeypatch.context() as patch:
        journal = FullJournal(patch)
        async with started(daemon=LINES) as running:
            if origin == "drop":
                running.drop("ckpt-7.npz")
            else:
                await trio.to_thread.run_sync(save, tmp_path, 7)
            await journal.until_refused()
    there = identity_of(tmp_path / "models" / "7")
    (tmp_path / "runs" / "ckpt-7.npz").unlink(missing_ok=True)
    async with started(daemon=LINES) as running:
        (job,) = await running.ended()
        assert (job["state"], job["version"], job["tensors"]) == ("published", 7, 1)
        assert job["export_dir"] == str(tmp_path / "models" / "7")
        (version,) = await listed(running)
        assert version["state"] == "present"
        assert version["metrics"] == ({} if origin == "drop" else {"loss": 0.5})
    assert identity_of(tmp_path / "models" / "7") == there
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["7"]


async def test_it_comes_before_newer_drops_and_is_not_superseded(started, tmp_path, monkeypatch):
    """With `latest` a newer drop waits for the row of what is published already."""
    latest = {"daemon": LINES, "model": 'on_backlog = "latest"'}
    with monkeypatch.context() as patch:
        journal = FullJournal(patch)
        async with started(**latest) as running:
            running.drop("ckpt-7.npz")
            await journal.until_refused()
    write_config(tmp_path, **latest)
    (tmp_path / "runs" / "ckpt-7.npz").unlink()
    Running(None, None, tmp_path).drop("ckpt-8.npz")
    async with started(**latest) as running:
        jobs = await running.ended(2)
        assert [(job["state"], job["version"]) for job in jobs] == [("published", 7), ("published", 8)]


async def test_a_sync_that_fails_after_the_rename_is_made_up_for(started, monkeypatch):
    """The number is there, its parent could not be synced: tried again, without the source, and synced then."""
    commit, syncs = LocalStore.commit, []

    def unsynced(store, draft, version):
        commit(store, draft, version)
        (store.root.parent / "runs" / "ckpt-7.npz").unlink()
        monkeypatch.setattr("smdaemon.publish.local.sync_directory", syncs.append)
        raise EnvironmentFault("io-error", "not synced", retryable=True)

    monkeypatch.setattr(LocalStore, "commit", unsynced)
    async with started() as running:
        running.drop("ckpt-7.npz")
        (job,) = await running.ended()
        assert (job["state"], job["version"], job["attempts"]) == ("published", 7, 2)
        assert syncs == [running.models]


async def test_a_version_that_was_replaced_is_not_taken_for_it(started, tmp_path, monkeypatch):
    """Another directory under that number, as of another daemon, is compared as ever."""
    with monkeypatch.context() as patch:
        journal = FullJournal(patch)
        async with started(daemon=LINES) as running:
            running.drop("ckpt-7.npz")
            await journal.until_refused()
    shutil.rmtree(running.models / "7")
    (running.models / "7").mkdir()
    async with started(daemon=LINES) as running:
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "version-exists")
