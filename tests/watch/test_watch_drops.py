"""Which paths are drops, and when they are complete: what was seen, with a clock of the test's own."""

import json
import os
import shutil
from pathlib import Path

import pytest
from watch_fakes import Claims, box

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.watch.completeness import GIVE_UP_QUIET_PERIODS, Moment, Touch
from smdaemon.watch.drops import Sightings

QUIET = 10.0
# Files of the test are stamped by the real clock: with the wall an eternity back they all look brand-new.
FRESH = 0.0
# And with it an eternity ahead they all look long at rest.
OLD = 1e12


class Desk:
    """The sightings of a directory; `look` gives the names of what is reported."""

    def __init__(self, root: Path, *, recursive: bool = True, trust_stamps: bool = True) -> None:
        self.root = root
        self.claims = Claims()
        self.sightings = Sightings(
            str(root), self.claims, recursive=recursive, quiet_seconds=QUIET, trust_stamps=trust_stamps
        )
        self.again: dict[str, float] = {}

    def look(self, touches, now=0.0, wall=FRESH):
        """Look at names below the root; the names of what is reported."""
        looked = self.sightings.look(
            {str(self.root / name): touch for name, touch in touches.items()}, Moment(now, wall)
        )
        self.again = {os.path.relpath(path, self.root): when for path, when in looked.again.items()}
        return [os.path.relpath(drop.path, self.root) for drop in looked.drops]

    def put(self, name: str, content: bytes) -> Path:
        """Write a file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def index(self, name: str, *shards: str) -> None:
        """Write an index that names shards."""
        weight_map = {f"t{number}": shard for number, shard in enumerate(shards)}
        self.put(f"{name}.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())


@pytest.fixture
def desk(tmp_path):
    """A recursive watch on an empty directory."""
    return Desk(tmp_path)


@pytest.mark.parametrize("touch", [Touch.CLOSED, Touch.MOVED])
def test_a_whole_file_is_taken_when_it_is_closed_or_renamed_into_place(desk, touch):
    """At once: a format that judges itself needs no quiet period then."""
    desk.put("a.box", box(3))
    assert desk.look({"a.box": touch}) == ["a.box"]
    assert desk.again == {}


def test_a_whole_file_that_nobody_closed_is_taken_after_a_quiet_period(desk):
    """Found by a scan, it may still be open: it is looked at again when the period is over, not before."""
    desk.put("a.box", box(3))
    assert desk.look({"a.box": Touch.SEEN}, now=0) == []
    assert desk.again == {"a.box": QUIET}
    assert desk.look({"a.box": Touch.SEEN}, now=QUIET - 0.1) == []
    assert desk.look({"a.box": Touch.SEEN}, now=QUIET) == ["a.box"]


def refused(desk, not_before):
    """The sightings have reported `a.box`, and it could not be taken."""
    path = str(desk.put("a.box", box(3)))
    (drop,) = desk.sightings.look({path: Touch.CLOSED}, Moment(0, FRESH)).drops
    assert desk.look({"a.box": Touch.SEEN}) == []
    desk.sightings.take_back(drop, not_before)


def test_a_drop_that_could_not_be_taken_is_reported_again(desk):
    """When its time has come and no look before that, though nothing of it has changed; then it is known like any other."""
    refused(desk, not_before=5)
    assert desk.look({"a.box": Touch.SEEN}, now=4) == []
    assert desk.again == {"a.box": 5}
    assert desk.look({"a.box": Touch.SEEN}, now=5) == ["a.box"]
    assert desk.look({"a.box": Touch.SEEN}, now=5) == []


def test_a_drop_that_could_not_be_taken_and_changed_is_another(desk):
    """Why the other could not be taken says nothing of it."""
    refused(desk, not_before=5)
    desk.put("a.box", box(4))
    assert desk.look({"a.box": Touch.CLOSED}, now=1) == ["a.box"]


def test_what_could_not_be_taken_is_reported_at_once_if_asked_for(desk):
    """Whoever asks may have mended what was in the way."""
    refused(desk, not_before=5)
    desk.sightings.retry_refused()
    assert desk.look({"a.box": Touch.SEEN}, now=1) == ["a.box"]


def test_a_file_long_at_rest_is_taken_at_once(desk):
    """Its stamps say that the quiet period is over."""
    desk.put("a.box", box(3))
    assert desk.look({"a.box": Touch.SEEN}, wall=OLD) == ["a.box"]


def test_stamps_of_a_foreign_clock_prove_nothing(tmp_path):
    """On a network file system a server whose clock is behind makes growing files look old."""
    desk = Desk(tmp_path, trust_stamps=False)
    desk.put("a.box", box(3))
    assert desk.look({"a.box": Touch.SEEN}, now=0, wall=OLD) == []
    assert desk.look({"a.box": Touch.SEEN}, now=QUIET, wall=OLD) == ["a.box"]


def test_an_old_mtime_that_was_set_proves_nothing(desk):
    """A copy that keeps times sets mtime back; ctime is the kernel's."""
    path = desk.put("a.box", box(3))
    os.utime(path, (1, 1))
    wall = path.stat().st_ctime
    assert desk.look({"a.box": Touch.SEEN}, now=0, wall=wall) == []
    assert desk.look({"a.box": Touch.SEEN}, now=QUIET, wall=wall + QUIET) == ["a.box"]


@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "forward"])
def test_a_clock_that_is_set_makes_nothing_look_at_rest(desk, step):
    """A directory that is written right now has old stamps then, or ones still to come: what counts is what was seen."""
    path = desk.put("s/a.npy", box(1))
    wall = path.stat().st_ctime
    assert desk.look({"s": Touch.SEEN}, now=0, wall=wall) == []
    assert desk.look({"s": Touch.SEEN}, now=1, wall=wall + step + 1) == []
    assert desk.look({"s": Touch.SEEN}, now=QUIET - 0.1, wall=wall + step + QUIET - 0.1) == []
    assert desk.look({"s": Touch.SEEN}, now=QUIET + 0.1, wall=wall + step + QUIET + 0.1) == ["s"]


def test_a_file_that_grows_is_never_taken_early(desk):
    """Each change starts the quiet period anew, whatever the structure says in between."""
    path = desk.put("a.box", b"")
    for step in range(10):
        with path.open("ab") as file:
            file.write(b"9" if step == 0 else b"x")
        assert desk.look({"a.box": Touch.SEEN}, now=step * (QUIET - 1)) == []
        assert desk.again == {"a.box": step * (QUIET - 1) + QUIET}
    assert desk.claims.box.asked == 0
    assert desk.look({"a.box": Touch.SEEN}, now=9 * (QUIET - 1) + QUIET) == ["a.box"]


def test_a_change_takes_back_that_the_file_was_closed(desk):
    """Closed half-way, then written on: what counts is the close after the last change."""
    desk.put("a.box", b"3xx")
    assert desk.look({"a.box": Touch.CLOSED}) == []
    desk.put("a.box", box(3))
    assert desk.look({"a.box": Touch.SEEN}, now=1) == []
    assert desk.look({"a.box": Touch.CLOSED}, now=2) == ["a.box"]


def test_an_incomplete_file_is_given_up_one_quiet_period_after_it_was_closed(desk):
    """A truncated file becomes a failed job with a reason, not an endless wait; it is parsed once."""
    desk.put("a.box", b"3xx")
    assert desk.look({"a.box": Touch.CLOSED}, now=0) == []
    assert desk.again == {"a.box": QUIET}
    assert desk.look({"a.box": Touch.SEEN}, now=QUIET) == ["a.box"]
    assert desk.claims.box.asked == 1


def test_an_incomplete_file_that_nobody_closed_is_given_up_much_later(desk):
    """Its writer may only be slow: many quiet periods pass, with one look in each."""
    desk.put("a.box", b"3xx")
    now, looks = 0.0, 0
    while not desk.look({"a.box": Touch.SEEN}, now=now):
        now = desk.again["a.box"]
        looks += 1
    assert now == QUIET * GIVE_UP_QUIET_PERIODS
    assert looks <= GIVE_UP_QUIET_PERIODS


def test_a_corrupt_file_is_reported_when_it_is_closed_and_not_before(desk):
    """Mid-write anything may look corrupt; at rest the export shall say what is wrong."""
    desk.put("a.box", b"not a box")
    assert desk.look({"a.box": Touch.SEEN}) == []
    assert desk.look({"a.box": Touch.CLOSED}) == ["a.box"]


@pytest.mark.parametrize(
    "error",
    [EnvironmentFault("permission-denied", "no"), PermissionError(13, "no"), DropError("source-corrupt", "no")],
)
def test_a_file_that_cannot_be_judged_is_reported(desk, error, monkeypatch):
    """The export meets the same error, and shows it where people look."""

    def refuse(path):
        raise error

    desk.put("a.box", box(1))
    monkeypatch.setattr(desk.claims.box, "is_complete", refuse)
    assert desk.look({"a.box": Touch.CLOSED}) == ["a.box"]


def test_a_file_that_vanishes_while_it_is_judged_is_looked_at_again(desk, monkeypatch):
    """No report, no error, and no busy loop."""

    def vanish(path):
        raise DropError("source-missing", "gone")

    desk.put("a.box", box(1))
    monkeypatch.setattr(desk.claims.box, "is_complete", vanish)
    assert desk.look({"a.box": Touch.CLOSED}) == []
    assert desk.again == {"a.box": QUIET}


def test_a_drop_is_reported_once_and_again_when_it_changed(desk):
    """Its identity tells; a touch without a change tells nothing new."""
    desk.put("a.box", box(3))
    assert desk.look({"a.box": Touch.CLOSED}) == ["a.box"]
    assert desk.look({"a.box": Touch.CLOSED}) == []
    desk.put("a.box", box(4))
    assert desk.look({"a.box": Touch.CLOSED}) == ["a.box"]


def test_a_file_that_went_away_is_forgotten(desk):
    """Nothing is remembered of what no longer exists."""
    path = desk.put("a.box", box(3))
    desk.look({"a.box": Touch.CLOSED})
    path.unlink()
    assert desk.look({"a.box": Touch.SEEN}) == []
    assert desk.sightings.changed() == []
    assert not desk.sightings._known()


def test_only_what_changed_needs_another_look(desk):
    """The cheap check leaves reported files alone and names changed, unreported and vanished ones."""
    for name in ("same", "other", "gone", "partial"):
        desk.put(f"{name}.box", box(3) if name != "partial" else b"3")
    desk.look(dict.fromkeys(("same.box", "other.box", "gone.box", "partial.box"), Touch.CLOSED))
    desk.put("other.box", box(4))
    (desk.root / "gone.box").unlink()
    names = sorted(os.path.basename(path) for path in desk.sightings.changed())  # noqa: PTH119 - they are strings
    assert names == ["gone.box", "other.box", "partial.box"]


@pytest.mark.parametrize("name", [".a.box", "a.box.tmp", "a.box.part", "r.export.result.json", "a.txt"])
def test_other_names_are_no_drops(desk, name):
    """Hidden, temporary, our own, or of no format."""
    desk.put(name, box(1))
    assert desk.look({name: Touch.CLOSED}) == []
    assert not desk.sightings._known()


@pytest.mark.parametrize(
    ("name", "kind"), [("r.export.json", "json"), ("r.export.toml", "toml"), ("r.export.binpb", "binpb")]
)
def test_a_request_is_taken_when_it_is_closed_and_not_empty(desk, name, kind):
    """An empty one is still to be written; found by a scan it must have been left alone."""
    desk.put(name, b"")
    assert desk.look({name: Touch.CLOSED}) == []
    path = desk.put(name, b"{}")
    assert desk.look({name: Touch.SEEN}) == []
    looked = desk.sightings.look({str(path): Touch.CLOSED}, Moment(0, FRESH))
    assert [(drop.path, drop.kind, drop.format) for drop in looked.drops] == [(path, "request", kind)]


def test_a_symlink_to_a_file_is_followed_and_one_to_a_directory_is_not(desk, tmp_path_factory):
    """The file may lie anywhere; a directory elsewhere is not entered."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.npy").write_bytes(box(1))
    (desk.root / "l.box").symlink_to(elsewhere / "a.npy")
    (desk.root / "d").symlink_to(elsewhere)
    (desk.root / "loop.box").symlink_to(desk.root / "loop.box")
    assert desk.look({"l.box": Touch.CLOSED, "d": Touch.MOVED, "loop.box": Touch.CLOSED}) == ["l.box"]


def test_a_fifo_is_no_drop(desk):
    """Opening one would wait for its writer."""
    os.mkfifo(desk.root / "f.box")
    assert desk.look({"f.box": Touch.CLOSED}, wall=OLD) == []


def test_a_flat_watch_takes_nothing_from_deeper_down(tmp_path):
    """Files in the root and directories in the root, no more."""
    desk = Desk(tmp_path, recursive=False)
    desk.put("d/a.box", box(1))
    desk.put("s/a.npy", box(1))
    touches = {"d": Touch.SEEN, "d/a.box": Touch.CLOSED, "s": Touch.SEEN, "s/a.npy": Touch.CLOSED}
    assert desk.look(touches, wall=OLD) == ["s"]


def test_a_directory_is_taken_when_it_is_renamed_into_place(desk):
    """With its files; they are no drops of their own."""
    desk.put("s/a.npy", box(1))
    desk.put("s/b/c.npy", box(2))
    touches = {"s": Touch.MOVED, "s/b": Touch.MOVED, "s/a.npy": Touch.MOVED, "s/b/c.npy": Touch.MOVED}
    assert desk.look(touches) == ["s"]


def test_a_directory_written_in_place_is_taken_after_a_quiet_period(desk):
    """That its files were closed does not say that no further file will come."""
    desk.put("s/a.npy", box(1))
    assert desk.look({"s": Touch.SEEN, "s/a.npy": Touch.CLOSED}, now=0) == []
    desk.put("s/b.npy", box(2))
    assert desk.look({"s/b.npy": Touch.CLOSED}, now=6) == []
    assert desk.again == {"s": 6 + QUIET}
    assert desk.look({"s": Touch.SEEN}, now=6 + QUIET - 1) == []
    now = desk.again["s"]
    assert desk.look({"s": Touch.SEEN}, now=now) == ["s"]
    assert desk.look({"s": Touch.SEEN}, now=now + 1) == []


def test_a_change_deep_in_a_directory_makes_it_a_new_drop(desk):
    """Any array's change, and no other file's."""
    desk.put("s/a.npy", box(1))
    desk.put("s/b/c.npy", box(2))
    assert desk.look({"s": Touch.SEEN}, wall=OLD) == ["s"]
    desk.put("s/b/readme.txt", b"new")
    assert desk.look({"s/b/readme.txt": Touch.CLOSED, "s": Touch.SEEN}, wall=OLD) == []
    desk.put("s/b/c.npy", box(3))
    assert desk.look({"s": Touch.SEEN}, wall=OLD) == ["s"]


def test_a_directory_that_was_moved_away_is_forgotten_with_all_below(desk):
    """The kernel tells of the directory only."""
    desk.put("d/a.box", box(1))
    desk.put("d/e/b.box", box(1))
    desk.put("dd.box", box(1))
    desk.look(dict.fromkeys(("d/a.box", "d/e/b.box", "dd.box"), Touch.CLOSED))
    shutil.move(desk.root / "d", desk.root.parent / f"{desk.root.name}-away")
    below = desk.sightings.below([str(desk.root / "d")])
    assert len(below) == 2
    desk.sightings.look(dict.fromkeys(below, Touch.SEEN), Moment(0, FRESH))
    assert [os.path.basename(path) for path in desk.sightings._known()] == ["dd.box"]  # noqa: PTH119 - they are strings


def test_a_sharded_drop_is_taken_with_its_last_shard_if_the_index_came_first(desk):
    """The shard's event makes the index be judged again."""
    desk.index("m", "m-1-of-2.safetensors", "m-2-of-2.safetensors")
    assert desk.look({"m.safetensors.index.json": Touch.CLOSED}) == []
    desk.put("m-1-of-2.safetensors", box(1))
    assert desk.look({"m-1-of-2.safetensors": Touch.CLOSED}, now=1) == []
    desk.put("m-2-of-2.safetensors", b"2x")
    assert desk.look({"m-2-of-2.safetensors": Touch.SEEN}, now=2) == []
    desk.put("m-2-of-2.safetensors", box(2))
    assert desk.look({"m-2-of-2.safetensors": Touch.CLOSED}, now=3) == ["m.safetensors.index.json"]


def test_a_sharded_drop_is_taken_with_its_index_if_the_shards_came_first(desk):
    """That the shards were closed is remembered until the index says that they are shards."""
    desk.put("m-1-of-2.safetensors", box(1))
    desk.put("m-2-of-2.safetensors", box(1))
    shards = {"m-1-of-2.safetensors": Touch.CLOSED, "m-2-of-2.safetensors": Touch.MOVED}
    assert desk.look(shards) == []
    assert desk.look(dict.fromkeys(shards, Touch.SEEN)) == []
    desk.index("m", *shards)
    assert desk.look({"m.safetensors.index.json": Touch.CLOSED}) == ["m.safetensors.index.json"]


def test_a_new_shard_makes_a_sharded_drop_a_new_one(desk):
    """And an index that names other shards lets the old ones go."""
    desk.index("m", "1.safetensors", "2.safetensors")
    desk.put("1.safetensors", box(1))
    desk.put("2.safetensors", box(1))
    assert desk.look({"m.safetensors.index.json": Touch.CLOSED}, wall=OLD) == ["m.safetensors.index.json"]
    desk.put("2.safetensors", box(2))
    assert desk.look({"2.safetensors": Touch.CLOSED}, wall=OLD) == ["m.safetensors.index.json"]
    desk.index("m", "1.safetensors")
    assert desk.look({"m.safetensors.index.json": Touch.CLOSED}, wall=OLD) == ["m.safetensors.index.json"]
    desk.put("2.safetensors", box(3))
    assert desk.look({"2.safetensors": Touch.SEEN}, wall=OLD) == []
    (desk.root / "m.safetensors.index.json").unlink()
    desk.look({"m.safetensors.index.json": Touch.SEEN})
    assert not desk.sightings._owners


def test_an_index_that_cannot_be_read_is_reported_when_it_is_closed(desk):
    """The format says what is wrong with it."""
    desk.put("m.safetensors.index.json", b"[")
    desk.claims.set.is_complete = lambda path: (_ for _ in ()).throw(DropError("source-corrupt", "no"))
    assert desk.look({"m.safetensors.index.json": Touch.SEEN}) == []
    assert desk.look({"m.safetensors.index.json": Touch.CLOSED}) == ["m.safetensors.index.json"]


def test_drops_found_together_are_reported_oldest_first(desk):
    """A backlog comes in the order in which it was written."""
    for age, name in enumerate(("c.box", "a.box", "b.box")):
        os.utime(desk.put(name, box(1)), (age + 1, age + 1))
    assert desk.look(dict.fromkeys(("a.box", "b.box", "c.box"), Touch.SEEN), wall=OLD) == ["c.box", "a.box", "b.box"]
