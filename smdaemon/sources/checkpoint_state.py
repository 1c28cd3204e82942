"""Which checkpoint a path means: an index, any other file of it, its prefix, or a directory with a `checkpoint` state file.

    checkpoint                          CheckpointState in text format: which prefix is the latest
    model.ckpt-100.index                what is in the data files; written last of the two
    model.ckpt-100.data-00000-of-00001  the values
    model.ckpt-100.meta                 the graph, of TensorFlow 1's Saver; written after the state file

Source of the format: `checkpoint_state.proto` and the order in which TensorFlow 1's `Saver.save` writes.
"""

import os
import re
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.paths import exists, is_file
from smdaemon.sources.files import SourceFile

STATE_FILENAME = "checkpoint"
INDEX_SUFFIX = ".index"
META_SUFFIX = ".meta"

_STATE_LIMIT_BYTES = 4 << 20
_DATA = re.compile(r"\.data-[0-9]{5}-of-[0-9]{5}$")


def is_checkpoint(path: Path) -> bool:
    """Whether the path names a checkpoint, by names alone: one of its files, its prefix, a directory with a state file.

    OSError where that cannot be told.
    """
    return is_file(path / STATE_FILENAME) or is_file(_index_of(path))


def checkpoint_prefix(path: Path, *, anywhere: bool = False) -> Path:
    """The prefix of the checkpoint that `path` names.

    In a directory the latest one that the state file names. That must lie beneath the directory, unless `anywhere`; where the
    directory was moved and the state file still has its old place, the checkpoint of that name beside it is taken.
    Raises DropError `source-missing` without state file, `checkpoint-state-invalid` for one that cannot be followed.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - this one never raises
        return Path(os.fspath(_index_of(path)).removesuffix(INDEX_SUFFIX))
    named = _latest(path / STATE_FILENAME)
    latest = path / named
    # not Path.resolve, which raises what is no OSError where links lead round in a circle
    if anywhere or Path(os.path.realpath(latest)).is_relative_to(os.path.realpath(path)):
        return latest
    beside = path / Path(named).name
    if not exists(f"{latest}{INDEX_SUFFIX}") and exists(f"{beside}{INDEX_SUFFIX}"):
        return beside
    raise DropError(
        "checkpoint-state-invalid",
        f"the state file {str(path / STATE_FILENAME)!r} points to {named!r}, which lies outside its directory",
    )


def is_data_file(name: str) -> bool:
    """Whether this is the name of a data file of a bundle."""
    return _DATA.search(name) is not None


def _index_of(path: Path) -> Path:
    """The index that belongs to a path: itself, the one beside a data file or graph, or that of a prefix."""
    if path.name.endswith(INDEX_SUFFIX):
        return path
    stem = os.fspath(path).removesuffix(META_SUFFIX) if path.name.endswith(META_SUFFIX) else os.fspath(path)
    return Path(_DATA.sub("", stem) + INDEX_SUFFIX)


def _latest(path: Path) -> str:
    """The prefix that the state file names."""
    from google.protobuf import text_format

    from smdaemon.proto.pool import pool
    from smdaemon.proto.tensorflow import CheckpointState

    try:
        state = text_format.Parse(_content(path).decode(), CheckpointState(), descriptor_pool=pool())
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise DropError("checkpoint-state-invalid", f"{str(path)!r} is no checkpoint state: {error}") from error
    named = str(state.model_checkpoint_path)
    if not named or "\0" in named:
        raise DropError("checkpoint-state-invalid", f"the state file {str(path)!r} names no checkpoint")
    return named


def _content(path: Path) -> bytes:
    file = SourceFile(path)
    try:
        if file.size > _STATE_LIMIT_BYTES:
            raise DropError("checkpoint-state-invalid", f"{str(path)!r} has {file.size} bytes: it is no state file")
        return file.read(0, file.size)
    finally:
        file.close()
