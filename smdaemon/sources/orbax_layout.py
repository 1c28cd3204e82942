"""Which directory is an Orbax checkpoint, which directories in it hold tensors, and whether it is finished.

    41/                          a step: what CheckpointManager saves
    41/_CHECKPOINT_METADATA      JSON: which items there are, when saving began and when it was committed
    41/commit_success.txt        written last; its text names the directory that was committed
    41/default/                  an item; there may be several, and some that hold no tensors (metrics, JSON)
    41/default/_METADATA         JSON: the tree of the tensors
    41/default/manifest.ocdbt    an OCDBT database with all arrays, its data below d/ and ocdbt.process_*/, or
    41/default/NAME/.zarray      one directory for each array (zarr.json in zarr 3)

A checkpointer without a manager saves an item with the three files in one directory. Older releases write neither
`_CHECKPOINT_METADATA` nor `commit_success.txt`.

Orbax saves under a name with `.orbax-checkpoint-tmp` and renames it, or, where it is told that renames are not atomic, saves
in place and ends with `commit_success.txt`. Hence the rule of `committed`.

Source of the format: orbax-checkpoint 0.12, `_src/path/atomicity.py`, `_src/path/step.py`, `_src/metadata/checkpoint.py`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smdaemon.errors import DropError
from smdaemon.paths import can_name_a_file, exists, is_file
from smdaemon.sources.files import SourceFile
from smdaemon.sources.safetensors import parse_object

TEMPORARY_MARK = ".orbax-checkpoint-tmp"
STEP_METADATA = "_CHECKPOINT_METADATA"
TREE_METADATA = "_METADATA"
COMMIT_FILE = "commit_success.txt"
MANIFEST = "manifest.ocdbt"
STRINGS = "_strings.json"
AGGREGATE = "checkpoint"

TELLING = frozenset([STEP_METADATA, TREE_METADATA, COMMIT_FILE])
"""The files by whose coming a directory becomes a checkpoint or a finished one."""

MAX_METADATA_BYTES = 100_000_000

_ITEM_FILES = frozenset([*TELLING, MANIFEST, STRINGS, AGGREGATE])
_STEP_NAME = re.compile(r"(?:.+_)?[0-9]+")
_MANIFEST_MAGIC = bytes.fromhex("0cdb3a2a")
_COMMITTED = re.compile(r"Checkpoint commit was successful to (.+)", re.DOTALL)


def items_of(path: Path) -> dict[str, Path]:
    """The directories of a checkpoint that hold tensors, by item name; {"": path} where it is one itself. Empty for any other.

    OSError where that cannot be told. By names alone: an item holds `_METADATA`. A directory with items is a step if it holds `_CHECKPOINT_METADATA`, or, as older
    releases leave it, if it is named like one (`41`, `step_41`) and its items are not: those are checkpoints of their own.
    """
    if is_file(path / TREE_METADATA):
        return {"": path}
    is_step = is_file(path / STEP_METADATA)
    if not is_step and not _STEP_NAME.fullmatch(path.name):
        return {}
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return {
        name: path / name
        for name in names
        if not name.startswith(".")
        and not is_temporary(name)
        and (is_step or not _STEP_NAME.fullmatch(name))
        and is_file(path / name / TREE_METADATA)
        and not is_file(path / name / STEP_METADATA)
    }


def is_temporary(name: str) -> bool:
    """Whether Orbax saves under this name until it renames it."""
    return TEMPORARY_MARK in name


def committed(path: Path) -> bool | None:
    """Whether Orbax finished saving; None where nothing tells it but the name, as in older releases: it was renamed then.

    True with `commit_success.txt`, or with the time of the commit in `_CHECKPOINT_METADATA`; False under a temporary name, or where
    only the time of the beginning is there. An item is asked about like the step that it is of.
    """
    if is_temporary(path.name) or is_temporary(path.parent.name):
        return False
    if exists(path / COMMIT_FILE):
        return True
    if exists(path / STEP_METADATA):
        fields = step_metadata(path)
        return fields is not None and type(fields.get("commit_timestamp_nsecs")) is int
    return committed(path.parent) if path.name in items_of(path.parent) else None


def step_metadata(path: Path) -> dict[str, Any] | None:
    """What `_CHECKPOINT_METADATA` says; None if there is none, or only a part of it yet."""
    return read_json(path / STEP_METADATA) if exists(path / STEP_METADATA) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file of the checkpoint; None while its end is missing. DropError where it is none."""
    file = SourceFile(path, follow=False)
    try:
        if file.size > MAX_METADATA_BYTES:
            raise DropError(
                "source-header-too-large", f"{str(path)!r} has {file.size} bytes, over {MAX_METADATA_BYTES}"
            )
        text = file.read(0, file.size)
    finally:
        file.close()
    return parse_object(text, str(path)) if text.rstrip().endswith(b"}") else None


def items_arrived(path: Path) -> bool:
    """Whether every item that `_CHECKPOINT_METADATA` lists is there; while a checkpoint is copied, some are not."""
    fields = step_metadata(path)
    if fields is None:
        return not exists(path / STEP_METADATA)  # where it is there, a part of it is still to come
    listed = fields.get("item_handlers")
    names = listed if isinstance(listed, dict) else {}
    return all(exists(path / name) for name in names if can_name_a_file(name))


def manifest_arrived(item: Path) -> bool:
    """Whether the manifest of an OCDBT database has the length that it says: magic, then its length, 8 bytes little-endian."""
    file = SourceFile(item / MANIFEST, follow=False)
    try:
        start = file.read(0, min(file.size, 12))
    finally:
        file.close()
    if start[:4] != _MANIFEST_MAGIC[: len(start)]:
        raise DropError("source-corrupt", f"{str(file.path)!r} does not begin like an OCDBT manifest: {start[:4]!r}")
    return len(start) == 12 and file.size >= int.from_bytes(start[4:], "little")


def names_itself(marker: Path) -> bool:
    """Whether `commit_success.txt` was written for the directory that it lies in, not copied there from another."""
    file = SourceFile(marker, follow=False)
    try:
        text = file.read(0, min(file.size, 8192))
    finally:
        file.close()
    said = _COMMITTED.fullmatch(os.fsdecode(text))
    return said is not None and "\0" not in said[1] and os.path.realpath(said[1]) == os.path.realpath(marker.parent)


def parts_of(path: Path) -> list[str]:
    """Every file whose change makes it another checkpoint: those of the items, and what says that it is committed.

    Not what others put beside the items later, such as the results of an evaluation. OSError where a directory goes away.
    """
    found = {os.fspath(path / name) for name in (STEP_METADATA, COMMIT_FILE) if exists(path / name)}
    for item in items_of(path).values():
        found.update(entry.path for entry in item_files(item))
    return sorted(found)


def item_files(item: Path) -> Iterator[os.DirEntry[str]]:
    """What an item is made of: its own files, and all that is no directory beneath it, hidden files too (`.zarray`).

    A link to a directory is given as it is, not followed. OSError where a directory goes away.
    """
    top = os.fspath(item)
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif directory != top or entry.name in _ITEM_FILES or entry.is_dir():
                    yield entry
