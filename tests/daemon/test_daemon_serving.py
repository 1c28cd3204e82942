"""TensorFlow Serving's model config file by the real daemon: which versions and labels it has, and what becomes of faults."""

import threading
from types import SimpleNamespace

import trio
from daemon_kit import write_config
from google.protobuf import text_format
from trio.testing import wait_all_tasks_blocked

from smdaemon.config import load_config
from smdaemon.daemon.serving import Serving
from smdaemon.proto.pool import pool
from smdaemon.proto.serving import ModelServerConfig

LISTED = """
[serving]
config_file = "serving.config"
versions = "listed"
labels = { stable = "newest", canary = "previous", frozen = "pinned" }
"""


def entries(running) -> dict:
    """The file's entries by name, read as TensorFlow Serving reads them."""
    text = (running.root / "serving.config").read_text()
    config = text_format.Parse(text, ModelServerConfig(), descriptor_pool=pool())
    return {model.name: model for model in config.model_config_list.config}


def labels(running) -> dict[str, int]:
    """The labels of our model; none where it has no entry."""
    entry = entries(running).get("ranker")
    return {} if entry is None else dict(entry.version_labels)


async def until(check) -> None:
    """Return once `check()` holds."""
    while not check():
        await trio.lowlevel.checkpoint()


async def status(running) -> dict:
    """What the status says of the file."""
    return (await running.ask(running.client.get, "/v1/status"))["serving"]


async def publish(running, *steps: int) -> None:
    """Drop and publish, one after the other; each with values of its own."""
    import numpy as np

    for step in steps:
        running.drop(f"ckpt-{step}.npz", w=np.full(3, step, np.float32))
        await until(lambda step=step: (running.models / str(step)).exists())


async def test_labels_follow_publications_pins_rollbacks_and_removals(started):
    """The newest, what a rollback would go back to, and the newest pinned one; Serving is to load just these."""
    async with started(model="keep_last = 3\n" + LISTED) as running:
        await until((running.root / "serving.config").exists)
        assert entries(running) == {}
        await publish(running, 1)
        await until(lambda: labels(running) == {"stable": 1})
        await publish(running, 2, 3)
        await until(lambda: labels(running) == {"stable": 3, "canary": 2})
        await running.ask(running.client.post, "/v1/models/ranker/pin", {"version": 1})
        await until(lambda: labels(running) == {"stable": 3, "canary": 2, "frozen": 1})
        entry = entries(running)["ranker"]
        assert entry.base_path == str(running.models)
        assert list(entry.model_version_policy.specific.versions) == [1, 2, 3]
        await running.ask(running.client.post, "/v1/models/ranker/rollback")
        # 4 has the content of 2, so that a rollback would go back to 1
        await until(lambda: labels(running) == {"stable": 4, "canary": 1, "frozen": 1})
        await running.ask(running.client.post, "/v1/models/ranker/unpin", {"version": 1})
        await publish(running, 5, 6, 7)
        await until(lambda: labels(running) == {"stable": 7, "canary": 6})


async def test_nothing_is_written_where_nothing_changed(started):
    """Nor at a restart: a poll of Serving's finds the same file."""
    config = '[serving]\nconfig_file = "serving.config"\n'
    async with started(model=config) as running:
        await until((running.root / "serving.config").exists)
        assert entries(running)["ranker"].model_version_policy.latest.num_versions == 1
        before = (running.root / "serving.config").stat()
        await publish(running, 1, 2)
        await running.daemon.reload()
    async with started(config=running.root / "config.toml") as running:
        while "current_at" not in await status(running):
            await trio.lowlevel.checkpoint()
        assert (running.root / "serving.config").stat() == before


async def test_what_others_write_is_kept(started):
    """Their entries stay, also those that they add while the daemon runs."""
    theirs = 'model_config_list { config { name: "%s" base_path: "/x" version_labels { key: "a" value: 3 } } }'
    async with started() as running:
        (running.root / "serving.config").write_text(theirs % "first")
        write_config(running.root, model=LISTED)
        await running.daemon.reload()
        await publish(running, 1)
        await until(lambda: labels(running) == {"stable": 1})
        text = (running.root / "serving.config").read_text()
        second = theirs.removesuffix(" }") % "second"
        (running.root / "serving.config").write_text(text.replace("model_config_list {", second))
        await publish(running, 2)
        await until(lambda: labels(running) == {"stable": 2, "canary": 1})
        assert set(entries(running)) == {"first", "second", "ranker"}
        assert dict(entries(running)["second"].version_labels) == {"a": 3}


async def test_a_concurrent_edit_is_not_lost(started, monkeypatch):
    """What somebody writes between our look and our rename is looked at first."""
    from smdaemon.daemon import serving

    real, edits = serving.updated, []

    def edited(text, *rest):
        if not edits and text is None:
            edits.append('model_config_list { config { name: "theirs" base_path: "/x" } }')
            (tmp / "serving.config").write_text(edits[0])
        return real(text, *rest)

    monkeypatch.setattr(serving, "updated", edited)
    async with started() as running:
        tmp = running.root
        write_config(running.root, model=LISTED)
        await running.daemon.reload()
        await publish(running, 1)
        await until(lambda: edits and labels(running) == {"stable": 1})
        assert set(entries(running)) == {"theirs", "ranker"}


async def test_a_file_that_cannot_be_understood_is_left_and_told(started):
    """The status and the metrics say so, exports go on; once it is mended it is brought up to date."""
    async with started() as running:
        path = running.root / "serving.config"
        path.write_text("model_config_list { no_such_field: 1 }")
        write_config(running.root, model=LISTED)
        await running.daemon.reload()
        await publish(running, 1)
        while "error" not in (state := await status(running)):
            await trio.lowlevel.checkpoint()
        assert state["error"]["code"] == "serving-config-invalid"
        assert path.read_text() == "model_config_list { no_such_field: 1 }"
        path.unlink()
        await publish(running, 2)
        await until(lambda: path.exists() and labels(running) == {"stable": 2, "canary": 1})
        while "error" in await status(running):
            await trio.lowlevel.checkpoint()


async def test_a_file_that_cannot_be_written_is_told_and_tried_again(started, monkeypatch):
    """By itself, without another publication."""
    monkeypatch.setattr("smdaemon.daemon.serving._AGAIN_SECONDS", 0.05)
    config = LISTED.replace("serving.config", "later/serving.config")
    async with started(model=config) as running:
        await publish(running, 1)
        while "error" not in (state := await status(running)):
            await trio.lowlevel.checkpoint()
        assert state["error"]["code"] == "directory-missing"
        (running.root / "later").mkdir()
        await until((running.root / "later" / "serving.config").exists)


async def test_a_publish_directory_that_hangs_is_told(started, monkeypatch):
    """What the file says of its model stays; a stop does not wait for it."""

    async def hang(_self, _model):
        await trio.sleep_forever()

    monkeypatch.setattr("smdaemon.daemon.serving._HANG_SECONDS", 0.05)
    monkeypatch.setattr("smdaemon.daemon.versions.Versions.looked", hang)
    async with started(model=LISTED) as running:
        while "error" not in (state := await status(running)):
            await trio.lowlevel.checkpoint()
        assert state["error"]["code"] == "io-error"
        assert "'ranker' gave no answer" in state["error"]["message"]


async def test_a_publish_directory_that_is_not_mounted_keeps_its_entry(started, monkeypatch):
    """Serving would unload all of its versions. The status says so, and the mount's return is seen without another publication."""
    monkeypatch.setattr("smdaemon.daemon.serving._AGAIN_SECONDS", 0.05)
    async with started(model=LISTED) as running:
        await publish(running, 1, 2)
        await until(lambda: labels(running) == {"stable": 2, "canary": 1})
    before = (running.root / "serving.config").read_text()
    running.models.rename(running.root / "volume")
    running.models.mkdir()
    async with started(config=running.root / "config.toml") as running:
        while "error" not in (state := await status(running)):
            await trio.lowlevel.checkpoint()
        assert state["error"]["code"] == "directory-missing"
        assert "'ranker'" in state["error"]["message"]
        assert (running.root / "serving.config").read_text() == before
        running.models.rmdir()
        (running.root / "volume").rename(running.models)
        while "error" in await status(running):
            await trio.lowlevel.checkpoint()
        assert (running.root / "serving.config").read_text() == before


async def test_a_file_system_that_hangs_under_the_file_is_told(started, monkeypatch):
    """One write waits for it at a time, and a stop does not."""
    hung = threading.Event()
    calls = []

    def hang(*_):
        calls.append(None)
        hung.wait()
        return False

    monkeypatch.setattr("smdaemon.daemon.serving._AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("smdaemon.daemon.serving._HANG_SECONDS", 0.05)
    monkeypatch.setattr("smdaemon.daemon.serving._update", hang)
    try:
        async with started(model='[serving]\nconfig_file = "serving.config"\n') as running:
            while "error" not in (state := await status(running)):
                await trio.lowlevel.checkpoint()
            assert state["error"]["code"] == "io-error"
            assert "serving.config" in state["error"]["message"]
            await publish(running, 1, 2)
            assert len(calls) == 1
            hung.set()
            while "error" in await status(running):
                await trio.lowlevel.checkpoint()
    finally:
        hung.set()


async def test_whoever_waits_for_the_file_is_told_though_something_changes_meanwhile(tmp_path):
    """Else a stop would wait all of its time."""
    config = load_config(write_config(tmp_path))
    ledger, versions = SimpleNamespace(observe=lambda _: None), SimpleNamespace(changed=[])
    serving = Serving(ledger, lambda: config, versions)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.settle)
            await wait_all_tasks_blocked()
            serving.reload()
            async with trio.open_nursery() as running:
                running.start_soon(serving.run)
                await wait_all_tasks_blocked()
                running.cancel_scope.cancel()
