"""The formats that smdaemon reads. A new one is a module with a `Format`, named in FORMATS."""

import os
import stat
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.paths import is_directory
from smdaemon.sources.base import Format, Identity, PartedFormat, Source
from smdaemon.sources.checkpoint_state import is_checkpoint
from smdaemon.sources.files import source_fault, stat_of
from smdaemon.sources.flax_msgpack import FlaxMsgpackFormat
from smdaemon.sources.keras_weights import KerasWeightsFormat
from smdaemon.sources.npy import NpyDirectoryFormat, NpyFormat
from smdaemon.sources.npz import NpzFormat
from smdaemon.sources.orbax import OrbaxFormat
from smdaemon.sources.orbax_layout import is_temporary, items_of
from smdaemon.sources.safetensors import SafetensorsFormat
from smdaemon.sources.sharded import ShardedSafetensorsFormat
from smdaemon.sources.tf_checkpoint import (
    TF1_CHECKPOINT,
    TF_CHECKPOINT,
    SavedModelFormat,
    TfCheckpointFormat,
    is_saved_model,
)

FORMATS: tuple[Format, ...] = (
    NpzFormat(),
    NpyFormat(),
    OrbaxFormat(),  # before the directories of .npy: a checkpoint is told by a look at a few names, those by a walk
    NpyDirectoryFormat(),
    SafetensorsFormat(),
    ShardedSafetensorsFormat(),
    FlaxMsgpackFormat(),
    KerasWeightsFormat(),
    TfCheckpointFormat(),
    # never told by its name alone: whoever names it says that a .meta belongs to every checkpoint
    TfCheckpointFormat(TF1_CHECKPOINT, wait_for_graph=True),
    SavedModelFormat(),
)
AUTO = "auto"
"""Stands for the format that the name of the drop tells."""

_UNFINISHED = (".tmp", ".part")


def format_named(name: str) -> Format:
    """The format of that name; DropError `source-unknown-format` for any other."""
    for known in FORMATS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise DropError("source-unknown-format", f"there is no format {name!r}; known are {names}")


def unfinished(name: str) -> bool:
    """Whether nothing of this name is a drop, or part of one, yet: hidden, `.tmp`, `.part`, or what Orbax is saving."""
    return name.startswith(".") or name.endswith(_UNFINISHED) or is_temporary(name)


def claiming(path: Path) -> Format | None:
    """The format whose drop this entry of a watched directory is; None for what is nobody's.

    Looks at names only. What is `unfinished` is nobody's.
    """
    if unfinished(path.name):
        return None
    return next((known for known in FORMATS if known.claims(path)), None)


def detect(path: Path) -> Format:
    """The format of a path that the user names; here hidden names and single shards are taken at their word.

    A SavedModel is taken before an Orbax checkpoint, that before one of TensorFlow, which may be named by its prefix, and a
    directory of arrays last.
    DropError `source-missing` where nothing is there, `source-unknown-format` where the name tells no format.
    """
    if is_saved_model(path):
        return format_named(SavedModelFormat.name)
    if items_of(path):
        return format_named(OrbaxFormat.name)
    if is_checkpoint(path):
        return format_named(TF_CHECKPOINT)
    if stat.S_ISDIR(stat_of(path).st_mode):
        found = next((known for known in FORMATS if not known.suffix and known.claims(path)), None)
    else:
        # the longest suffix first: an index of shards also ends in .json
        suffixed = sorted((known for known in FORMATS if known.suffix), key=lambda known: -len(known.suffix))
        found = next((known for known in suffixed if path.name.endswith(known.suffix)), None)
    if found is None:
        raise DropError("source-unknown-format", f"the name of {str(path)!r} tells no format")
    return found


def open_source(path: Path, format: str = AUTO) -> Source:  # noqa: A002 - the word of the configuration and of the CLI
    """The opened source; `format` is a format's name or "auto".

    Raises DropError where it is missing, unknown or unsound, EnvironmentFault where it cannot be read.
    """
    try:
        return (detect(path) if format == AUTO else format_named(format)).open(path)
    except OSError as error:
        raise source_fault(error, path) from error


def identity_of(path: Path, format: str = AUTO) -> Identity:  # noqa: A002 - as in open_source
    """Which content lies at a path: that of all files that make it a drop, as far as they are there.

    Raises DropError and EnvironmentFault as `open_source`, but for what is unsound in the files.
    """
    try:
        known = detect(path) if format == AUTO else format_named(format)
        parts = known.parts(path) if isinstance(known, PartedFormat) else [os.fspath(path)]
        if parts == [os.fspath(path)]:
            return Identity.of(stat_of(path))
        top = path if is_directory(path) else path.parent
        return Identity.combined({part.removeprefix(f"{top}/"): found for part in parts if (found := _identity(part))})
    except OSError as error:
        raise source_fault(error, path) from error


def _identity(part: str) -> Identity | None:
    try:
        return Identity.of(stat_of(Path(part)))
    except DropError as error:
        if error.code != "source-missing":
            raise
        return None


def unchanged(source: Source) -> None:
    """DropError `source-changed` unless every file of the source is still the one that was opened. Ask when all is read."""
    source.check_unchanged()
