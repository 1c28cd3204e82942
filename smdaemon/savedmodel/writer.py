"""Puts a whole SavedModel into a new directory: what every maker of one ends in.

EXPORT_DIR/assets/                                   files that the graph reads
EXPORT_DIR/assets.extra/                             files that only others read, warm-up requests among them
EXPORT_DIR/debug/saved_model_debug_info.pb           where each node was made
EXPORT_DIR/variables/variables.data-?????-of-?????   the values
EXPORT_DIR/variables/variables.index                 where each value lies
EXPORT_DIR/fingerprint.pb                            hashes of the other files
EXPORT_DIR/saved_model.pb (or .pbtxt)                the meta graphs; written last: with it the export is whole
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from smdaemon.confinement import open_regular
from smdaemon.durable import sync_directory
from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import (
    ASSETS_DIRECTORY,
    DEBUG_DIRECTORY,
    DEBUG_INFO_FILENAME_PB,
    EXTRA_ASSETS_DIRECTORY,
    FINGERPRINT_FILENAME,
    SAVED_MODEL_FILENAME_PB,
    SAVED_MODEL_FILENAME_PBTXT,
    VARIABLES_DIRECTORY,
    VARIABLES_FILENAME,
)
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, Tensor
from smdaemon.tensorbundle.writer import BundleFiles, ShardItem, write_bundle

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from smdaemon.proto.tensorflow import GraphDebugInfo, SavedModel

MESSAGE_BYTES_LIMIT = 2**31 - 1
"""Protobuf parses no message that is longer."""


@dataclass(frozen=True)
class Contents:
    """All that a SavedModel is made of.

    `model` is the message, or its canonical serialisation (see canonical.py), which is written as it is. `tensors` are the
    bundle's, by key; where there are none, there is no bundle unless `keep_variables`. `assets` and `assets_extra` are files
    or their contents by their paths below `assets/` and `assets.extra/`. `program` spares parsing a serialised model that has
    neither functions nor signatures: it is what the fingerprint of its graph is taken of.
    """

    model: "SavedModel | bytes"
    tensors: Mapping[str, Tensor | PartitionedTensor] = field(default_factory=dict)
    assets: Mapping[str, Path | bytes] = field(default_factory=dict)
    assets_extra: Mapping[str, Path | bytes] = field(default_factory=dict)
    debug_info: "GraphDebugInfo | bytes | None" = None
    keep_variables: bool = False
    program: bytes | None = None


@dataclass(frozen=True)
class WrittenModel:
    """What was written: how many tensors, the bytes of all files together, and the files, relative to the export directory."""

    tensors: int
    bytes: int
    files: tuple[Path, ...]


def write_saved_model(
    export_dir: Path,
    contents: Contents,
    *,
    shards: int | Sequence[Sequence[ShardItem]] = 1,
    on_bytes: Callable[[int], None] | None = None,
    sync: bool = True,
    as_text: bool = False,
    into_empty: bool = False,
    before_model: Callable[[], None] | None = None,
) -> WrittenModel:
    """Makes the directory `export_dir` and writes the SavedModel into it; `into_empty` takes an empty directory that is there.

    `shards` is the number of data files, or the keys of each data file; `on_bytes(n)` is called
    after every n bytes of them and of copied assets, `before_model` when all values are written. With `sync` everything is on the disk at the return. The same contents
    give the same bytes. What was written is removed if anything fails.

    Raises DropError before anything is written: `savedmodel-too-large` for a message that nobody could parse, `asset-invalid`
    for an asset's path that leads out of its folder, `export-dir-exists`. Later: `asset-invalid` for an asset that is no
    regular file, what `write_bundle` raises, and OSError as it comes.
    """
    model = _serialized(contents.model)
    debug_info = contents.debug_info
    if debug_info is not None and not isinstance(debug_info, bytes):
        debug_info = _within_limit(debug_info, "the debug info")
    folders: dict[str, list[tuple[PurePosixPath, Path | bytes]]] = {
        ASSETS_DIRECTORY: [(destination(name), source) for name, source in contents.assets.items()],
        EXTRA_ASSETS_DIRECTORY: [(destination(name), source) for name, source in contents.assets_extra.items()],
        DEBUG_DIRECTORY: [] if debug_info is None else [(PurePosixPath(DEBUG_INFO_FILENAME_PB), debug_info)],
    }
    with _Draft(export_dir, on_bytes, sync=sync).made(into_empty=into_empty) as draft:
        for folder, files in folders.items():
            for name, source in files:
                draft.add(PurePosixPath(folder) / name, source)
        bundle = None
        if contents.tensors or contents.keep_variables:
            bundle = draft.add_bundle(contents.tensors, shards)
        if before_model is not None:
            before_model()
        fingerprint = _fingerprint(contents, model, None if bundle is None else bundle.index)
        draft.add(PurePosixPath(FINGERPRINT_FILENAME), fingerprint)
        if as_text:
            draft.add(PurePosixPath(SAVED_MODEL_FILENAME_PBTXT), _text(model))
        else:
            draft.add(PurePosixPath(SAVED_MODEL_FILENAME_PB), model)
        draft.sync_directories()
    return WrittenModel(len(contents.tensors), draft.bytes_written, tuple(draft.files))


def destination(name: str) -> PurePosixPath:
    """The path below a folder that `name` says; DropError `asset-invalid` where it leads out of it, or to no file."""
    parts = name.split("/")
    if not name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise DropError("asset-invalid", f"an asset cannot be called {name!r}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise DropError("asset-invalid", f"the file system cannot hold the name {name!r}") from None
    return PurePosixPath(*parts)


def _serialized(model: "SavedModel | bytes") -> bytes:
    """The bytes of the model; DropError `savedmodel-too-large` where no one could parse them."""
    if not isinstance(model, bytes):
        return _within_limit(model, "the model")
    if len(model) > MESSAGE_BYTES_LIMIT:
        from smdaemon.proto.tensorflow import SavedModel

        raise _too_large("the model", len(model), SavedModel.FromString(model))
    return model


def _within_limit(message: "Message", what: str) -> bytes:
    from google.protobuf.message import EncodeError

    from smdaemon.savedmodel.canonical import canonical

    try:
        content = canonical(message)
    except (EncodeError, ValueError) as error:
        raise _too_large(what, None, message) from error
    if len(content) > MESSAGE_BYTES_LIMIT:
        raise _too_large(what, len(content), message)
    return content


def _too_large(what: str, size: int | None, message: "Message") -> DropError:
    from smdaemon.savedmodel.measure import biggest_part

    part, part_bytes = biggest_part(message)
    total = "more" if size is None else f"{size} bytes and not"
    return DropError(
        "savedmodel-too-large",
        f"{what} takes {total} than the {MESSAGE_BYTES_LIMIT} bytes of a protobuf message; "
        f"the biggest part is {part} with {part_bytes} bytes",
    )


def _fingerprint(contents: Contents, model: bytes, index: bytes | None) -> bytes:
    from smdaemon.proto.pool import deterministic
    from smdaemon.savedmodel.fingerprint import fingerprint_of, fingerprint_of_weights

    if contents.program is not None and index is not None:
        return deterministic(fingerprint_of_weights(model, contents.program, index))
    message = contents.model
    if isinstance(message, bytes):
        from smdaemon.proto.tensorflow import SavedModel

        message = SavedModel.FromString(message)
    return deterministic(fingerprint_of(message, index, model))


def _text(model: bytes) -> bytes:
    """The model in protobuf's text format, `Any` values spelled out."""
    from google.protobuf import text_format

    from smdaemon.proto.pool import pool
    from smdaemon.proto.tensorflow import SavedModel

    text: str = text_format.MessageToString(SavedModel.FromString(model), descriptor_pool=pool())
    return text.encode()


class _Draft:
    """An export directory that is being filled; what was made is undone, last first, if the body of `made` fails."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None] | None, *, sync: bool) -> None:
        self.path = path
        self.files: list[Path] = []
        self.bytes_written = 0
        self._on_bytes = on_bytes
        self._sync = sync
        self._directories: list[Path] = []
        self._undo = ExitStack()

    @contextmanager
    def made(self, *, into_empty: bool) -> "Iterator[_Draft]":
        with self._undo:
            self._make_root(into_empty=into_empty)
            yield self
            self._undo.pop_all()

    def _make_root(self, *, into_empty: bool) -> None:
        try:
            self._make(self.path)
        except FileExistsError:
            if not (into_empty and self.path.is_dir()):
                raise DropError("export-dir-exists", f"{str(self.path)!r} exists already") from None
            if any(self.path.iterdir()):
                raise DropError("export-dir-exists", f"{str(self.path)!r} exists already and is not empty") from None
            self._directories.append(self.path)

    def _make(self, directory: Path) -> None:
        directory.mkdir()
        self._directories.append(directory)
        self._undo.callback(_remove_directory, directory)

    def _make_parents(self, name: PurePosixPath) -> None:
        for parent in reversed(name.parents[:-1]):
            if self.path / parent not in self._directories:
                self._make(self.path / parent)

    def add(self, name: PurePosixPath, source: Path | bytes) -> None:
        """Write a file with the content `source`, or the content of the file there."""
        self._make_parents(name)
        path = self.path / name
        self._undo.callback(path.unlink, missing_ok=True)
        self.bytes_written += (
            _write_file(path, source, sync=self._sync)
            if isinstance(source, bytes)
            else _copy_file(path, source, self._on_bytes, sync=self._sync)
        )
        self.files.append(Path(name))

    def add_bundle(
        self, tensors: Mapping[str, Tensor | PartitionedTensor], shards: int | Sequence[Sequence[ShardItem]]
    ) -> BundleFiles:
        """Write `variables/`."""
        prefix = PurePosixPath(VARIABLES_DIRECTORY) / VARIABLES_FILENAME
        self._make_parents(prefix)
        written = write_bundle(self.path / prefix, tensors, shards=shards, on_bytes=self._on_bytes, sync=self._sync)
        for path in written.paths:
            self._undo.callback(path.unlink, missing_ok=True)
            self.files.append(path.relative_to(self.path))
        self.bytes_written += written.bytes_written
        return written

    def sync_directories(self) -> None:
        """Put every new name on the disk, the deepest first."""
        if self._sync:
            for directory in (*reversed(self._directories), self.path.parent):
                sync_directory(directory)


def _remove_directory(path: Path) -> None:
    # what another put there keeps the directory
    with suppress(OSError):
        path.rmdir()


def _write_file(path: Path, content: bytes, *, sync: bool) -> int:
    """The bytes written."""
    with path.open("xb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return len(content)


def _copy_file(path: Path, source: Path, on_bytes: Callable[[int], None] | None, *, sync: bool) -> int:
    """Copies a regular file; the bytes written."""
    size = 0
    with open_asset(source) as descriptor, path.open("xb", buffering=0) as file:
        while chunk := os.read(descriptor, CHUNK_BYTES):
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
            size += len(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
        if sync:
            os.fsync(file.fileno())
    return size


@contextmanager
def open_asset(source: Path) -> Iterator[int]:
    """A descriptor of a regular file; DropError `asset-invalid` for a link, a pipe, a directory, or nothing.

    A link could make an export publish what its owner may not read.
    """
    try:
        descriptor = open_regular(source, follow=False)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            message = f"the asset {str(source)!r} is a link"
            raise DropError("asset-invalid", message, remedy="name the file that it leads to") from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DropError("asset-invalid", f"the asset {str(source)!r} cannot be read: {reason.lower()}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
