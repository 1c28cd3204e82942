"""Drops that no sound writer would leave, before the ledger and the real formats: each costs itself at most."""

import json
import os
from pathlib import Path

import pytest

from smdaemon.sources import formats
from smdaemon.watch.completeness import Moment, Touch
from smdaemon.watch.drops import Ledger

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
    ledger = Ledger(str(root), formats.claiming, recursive=True, quiet_seconds=0.0)
    drops = []
    for now in (0.0, 1.0):
        touches = dict.fromkeys(map(str, paths), Touch.CLOSED)
        drops += ledger.look(touches, Moment(now, OLD)).drops
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
