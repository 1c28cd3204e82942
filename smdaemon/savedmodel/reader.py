"""Reads the files of a SavedModel into messages; what they say of each other is checked elsewhere (see verify.py)."""

import errno
import os
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from smdaemon.confinement import open_regular
from smdaemon.errors import DropError
from smdaemon.paths import is_file
from smdaemon.savedmodel.constants import (
    DEBUG_DIRECTORY,
    DEBUG_INFO_FILENAME_PB,
    FINGERPRINT_FILENAME,
    OBJECT_GRAPH_KEY,
    SAVED_MODEL_FILENAME_CPB,
    SAVED_MODEL_FILENAME_PB,
    SAVED_MODEL_FILENAME_PBTXT,
    VARIABLES_DIRECTORY,
    VARIABLES_FILENAME,
)
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.reader import INDEX_LIMIT_BYTES, BundleReader

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import FingerprintDef, GraphDebugInfo, SavedModel, TrackableObjectGraph


MESSAGE_LIMIT_BYTES = 2**31 - 1
"""Protobuf parses no message that is longer."""


def read_saved_model(export_dir: Path) -> "tuple[bytes, SavedModel]":
    """The content of `saved_model.pb`, or of `saved_model.pbtxt` without one, and the message in it.

    Raises DropError: `savedmodel-missing` without either, `savedmodel-corrupt` where it holds no meta graph.
    """
    from google.protobuf.message import DecodeError

    from smdaemon.proto.tensorflow import SavedModel

    path = _model_file(export_dir)
    content = _content(path)
    try:
        model = SavedModel.FromString(content) if path.suffix == ".pb" else _parsed_text(content)
    except (DecodeError, ValueError) as error:
        raise DropError("savedmodel-corrupt", f"{str(path)!r} is no SavedModel: {error}") from error
    if not model.meta_graphs:
        raise DropError("savedmodel-corrupt", f"{str(path)!r} holds no meta graph")
    return content, model


def _content(path: Path, limit: int = MESSAGE_LIMIT_BYTES) -> bytes:
    """The content of a file that must be read whole; a pipe is not waited for.

    Raises DropError `savedmodel-corrupt` for what is no regular file and for more than `limit` bytes.
    """
    try:
        descriptor = open_regular(path)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise DropError("savedmodel-corrupt", f"{str(path)!r} is not a file") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise DropError("savedmodel-corrupt", f"{str(path)!r} has {size} bytes, more than {limit}")
        return file.read(size)


def _model_file(export_dir: Path) -> Path:
    """The file that TensorFlow's loaders would take."""
    for name in (SAVED_MODEL_FILENAME_PB, SAVED_MODEL_FILENAME_PBTXT):
        if is_file(export_dir / name):
            return export_dir / name
    if is_file(export_dir / SAVED_MODEL_FILENAME_CPB):
        raise DropError(
            "savedmodel-missing",
            f"{str(export_dir)!r} holds a model split into chunks ({SAVED_MODEL_FILENAME_CPB}), which smdaemon cannot read",
            remedy="save the model again without experimental_image_format",
        )
    raise DropError("savedmodel-missing", f"{str(export_dir)!r} holds no {SAVED_MODEL_FILENAME_PB}")


def _parsed_text(content: bytes) -> "SavedModel":
    from google.protobuf import text_format

    from smdaemon.proto.pool import pool
    from smdaemon.proto.tensorflow import SavedModel

    try:
        return text_format.Parse(content.decode(), SavedModel(), descriptor_pool=pool())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("its messages are nested too deep") from None


def read_fingerprint(export_dir: Path) -> "FingerprintDef | None":
    """The content of `fingerprint.pb`, None without one; DropError `savedmodel-corrupt` where it is something else."""
    from google.protobuf.message import DecodeError

    from smdaemon.proto.tensorflow import FingerprintDef

    path = export_dir / FINGERPRINT_FILENAME
    try:
        fingerprint = FingerprintDef.FromString(_content(path))
    except FileNotFoundError:
        return None
    except DecodeError as error:
        raise DropError("savedmodel-corrupt", f"{str(path)!r} is no fingerprint: {error}") from error
    if not fingerprint.ByteSize():
        raise DropError("savedmodel-corrupt", f"{str(path)!r} is no fingerprint: it is empty")
    return fingerprint


def read_debug_info(export_dir: Path) -> "GraphDebugInfo | None":
    """The content of `debug/saved_model_debug_info.pb`, None without it; DropError `savedmodel-corrupt` where it is something else."""
    from google.protobuf.message import DecodeError

    from smdaemon.proto.tensorflow import GraphDebugInfo

    path = export_dir / DEBUG_DIRECTORY / DEBUG_INFO_FILENAME_PB
    if not is_file(path):
        return None
    try:
        return GraphDebugInfo.FromString(_content(path))
    except DecodeError as error:
        raise DropError("savedmodel-corrupt", f"{str(path)!r} is no debug info: {error}") from error


def variables_prefix(export_dir: Path) -> Path:
    """The prefix of the bundle's files."""
    return export_dir / VARIABLES_DIRECTORY / VARIABLES_FILENAME


def read_index(export_dir: Path) -> bytes | None:
    """The content of the bundle's index; None for a model without variables."""
    try:
        return _content(variables_prefix(export_dir).with_suffix(".index"), INDEX_LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_trackable_graph(bundle: BundleReader) -> "TrackableObjectGraph | None":
    """The object graph that lies in the bundle itself; None in TensorFlow 1's bundles."""
    from google.protobuf.message import DecodeError

    from smdaemon.proto.tensorflow import TrackableObjectGraph

    if OBJECT_GRAPH_KEY not in bundle:
        return None
    elements = bundle.string_elements(OBJECT_GRAPH_KEY)
    try:
        (content,) = elements
        return TrackableObjectGraph.FromString(content)
    except (DecodeError, ValueError) as error:
        raise DropError("savedmodel-corrupt", f"{OBJECT_GRAPH_KEY} holds no object graph: {error}") from error


def stored_bytes(entry: BundleEntry) -> int:
    """The bytes that a tensor takes in the data files, over all its slices."""
    return prod(entry.shape) * entry.dtype.itemsize if entry.slices else entry.size
