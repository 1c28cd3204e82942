"""A graph in whatever form it comes, as a MetaGraphDef of our own that may be changed."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import CollectionDef, FunctionDefLibrary, GraphDef, MetaGraphDef, SavedModel
from smdaemon.savedmodel.constants import SAVED_MODEL_SCHEMA_VERSION
from smdaemon.savedmodel.restore_graph import GRAPH_PRODUCER, RestoreGraph

GraphLike: TypeAlias = GraphDef | MetaGraphDef | FunctionDefLibrary | RestoreGraph | bytes | Message
"""A graph: ours or TensorFlow's message, one of them serialised, or a restore graph of our own."""

_OP = re.compile(r"[A-Za-z][A-Za-z0-9_.>]*")


def meta_graph_of(graph: GraphLike) -> MetaGraphDef:
    """A new MetaGraphDef of `graph`; DropError `savedmodel-corrupt` where it is none.

    Messages of another descriptor pool, TensorFlow's own for one, are taken by their names.
    """
    if isinstance(graph, RestoreGraph):
        return _of_restore_graph(graph)
    if isinstance(graph, bytes):
        return _parsed(graph)
    made = _copied(graph)
    if made is not None:
        return _completed(made)
    name = getattr(getattr(graph, "DESCRIPTOR", None), "full_name", type(graph).__name__)
    wrap = _FORMS.get(name)
    if wrap is None:
        raise DropError(
            "savedmodel-corrupt", f"a graph is a GraphDef, MetaGraphDef or FunctionDefLibrary, not a {name!r}"
        )
    return _completed(wrap(graph.SerializeToString()))


def _copied(graph: Message) -> MetaGraphDef | None:
    """A copy of a message of ours, without serialising it: it may be too large for that. None for others' messages."""
    made = MetaGraphDef()
    if isinstance(graph, MetaGraphDef):
        made.CopyFrom(graph)
    elif isinstance(graph, GraphDef):
        made.graph_def.CopyFrom(graph)
    elif isinstance(graph, FunctionDefLibrary):
        made.graph_def.library.CopyFrom(graph)
    else:
        return None
    return made


def _of_meta_graph(content: bytes) -> MetaGraphDef:
    return MetaGraphDef.FromString(content)


def _of_graph(content: bytes) -> MetaGraphDef:
    return MetaGraphDef(graph_def=GraphDef.FromString(content))


def _of_library(content: bytes) -> MetaGraphDef:
    return MetaGraphDef(graph_def=GraphDef(library=FunctionDefLibrary.FromString(content)))


_FORMS: dict[str, Callable[[bytes], MetaGraphDef]] = {
    "tensorflow.MetaGraphDef": _of_meta_graph,
    "tensorflow.GraphDef": _of_graph,
    "tensorflow.FunctionDefLibrary": _of_library,
}


def _of_restore_graph(graph: RestoreGraph) -> MetaGraphDef:
    made = _of_graph(b"".join(graph.graph_def))
    made.saver_def.ParseFromString(graph.saver_def)
    for name, content in graph.collections.items():
        made.collection_def[name].CopyFrom(CollectionDef.FromString(content))
    return made


def _parsed(content: bytes) -> MetaGraphDef:
    """The first form in which the bytes make sense: each parses as some of the others too, but to nonsense."""
    for wrap in _FORMS.values():
        try:
            made = wrap(content)
        except DecodeError:
            continue
        if _makes_sense(made):
            return _completed(made)
    raise DropError("savedmodel-corrupt", "the bytes are no GraphDef, MetaGraphDef or FunctionDefLibrary with nodes")


def _makes_sense(meta_graph: MetaGraphDef) -> bool:
    graph: Any = meta_graph.graph_def
    functions = graph.library.function
    if not (graph.node or functions) or len(UnknownFieldSet(meta_graph)) or len(UnknownFieldSet(graph)):
        return False
    named = all(_OP.fullmatch(node.op) and node.name for node in graph.node)
    return named and all(function.signature.name for function in functions)


def _completed(meta_graph: MetaGraphDef) -> MetaGraphDef:
    """With the version of the graph's format, without which loaders take it for the oldest."""
    if not meta_graph.graph_def.versions.producer:
        meta_graph.graph_def.versions.producer = GRAPH_PRODUCER
    return meta_graph


def saved_model_of(meta_graphs: Iterable[MetaGraphDef]) -> SavedModel:
    """The SavedModel of these meta graphs."""
    model = SavedModel(saved_model_schema_version=SAVED_MODEL_SCHEMA_VERSION)
    for meta_graph in meta_graphs:
        # copied as it is: given to the constructor it would be serialised, which fails where it is too large
        model.meta_graphs.add().CopyFrom(meta_graph)
    return model
