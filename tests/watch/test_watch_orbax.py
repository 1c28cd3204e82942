"""Orbax checkpoints in a watched directory, with the real format: found, taken once when they are finished, never before."""

import json
import os
import shutil

import numpy as np
import pytest
import trio

from smdaemon.sources.formats import claiming
from smdaemon.watch.completeness import GIVE_UP_QUIET_PERIODS, Moment, Touch
from smdaemon.watch.drops import Sightings
from smdaemon.watch.scan import Scanner
from smdaemon.watch.watcher import Watcher, WatchSpec

QUIET = 10.0
# Files of the test are stamped by the real clock: with the wall an eternity back they look brand-new, ahead long at rest.
FRESH, OLD = 0.0, 1e12
# So long that a test which waited for it would fail.
NEVER = 3600.0
BOUND = 60.0


def write_step(step, *items, committed=True):
    """A step without tensors' data: the watch looks at names, stamps and JSON only. Without commit, as it is while it is saved."""
    for item in items or ("default",):
        (step / item / "d").mkdir(parents=True, exist_ok=True)
        (step / item / "d" / "0123").write_bytes(b"data")
        (step / item / "manifest.ocdbt").write_bytes(bytes.fromhex("0cdb3a2a") + (12).to_bytes(8, "little"))
        (step / item / "_METADATA").write_text('{"tree_metadata": {}}')
    handlers = dict.fromkeys(items or ("default",), "handler") if committed else None
    fields = {"item_handlers": handlers, "commit_timestamp_nsecs": 2 if committed else None}
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(fields))
    if committed:
        (step / "commit_success.txt").write_text(f"Checkpoint commit was successful to {step}")
    return step


class Desk:
    """The sightings of an empty directory; `look` gives the names of what is reported, after all that lies there was touched."""

    def __init__(self, root, *, recursive=True):
        self.root = root
        self.scanner = Scanner(str(root), recursive=recursive)
        self.sightings = Sightings(str(root), claiming, recursive=recursive, quiet_seconds=QUIET)
        self.again = {}

    def look(self, touches=None, now=0.0, wall=FRESH):
        """Look at names below the root, or at all that a scan finds."""
        if touches is None:
            scan = self.scanner.full(now)
            touches = {os.path.relpath(path, self.root): Touch.SEEN for path in (*scan.directories, *scan.files)}
        looked = self.sightings.look(
            {str(self.root / name): touch for name, touch in touches.items()}, Moment(now, wall)
        )
        self.again = {os.path.relpath(path, self.root): when for path, when in looked.again.items()}
        return [(os.path.relpath(drop.path, self.root), drop.format) for drop in looked.drops]

    def renamed(self, name):
        """What a rename into place touches: the directory and all that is scanned in it."""
        scan = self.scanner.beneath(str(self.root / name), 0.0)
        return {os.path.relpath(path, self.root): Touch.MOVED for path in (*scan.directories, *scan.files)}


@pytest.fixture
def desk(tmp_path):
    """A recursive watch on an empty directory."""
    (tmp_path / "runs").mkdir()
    return Desk(tmp_path / "runs")


@pytest.mark.parametrize("items", [("default",), ("ema", "metrics", "state")])
def test_a_step_is_taken_as_a_whole_when_it_is_renamed_into_place(desk, items):
    """At once; the items in it are no drops of their own, and no later look reports it again."""
    write_step(desk.root / "ckpt" / "41", *items)
    assert desk.look(desk.renamed("ckpt")) == [("ckpt/41", "orbax")]
    assert desk.again == {}
    assert desk.look() == desk.look(wall=OLD) == desk.look(now=QUIET) == []


def test_nothing_under_a_temporary_name_is_looked_at(desk):
    """Neither as a checkpoint nor as arrays: it is not even scanned."""
    step = write_step(desk.root / "41.orbax-checkpoint-tmp")
    np.save(step / "x.npy", np.arange(3))
    np.save(step / "default" / "x.npy", np.arange(3))
    assert desk.scanner.full(0.0).directories == []
    assert desk.look({step.name: Touch.MOVED}, wall=OLD) == desk.look(wall=OLD) == []


def test_a_step_saved_in_place_is_taken_with_its_commit_file(desk):
    """Its data, its items and the quiet in between do not make it one; the close of the marker does, at once."""
    step = write_step(desk.root / "41", committed=False)
    (step / "default" / "commit_success.txt").write_text(f"Checkpoint commit was successful to {step}/default")
    touched = ("41/default/d/0123", "41/default/_METADATA", "41/default/commit_success.txt", "41/_CHECKPOINT_METADATA")
    assert desk.look({"41": Touch.SEEN, "41/default": Touch.SEEN, **dict.fromkeys(touched, Touch.CLOSED)}) == []
    assert desk.look({"41": Touch.SEEN}, now=QUIET) == []
    write_step(step)
    assert desk.look({"41/_CHECKPOINT_METADATA": Touch.CLOSED}, now=QUIET + 1) == []
    assert desk.look({"41/commit_success.txt": Touch.CLOSED}, now=QUIET + 2) == [("41", "orbax")]
    assert desk.look(now=QUIET + 3) == desk.look({"41/commit_success.txt": Touch.CLOSED}, now=QUIET + 4) == []


def test_a_copy_is_taken_after_a_quiet_period(desk, tmp_path):
    """Its marker speaks of another directory and may come before the data: nothing is believed before all is at rest."""
    write_step(tmp_path / "41")
    step = desk.root / "41"
    step.mkdir()
    shutil.copy(tmp_path / "41" / "commit_success.txt", step)
    shutil.copy(tmp_path / "41" / "_CHECKPOINT_METADATA", step)
    shutil.copytree(tmp_path / "41" / "default" / "d", step / "default" / "d")
    assert desk.look({"41": Touch.SEEN, "41/commit_success.txt": Touch.CLOSED}) == []
    shutil.copy(tmp_path / "41" / "default" / "_METADATA", step / "default")
    assert desk.look({"41/default/_METADATA": Touch.CLOSED, "41/commit_success.txt": Touch.CLOSED}, now=1) == []
    assert desk.again == {"41": 1 + QUIET}
    (step / "default" / "d" / "4567").write_bytes(b"more")
    assert desk.look({"41": Touch.SEEN}, now=1 + QUIET) == []
    shutil.copy(tmp_path / "41" / "default" / "manifest.ocdbt", step / "default")
    assert desk.look({"41": Touch.SEEN}, now=2 + 2 * QUIET) == []
    assert desk.look({"41": Touch.SEEN}, now=2 + 3 * QUIET) == [("41", "orbax")]


def test_a_save_that_was_never_committed_is_given_up_and_taken_when_it_is(desk):
    """It becomes a job that fails with a reason; once it is committed it is another drop."""
    step = write_step(desk.root / "41", committed=False)
    now = 0.0
    while not (found := desk.look({"41": Touch.SEEN}, now=now)):
        now = desk.again["41"]
    assert (found, now) == ([("41", "orbax")], QUIET * GIVE_UP_QUIET_PERIODS)
    write_step(step)
    assert desk.look({"41/commit_success.txt": Touch.CLOSED}, now=now + 1) == [("41", "orbax")]


def test_steps_that_lie_there_are_taken(desk):
    """With or without what newer releases write; checkpoints that are an item themselves, too."""
    write_step(desk.root / "41")
    (write_step(desk.root / "step_42") / "_CHECKPOINT_METADATA").unlink()
    (desk.root / "step_42" / "commit_success.txt").unlink()
    (write_step(desk.root / "other") / "default").rename(desk.root / "best")
    shutil.rmtree(desk.root / "other")
    assert sorted(desk.look(wall=OLD)) == [("41", "orbax"), ("best", "orbax"), ("step_42", "orbax")]


def test_a_flat_watch_takes_the_steps_in_it(tmp_path):
    """And nothing from deeper down."""
    desk = Desk(tmp_path, recursive=False)
    write_step(tmp_path / "41")
    write_step(tmp_path / "runs" / "42")
    assert desk.look(wall=OLD) == [("41", "orbax")]


def test_what_others_put_beside_the_items_does_not_make_it_another_drop(desk):
    """Nor does an array among them; a change of the tensors does."""
    step = write_step(desk.root / "41")
    assert desk.look(wall=OLD) == [("41", "orbax")]
    (step / "eval.json").write_text("{}")
    (step / "metrics").mkdir()
    (step / "metrics" / "metrics").write_text("{}")
    np.save(step / "x.npy", np.arange(3))
    assert desk.look(wall=OLD) == desk.look({"41/x.npy": Touch.CLOSED, "41/eval.json": Touch.CLOSED}, wall=OLD) == []
    (step / "default" / "d" / "0123").write_bytes(b"other")
    assert desk.look(wall=OLD) == [("41", "orbax")]


def test_a_step_that_is_deleted_is_forgotten_and_reported_no_more(desk):
    """File by file, as a manager deletes old steps."""
    step = write_step(desk.root / "41")
    assert desk.look(wall=OLD) == [("41", "orbax")]
    for file in sorted(path for path in step.rglob("*") if path.is_file()):
        file.unlink()
        assert desk.look({"41": Touch.SEEN}) == []
    shutil.rmtree(step)
    assert desk.look({"41": Touch.SEEN}) == []
    assert not desk.sightings._known()


def test_a_directory_that_may_not_be_read_is_reported(desk, monkeypatch):
    """The export says so where people look for it."""

    def refuse(path):
        raise PermissionError(13, "no")

    write_step(desk.root / "41")
    monkeypatch.setattr("smdaemon.sources.orbax.parts_of", refuse)
    assert desk.look(wall=OLD) == [("41", "orbax")]


def test_below_the_tensors_nothing_is_watched(desk):
    """A checkpoint may have a directory for each of its arrays; of none of them a watch is made."""
    write_step(desk.root / "41", "state")
    (desk.root / "41" / "state" / "params.w").mkdir()
    scan = desk.scanner.full(0.0)
    assert {os.path.relpath(path, desk.root) for path in scan.directories} == {"41", "41/state"}
    assert len(desk.scanner) == 3


@pytest.fixture(scope="module")
def orbax():
    """orbax.checkpoint."""
    import orbax.checkpoint

    return orbax.checkpoint


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("commit_file", [False, True], ids=["by rename", "by commit file"])
async def test_what_a_manager_saves_is_reported_once_each_and_not_while_it_is_saved(
    orbax, tmp_path, commit_file, recursive
):
    """With the real kernel and Orbax itself: before the last act of a save another drop is reported first, then the step, once."""
    from orbax.checkpoint._src.path import atomicity

    kind = atomicity.CommitFileTemporaryPath if commit_file else atomicity.AtomicRenameTemporaryPath
    send, reported = trio.open_memory_channel(100)

    async def wait_for_marker(number):
        np.save(tmp_path / ".marker.npy", np.arange(number + 1))
        (tmp_path / ".marker.npy").rename(tmp_path / f"marker{number}.npy")
        with trio.fail_after(BOUND):
            assert (await reported.receive()).path.name == f"marker{number}.npy"

    class Held(kind):
        """Saves up to the last act, then waits until the watch has seen all of it."""

        marked = 0

        async def finalize(self):
            Held.marked += 1
            trio.from_thread.run(wait_for_marker, Held.marked, trio_token=token)
            await super().finalize()

    def save(manager, step):
        manager.save(step, args=orbax.args.StandardSave({"w": np.arange(3.0)}))

    token = trio.lowlevel.current_trio_token()
    spec = WatchSpec(root=tmp_path, recursive=recursive, quiet_seconds=NEVER, poll_seconds=NEVER)
    options = orbax.CheckpointManagerOptions(temporary_path_class=Held, enable_async_checkpointing=False, max_to_keep=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(Watcher(spec, send.send).run)
        with await trio.to_thread.run_sync(lambda: orbax.CheckpointManager(tmp_path, options=options)) as manager:
            for step in (41, 42):
                await trio.to_thread.run_sync(save, manager, step)
                with trio.fail_after(BOUND):
                    drop = await reported.receive()
                assert (drop.path, drop.format) == (tmp_path / str(step), "orbax")
        assert Held.marked >= 2
        await wait_for_marker(99)
        assert reported.statistics().current_buffer_used == 0
        nursery.cancel_scope.cancel()
