"""Orbax checkpoints as sources: the step directories of a CheckpointManager, and what a checkpointer saves by itself.

A step with one item that holds tensors gives them under their own names, the paths of the tree joined with "/". With several
items the item's name comes first: `state/params/w`, `ema/params/w`. Items without tensors (metrics, JSON) do not count.

Scalars of Python are stored as arrays of no dimension, int64 and float64, and are tensors. Strings are metadata, under the same
name; so are the plain values of what the user saved as custom metadata. None and empty containers are left out. Values in the
aggregate file of older releases are read as flax_msgpack.py describes. What the state says about its `step` is metadata, and for
an item that is named by itself so is the step that it lies in.

Nothing in the checkpoint leads out of it: no symbolic link is followed, and no name is taken that would.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smdaemon.errors import DropError
from smdaemon.paths import exists
from smdaemon.sources.files import SourceFile, source_fault, stat_of
from smdaemon.sources.flax_msgpack import open_tree, whole_number
from smdaemon.sources.opened import FileSource, check_any, check_name, most_working_bytes
from smdaemon.sources.orbax_layout import (
    AGGREGATE,
    COMMIT_FILE,
    MANIFEST,
    STRINGS,
    committed,
    is_temporary,
    item_files,
    items_arrived,
    items_of,
    manifest_arrived,
    names_itself,
    parts_of,
    step_metadata,
)
from smdaemon.sources.orbax_tree import Tree, directory_of, read_strings, read_tree, scalars
from smdaemon.sources.step import step_of
from smdaemon.tensorbundle.tensors import Tensor

_STEPS = ("step", "global_step")
_PLACEHOLDER = "PLACEHOLDER://"


class _Opened(NamedTuple):
    """An item that was opened, and the host memory that reading one of its tensors takes at most beside its buffers."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    working_bytes: int


class OrbaxFormat:
    """A directory that Orbax saved; while Orbax saves, it is none yet or not finished."""

    name = "orbax"
    suffix = ""
    self_judging = True

    def claims(self, path: Path) -> bool:
        """Whether it is a step with an item that holds tensors, or such an item, and has its final name."""
        return not is_temporary(path.name) and bool(items_of(path))

    def is_complete(self, path: Path) -> bool:
        """Whether it was committed, as far as it says, and every item and every array that it tells of is there."""
        stat_of(path)
        items = items_of(path)
        if not items or committed(path) is False or not items_arrived(path):
            return False
        return all(_has_arrived(item) for item in items.values())

    def parts(self, path: Path) -> list[str]:
        """See `DirectoryFormat`."""
        return parts_of(path)

    def seals(self, path: Path, file: Path) -> bool:
        """Whether it is `commit_success.txt`, and of this checkpoint: a copy's may come before the data."""
        return file == path / COMMIT_FILE and names_itself(file)

    def open(self, path: Path) -> FileSource:
        """See `Format`; ConfigError `extra-missing` without tensorstore, DropError `source-truncated` while it is not finished."""
        stat_of(path)
        items = items_of(path)
        if not items:
            raise DropError(
                "source-unknown-format",
                f"{str(path)!r} is no Orbax checkpoint: no _METADATA lies in it or in a part of it",
            )
        if committed(path) is False:
            raise DropError(
                "source-truncated",
                f"the checkpoint {str(path)!r} was not committed: Orbax is saving it, or was stopped",
            )
        files: list[SourceFile] = []
        tensors: dict[str, Tensor] = {}
        working_bytes = 0
        metadata = scalars((step_metadata(path) or {}).get("custom_metadata"))
        for name, item in items.items():
            opened = _opened(item, files)
            prefix = f"{name}/" if len(items) > 1 else ""
            for own, tensor in opened.tensors.items():
                check_name(prefix + own)
                tensors[prefix + own] = tensor
            metadata.update((prefix + own, text) for own, text in opened.metadata.items())
            working_bytes = max(working_bytes, opened.working_bytes)
        check_any(tensors, path)
        return FileSource(
            self.name, path, tensors, _step(path, tensors, items) | metadata, files, working_bytes=working_bytes
        )


def _has_arrived(item: Path) -> bool:
    tree = read_tree(item)
    if tree is None or (tree.strings and not exists(item / STRINGS)):
        return False
    if exists(item / MANIFEST):
        return manifest_arrived(item)
    described = "zarr.json" if tree.zarr3 else ".zarray"
    return all(exists(directory_of(item, stored) / described) for stored in tree.arrays)


def _opened(item: Path, files: list[SourceFile]) -> _Opened:
    """What is in an item; its files are added to `files`."""
    from smdaemon.sources.orbax_values import Arrays

    own = _files_of(item)
    files.extend(own)
    tree = read_tree(item)
    if tree is None:
        raise DropError("source-truncated", f"the _METADATA of {str(item)!r} ends before its end")

    def check_unchanged() -> None:
        for file in own:
            file.check_unchanged()

    arrays = Arrays(item, tree, check_unchanged).tensors()
    tensors: dict[str, Tensor] = dict(arrays)
    metadata = dict(read_strings(item, tree.strings)) | dict(tree.metadata)
    for file in own:
        if file.path == item / AGGREGATE:
            _add_aggregated(file, tree, tensors, metadata)
    return _Opened(tensors, metadata, most_working_bytes(arrays))


def _add_aggregated(file: SourceFile, tree: Tree, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """The values that older releases kept in one file; the others it names by placeholders."""
    values, texts = open_tree(file)
    tensors.update((name, tensor) for name, tensor in values.items() if name in tree.aggregated)
    metadata.update((name, text) for name, text in texts.items() if not text.startswith(_PLACEHOLDER))


def _files_of(item: Path) -> list[SourceFile]:
    """The files of an item, each opened once; DropError `source-not-regular` for a link or anything else that is none."""
    try:
        paths = sorted(Path(entry.path) for entry in item_files(item))
    except OSError as error:
        raise source_fault(error, item) from error
    return [SourceFile(path, follow=False, transient=True) for path in paths]


def _step(path: Path, tensors: Mapping[str, Tensor], items: Mapping[str, Path]) -> dict[str, str]:
    """The step, where the name does not tell it: of the step that an item lies in, or as the state has it."""
    if step_of(path, {}) is not None:
        return {}
    found = step_of(path.parent, {}) if path.name in items_of(path.parent) else None
    prefixes = [f"{name}/" for name in items] if len(items) > 1 else [""]
    for name in (prefix + counter for prefix in prefixes for counter in _STEPS):
        found = whole_number(tensors.get(name)) if found is None else found
    return {} if found is None else {"step": str(found)}
