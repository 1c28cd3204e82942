"""Drops that no sound writer would leave, before the rules and the real formats: each costs itself at most."""

import json
import os
from pathlib import Path

import pytest
from watch_fakes import BoxFormat, box

from smdaemon.sources import formats
from smdaemon.watch.completeness import Moment, Touch
from smdaemon.watch.drops import Sightings

OLD = 1e12
"""A wall clock so far ahead that every file of the test looks long at rest."""

TEXTS = {
    "NUL": b'{"weight_map": {"a": "\\u0000.safetensors"}}',
    "a lone surrogate": b'{"weight_map": {"a": "\\ud800.safetensors"}}',
    "a byte of a name": b'{"weight_map": {"a": "\\udcff.safetensors"}}',
    "a name too long": json.dumps({"weight_map": {"a": "m" * 300}}).encode(),
    "a way out": b'{"weight_map": {"a": "../x"}}',
    "the directory itself": b'{"weight_map": {"a": ".", "b": ".."}}',
    "no text": b"\xff\xfe[[[[",
    "no object": b"[1]",
    "deep nesting": b"[" * 200_000,
    "nothing": b"",
}
NAMES = (
    *("x.safetensors.index.json", "x.safetensors", "x.npz", "x.npy", "x.msgpack", "x.weights.h5", "x.index"),
    *("d/_METADATA", "d/_CHECKPOINT_METADATA", "d/commit_success.txt", "d/checkpoint", "d/0.npy", "d/saved_model.pb"),
)


def looked_at(root: Path, paths: list[Path]) -> list[str]:
    """What a watch of `root` reports of the paths, each looked at twice; by their names."""
    sightings = Sightings(str(root), formats.claiming, recursive=True, quiet_seconds=0.0)
    drops = []
    for now in (0.0, 1.0):
        touches = dict.fromkeys(map(str, paths), Touch.CLOSED)
        drops += sightings.look(touches, Moment(now, OLD)).drops
    return [drop.path.name for drop in drops]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_file_says_the_drop_beside_it_is_found(tmp_path, name, text):
    """No content ends the watch: names in it that no file can have, no text, no structure."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(TEXTS[text])
    sound = tmp_path / "sound.export.json"
    sound.write_bytes(b"{}")
    assert sound.name in looked_at(tmp_path, [path.parent, path, sound])


@pytest.mark.parametrize("text", ["NUL", "a lone surrogate", "a way out", "the directory itself"])
def test_an_index_that_names_what_no_file_can_be_is_reported(tmp_path, text):
    """Its export says what is wrong with it; nobody waits for a shard that cannot come."""
    index = tmp_path / "x.safetensors.index.json"
    index.write_bytes(TEXTS[text])
    assert looked_at(tmp_path, [index]) == [index.name]


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".index", ".export.json"])
def test_names_that_are_not_utf_8_are_names(tmp_path, suffix):
    """The kernel takes any bytes: such a file is a drop like any other."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9" + suffix.encode()))
    path.write_bytes(b"x")
    if suffix == ".index":
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.data-00000-of-00001")).write_bytes(b"x")
    assert looked_at(tmp_path, [path]) == [path.name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["link", "loop", "pipe", "directory"])
def test_what_is_no_file_in_the_place_of_one_ends_nothing(tmp_path, name, kind):
    """Links, loops of them, pipes and directories under the names of drops."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    {
        "link": lambda: path.symlink_to("/etc/passwd"),
        "loop": lambda: path.symlink_to(path.name),
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }[kind]()
    sound = tmp_path / "sound.export.json"
    sound.write_bytes(b"{}")
    assert sound.name in looked_at(tmp_path, [path.parent, path, sound])


class Broken(BoxFormat):
    """A format with a bug in one of its answers, for files whose name says `bug`."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def claiming(self, path: Path) -> "Broken | None":
        """As `sources.formats.claiming`."""
        self.meet("claims", path)
        return self if path.suffix == ".box" else None

    def is_complete(self, path):
        """See `BoxFormat`."""
        self.meet("is_complete", path)
        return super().is_complete(path)

    def meet(self, where, path):
        """The bug."""
        if where == self._where and "bug" in path.name:
            raise ValueError(f"unforeseen in {where}")


class BrokenDirectory(Broken):
    """The same for directories."""

    def parts(self, path):
        """A directory of one file."""
        self.meet("parts", path)
        return [str(path / "a.npy")]

    def seals(self, path, file):
        """Any file does."""
        self.meet("seals", path)
        return file.parent == path


def broken_watch(root: Path, where: str, *, directories: bool = False):
    """Sightings with the broken format, and how to look at names below its root: what is reported, as (name, bug)."""
    format_ = (BrokenDirectory if directories else Broken)(where)

    def claiming(path: Path):
        claimed = format_.claiming(path)
        return claimed if path.is_dir() is directories else None

    sightings = Sightings(str(root), claiming, recursive=True, quiet_seconds=10.0, trust_stamps=False)

    def look(now: float, *names: str, touch: Touch = Touch.CLOSED):
        drops = sightings.look({str(root / name): touch for name in names}, Moment(now, 0.0)).drops
        return sorted((drop.path.name, drop.bug and str(drop.bug)) for drop in drops)

    return look


def test_a_bug_in_claiming_costs_one_drop_and_only_once_it_is_at_rest(tmp_path):
    """The other drop is reported, and so is this one, with the bug in place of its format."""
    look = broken_watch(tmp_path, "claims")
    for name in ("a.box", "bug.box"):
        (tmp_path / name).write_bytes(box(1))
    assert look(0.0, "bug.box", "a.box") == [("a.box", None)]
    assert look(10.0, "bug.box") == [("bug.box", "unforeseen in claims")]


def test_a_bug_in_judging_is_left_to_the_export_to_tell(tmp_path):
    """A drop that is ready and cannot be judged is reported as it is: its job fails by the same bug."""
    look = broken_watch(tmp_path, "is_complete")
    for name in ("a.box", "bug.box"):
        (tmp_path / name).write_bytes(box(1))
    assert look(0.0, "bug.box", "a.box") == [("a.box", None), ("bug.box", None)]


@pytest.mark.parametrize("where", ["claims", "parts", "seals"])
def test_a_bug_at_a_directory_costs_that_directory(tmp_path, where):
    """Also where it is met at a look at a file in it."""
    look = broken_watch(tmp_path, where, directories=True)
    for name in ("a.box", "bug.box"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.npy").write_bytes(box(1))
    names = ("bug.box/a.npy", "a.box/a.npy")
    assert ("bug.box", None) not in look(0.0, *names)
    assert ("bug.box", f"unforeseen in {where}") in look(10.0, *names)
