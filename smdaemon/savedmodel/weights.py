"""Named tensors as a SavedModel without signatures: variables in a tree, loadable by every TensorFlow reader.

EXPORT_DIR/variables/variables.data-?????-of-?????   the values
EXPORT_DIR/variables/variables.index                 where each value lies
EXPORT_DIR/fingerprint.pb                            hashes of the other files
EXPORT_DIR/saved_model.pb                            object graph, restore graph; written last: with it the export is whole
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.savedmodel import wire
from smdaemon.savedmodel.constants import (
    FINGERPRINT_FILENAME,
    OBJECT_GRAPH_KEY,
    SAVED_MODEL_FILENAME_PB,
    SAVED_MODEL_SCHEMA_VERSION,
    SERVING,
    VARIABLES_DIRECTORY,
    VARIABLES_FILENAME,
)
from smdaemon.savedmodel.object_graph import ObjectGraphs, object_graphs
from smdaemon.savedmodel.restore_graph import RestoreGraph, restore_graph
from smdaemon.savedmodel.tree import nest
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.tensors import Buffer, Tensor
from smdaemon.tensorbundle.writer import write_bundle

TENSORFLOW_VERSION = "2.21.0"
"""The release whose format is followed; a loaded model shows it as `tensorflow_version`."""


@dataclass(frozen=True)
class WrittenModel:
    """What was written: how many tensors, the bytes of all files together, and the files, relative to the export directory."""

    tensors: int
    bytes: int
    files: tuple[Path, ...]


def write_weights(
    export_dir: Path,
    tensors: Mapping[str, Tensor],
    *,
    tags: Sequence[str] = (SERVING,),
    separator: str | None = None,
    shards: int = 1,
    on_bytes: Callable[[int], None] | None = None,
    sync: bool = True,
) -> WrittenModel:
    """Makes the directory `export_dir` and writes the SavedModel of `tensors` into it.

    `separator` tells how names become nesting (see `tree.nest`), `shards` the number of data files and of threads that write
    them; `on_bytes(n)` is called after every n bytes of them. With `sync` everything is on the disk at the return. The same
    arguments give the same bytes. What was written is removed if anything fails.

    Raises DropError before anything is written: `source-empty` without tensors, `dtype-unsupported` where TensorFlow has no
    variables of a tensor's type, `name-invalid` and `name-clash` as `nest` does, `export-dir-exists`. Later: what
    `write_bundle` raises, and OSError as it comes.
    """
    from smdaemon.proto.pool import deterministic
    from smdaemon.savedmodel.fingerprint import fingerprint_of_weights

    _check(tensors)
    tree = nest(tensors, separator)
    objects = object_graphs(tree, tensors)
    graph = restore_graph(tree, tensors, objects.keys)
    bundle: dict[str, Tensor] = {objects.keys[name]: tensor for name, tensor in tensors.items()}
    bundle[OBJECT_GRAPH_KEY] = _StringScalar(objects.trackable)
    model = _saved_model(tags, graph, objects)
    with _new_directory(export_dir) as undo:
        variables = export_dir / VARIABLES_DIRECTORY
        variables.mkdir()
        undo.callback(_remove_directory, variables)
        written = write_bundle(variables / VARIABLES_FILENAME, bundle, shards=shards, on_bytes=on_bytes, sync=sync)
        for path in written.paths:
            undo.callback(path.unlink, missing_ok=True)
        fingerprint = deterministic(fingerprint_of_weights(model, graph.program, written.index))
        for name, content in ((FINGERPRINT_FILENAME, fingerprint), (SAVED_MODEL_FILENAME_PB, model)):
            undo.callback((export_dir / name).unlink, missing_ok=True)
            _write_file(export_dir / name, content, sync=sync)
        if sync:
            for directory in (variables, export_dir, export_dir.parent):
                _sync_directory(directory)
    files = (*written.paths, export_dir / FINGERPRINT_FILENAME, export_dir / SAVED_MODEL_FILENAME_PB)
    return WrittenModel(
        tensors=len(tensors),
        bytes=written.bytes_written + len(fingerprint) + len(model),
        files=tuple(path.relative_to(export_dir) for path in files),
    )


def _check(tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        raise DropError("source-empty", "there are no tensors to write")
    for name in sorted(tensors):
        dtype = tensors[name].dtype
        if not dtype.variable:
            raise DropError("dtype-unsupported", f"TensorFlow has no variables of {dtype}, the dtype of {name!r}")


class _StringScalar:
    """A string tensor of one element. An ArrayTensor would do, but for it numpy is loaded, which takes 0.2 s."""

    dtype = STRING
    shape = ()

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self) -> int:
        return len(self._content)

    def buffers(self) -> Iterator[Buffer]:
        yield self._content


def _saved_model(tags: Sequence[str], graph: RestoreGraph, objects: ObjectGraphs) -> bytes:
    """SavedModel {schema version, meta_graphs: one MetaGraphDef}."""
    meta_info = (
        b"".join(wire.text(4, tag) for tag in sorted(set(tags)))
        + wire.text(5, TENSORFLOW_VERSION)
        + wire.number(7, 1)  # stripped_default_attrs: none is written
    )
    meta_graph = (
        wire.chunk(1, meta_info),
        *wire.parts_of(2, *graph.graph_def),
        wire.chunk(3, graph.saver_def),
        *(wire.entry(4, name, graph.collections[name]) for name in sorted(graph.collections)),
        *wire.parts_of(7, objects.saved),
    )
    return b"".join((wire.number(1, SAVED_MODEL_SCHEMA_VERSION), *wire.parts_of(2, *meta_graph)))


@contextmanager
def _new_directory(path: Path) -> Iterator[ExitStack]:
    """Makes the directory; what is put on the stack is undone, last first, and the directory removed if the body fails."""
    try:
        path.mkdir()
    except FileExistsError:
        raise DropError("export-dir-exists", f"{str(path)!r} exists already") from None
    with ExitStack() as undo:
        undo.callback(_remove_directory, path)
        yield undo
        undo.pop_all()


def _remove_directory(path: Path) -> None:
    # what another put there keeps the directory
    with suppress(OSError):
        path.rmdir()


def _write_file(path: Path, content: bytes, *, sync: bool) -> None:
    with path.open("xb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
