"""Drafts are removed: by the attempt that made them, and at the start what an earlier run left, each directory for itself."""

import errno
import os
import threading

import pytest
import trio
from structlog.testing import capture_logs

from smdaemon.daemon.drafts import discard
from smdaemon.daemon.sweep import Sweep
from smdaemon.publish.local import LocalStore
from smdaemon.settings import ModelSettings


@pytest.fixture
def models(tmp_path):
    """Two models; in the publish directory of each lies a draft."""
    for name in "ab":
        (tmp_path / name / ".smdaemon-me-job1").mkdir(parents=True)
    return [ModelSettings(name=name, watch="/runs", publish=str(tmp_path / name)) for name in "ab"]


async def test_a_directory_that_hangs_holds_up_its_own_model(models, tmp_path, monkeypatch):
    """The other is swept, and told of; the one that hangs can be left to itself by a stop."""
    answers = threading.Event()
    sweep = LocalStore.sweep

    def hang(store):
        if store.root.name == "b":
            answers.wait(60)
        return sweep(store)

    monkeypatch.setattr(LocalStore, "sweep", hang)
    swept = trio.Event()
    service = Sweep(models, "me", swept.set)
    assert service.under_way == {str(tmp_path / "a"), str(tmp_path / "b")}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await swept.wait()
        assert service.under_way == {str(tmp_path / "b")}
        nursery.cancel_scope.cancel()
    assert not service.finished.is_set()
    assert list((tmp_path / "a").iterdir()) == []
    answers.set()


async def test_all_are_swept_then_it_is_finished(models, tmp_path):
    """Drafts are gone, another daemon's stay."""
    (tmp_path / "a" / ".smdaemon-other-job1").mkdir()
    service = Sweep(models, "me", lambda: None)
    await service.run()
    assert (service.finished.is_set(), service.under_way) == (True, set())
    assert [path.name for path in tmp_path.glob("*/.*")] == [".smdaemon-other-job1"]


async def test_a_draft_that_cannot_be_removed_is_told_with_its_code(tmp_path, monkeypatch):
    """The attempt ends as it would have; the line says why, and where it lies."""

    def refuse(_store, draft):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(draft))

    monkeypatch.setattr(LocalStore, "discard", refuse)
    with capture_logs() as lines:
        await discard(LocalStore(tmp_path, "me"), tmp_path / ".smdaemon-me-job1-home")
    assert [(line["event"], line["code"]) for line in lines] == [("draft not removed", "read-only")]
    assert lines[0]["draft"].endswith("job1-home")
