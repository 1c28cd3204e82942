"""A removal of old versions that is cut short or refused: readers see all of a version or nothing, and it is tried again."""

import errno
import os
import signal
from pathlib import Path

import daemon_process
import numpy as np
import pytest
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from versions_kit import listed, names, owner_of, prune, publish, until_names

from smdaemon.cli.client import RemoteError
from smdaemon.publish import local
from smdaemon.publish.local import LocalStore, identity_of
from smdaemon.savedmodel.verify import verify


async def test_a_crash_between_rename_and_deletion_is_swept_at_the_start(started):
    """What readers do not see any more goes; the journal learns that the version is gone."""
    async with started(model="keep_last = 3") as running:
        await publish(running, 1, 2, 3)
        owner = owner_of(running)
    store = LocalStore(running.models, owner)
    assert store.hide(1, identity_of(running.models / "1"))
    assert any(name.startswith(f".smdaemon-{owner}-removed-1-") for name in names(running.models))
    async with started(model="keep_last = 3") as running:
        await until_names(running.models, "2", "3")
        assert (await listed(running))[1]["state"] == "missing"
        await publish(running, 4)
        while 1 in await listed(running):
            pass
        assert names(running.models) == ["2", "3", "4"]


@pytest.mark.parametrize("where", ["note", "delete"])
def test_a_kill_in_the_middle_of_a_removal(tmp_path, monkeypatch, where):
    """After SIGKILL the version is hidden as a whole; the next start deletes it, serves the rest, and removes nothing else."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, model="keep_last = 2")
    for step in (1, 2, 3):
        np.savez(tmp_path / "runs" / f"ckpt-{step}.npz", a=np.full(3, step))
    with monkeypatch.context() as patch:
        patch.setattr(daemon_process, "_HELD", Path(__file__).with_name("held_removal.py"))
        patch.setenv("HELD_AT", where)
        with SmdaemonProcess(tmp_path, "run", "--config", "config.toml", held=True) as process:
            process.held()
            process.signal(signal.SIGKILL)
            process.ended()
    (hidden,) = [name for name in names(tmp_path / "models") if name.startswith(".")]
    assert "-removed-1-" in hidden
    verify(tmp_path / "models" / hidden)
    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml") as process:
        process.logged("running")
        np.savez(tmp_path / "writing.npz", a=np.full(3, 4))
        (tmp_path / "writing.npz").rename(tmp_path / "runs" / "ckpt-4.npz")
        assert process.logged("removed old versions")["versions"] == [2]
        while names(tmp_path / "models") != ["3", "4"]:
            process.client.get("/v1/status")
        listed = process.client.get("/v1/models/ranker/versions")["versions"]
        assert [(each["version"], each["state"]) for each in listed] == [(4, "present"), (3, "present")]
        process.stop()


async def test_a_refused_removal_is_told_and_fails_no_export(started, monkeypatch):
    """The export is published, status and log name code and remedy, readers see the old version, and the next commit tries again."""
    rename = local.rename_no_replace

    def refuse(source: Path, target: Path) -> bool:
        if "-removed-" in target.name:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(source))
        return rename(source, target)

    async with started(model="keep_last = 1") as running:
        await publish(running, 1)
        with monkeypatch.context() as patch:
            patch.setattr(local, "rename_no_replace", refuse)
            await publish(running, 2)
            while "retention_error" not in (await running.ask(running.client.get, "/v1/status"))["models"][0]:
                pass
            status = await running.ask(running.client.get, "/v1/status")
            error = status["models"][0]["retention_error"]
            assert (error["code"], "removing a version" in error["message"]) == ("permission-denied", True)
            assert status["jobs"] == {"published": 2}
            assert names(running.models) == ["1", "2"]
            with pytest.raises(RemoteError) as caught:
                await prune(running)
            assert caught.value.code == "permission-denied"
        await publish(running, 3)
        await until_names(running.models, "3")
        while "retention_error" in (await running.ask(running.client.get, "/v1/status"))["models"][0]:
            pass


def test_files_that_cannot_be_deleted_are_told_and_tried_again(tmp_path):
    """By a daemon that has to obey permissions: the version is gone for readers, its room is freed once that is allowed."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, model="keep_last = 1")

    def drop(step: int) -> None:
        np.savez(tmp_path / "writing.npz", a=np.full(3, step))
        (tmp_path / "writing.npz").rename(tmp_path / "runs" / f"ckpt-{step}.npz")

    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml", unprivileged=True) as process:
        process.logged("running")
        drop(1)
        process.logged("job published")
        (tmp_path / "models" / "1" / "variables").chmod(0o555)
        drop(2)
        process.logged("removed old versions")
        refused = process.logged("old versions not removed")
        assert refused["code"] == "permission-denied"
        (error,) = [model["retention_error"] for model in process.client.get("/v1/models")["models"]]
        assert error["code"] == "permission-denied"
        hidden, newest = names(tmp_path / "models")
        assert (hidden.startswith(".smdaemon-"), newest) == (True, "2")
        (tmp_path / "models" / hidden / "variables").chmod(0o755)
        drop(3)
        process.logged("removed old versions")
        process.stop()
    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml") as process:
        process.logged("running")
        while names(tmp_path / "models") != ["3"]:
            process.client.get("/v1/status")
        process.stop()
