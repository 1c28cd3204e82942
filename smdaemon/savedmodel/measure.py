"""What in a message takes the most bytes: said where a model is too large to be parsed by anybody."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import EncodeError, Message

from smdaemon.proto.tensorflow import GraphDebugInfo, MetaGraphDef, SavedModel


def biggest_part(message: Message) -> tuple[str, int]:
    """A name for the biggest part of a SavedModel or GraphDebugInfo, and its bytes."""
    return max(_parts(message), key=lambda part: part[1], default=("the message", _size(message)))


def _parts(message: Any) -> Iterator[tuple[str, int]]:
    """The parts that an owner can do something about, with the bytes of each."""
    if isinstance(message, SavedModel):
        for number, meta_graph in enumerate(message.meta_graphs):
            yield from _parts_of_meta_graph(f"meta graph {number}", meta_graph)
    elif isinstance(message, GraphDebugInfo):
        yield "the stack traces", _sum(message.traces_by_id.values()) + _sum(message.traces.values())
        yield "the stack frames", _sum(message.frames_by_id.values())


def _parts_of_meta_graph(where: str, meta_graph: MetaGraphDef) -> Iterator[tuple[str, int]]:
    for node in meta_graph.graph_def.node:
        yield f"node {node.name!r} of {where}", _size(node)
    for function in meta_graph.graph_def.library.function:
        yield f"function {function.signature.name!r} of {where}", _size(function)
    for name, collection in meta_graph.collection_def.items():
        yield f"collection {name!r} of {where}", _size(collection)
    yield f"the object graph of {where}", _size(meta_graph.object_graph_def)


def _sum(messages: Iterable[Message]) -> int:
    return sum(map(_size, messages))


def _size(message: Message) -> int:
    try:
        return message.ByteSize()
    except (EncodeError, ValueError):
        return 2**31
