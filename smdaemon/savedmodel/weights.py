"""Named tensors as a SavedModel without signatures: variables in a tree, loadable by every TensorFlow reader."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.savedmodel import wire
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY, SAVED_MODEL_SCHEMA_VERSION, SERVING
from smdaemon.savedmodel.object_graph import ObjectGraphs, object_graphs
from smdaemon.savedmodel.restore_graph import RestoreGraph, restore_graph
from smdaemon.savedmodel.tree import nest
from smdaemon.savedmodel.values import StringScalar
from smdaemon.savedmodel.writer import Contents, WrittenModel, write_saved_model
from smdaemon.tensorbundle.tensors import Tensor

TENSORFLOW_VERSION = "2.21.0"
"""The release whose format is followed; a loaded model shows it as `tensorflow_version`."""


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
    contents = weights_contents(tensors, tags=tags, separator=separator)
    written = write_saved_model(export_dir, contents, shards=shards, on_bytes=on_bytes, sync=sync)
    return replace(written, tensors=len(tensors))


def weights_contents(
    tensors: Mapping[str, Tensor],
    *,
    tags: Sequence[str] = (SERVING,),
    separator: str | None = None,
    joined: bool = False,
) -> Contents:
    """What `write_weights` writes; `joined` is `tree.nest`'s. Raises DropError as `write_weights` does before it writes."""
    check_variables(tensors)
    tree = nest(tensors, separator, joined=joined)
    objects = object_graphs(tree, tensors)
    graph = restore_graph(tree, tensors, objects.keys)
    bundle: dict[str, Tensor] = {objects.keys[name]: tensor for name, tensor in tensors.items()}
    bundle[OBJECT_GRAPH_KEY] = StringScalar(objects.trackable)
    return Contents(weights_model(tags, graph, objects), bundle, program=graph.program)


def check_variables(tensors: Mapping[str, Tensor]) -> None:
    """DropError `source-empty` without tensors, `dtype-unsupported` for one that TensorFlow has no variables for."""
    if not tensors:
        raise DropError("source-empty", "there are no tensors to write")
    for name in sorted(tensors):
        dtype = tensors[name].dtype
        if not dtype.variable:
            raise DropError("dtype-unsupported", f"TensorFlow has no variables of {dtype}, the dtype of {name!r}")


def weights_model(tags: Sequence[str], graph: RestoreGraph, objects: ObjectGraphs) -> bytes:
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
