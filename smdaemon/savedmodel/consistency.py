"""Whether a meta graph and a bundle fit together: pure comparisons of messages with the bundle's entries.

Each check returns the bundle keys that it found a use for and raises DropError `savedmodel-inconsistent` on the first thing
that a loader would stumble over.
"""

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from typing import TypeAlias, TypeVar

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import (
    MetaGraphDef,
    NodeDef,
    SavedObjectGraph,
    SavedVariable,
    TensorShapeProto,
    TrackableObjectGraph,
)
from smdaemon.savedmodel.constants import VARIABLE_VALUE
from smdaemon.savedmodel.graph_names import operation
from smdaemon.savedmodel.restores import assignments, restores
from smdaemon.tensorbundle.entries import BundleEntry

Entries: TypeAlias = Mapping[str, BundleEntry]
Node = TypeVar("Node")


def inconsistent(message: str) -> DropError:
    """The error for parts of a model that contradict each other."""
    return DropError("savedmodel-inconsistent", message)


def check_object_graph(saved: SavedObjectGraph, trackable: TrackableObjectGraph, entries: Entries) -> set[str]:
    """Every value that the bundle's object graph names is there, and every variable of the model has one that fits."""
    used: set[str] = set()
    ordered = sorted(entries)
    for node in trackable.nodes:
        for attribute in node.attributes:
            keys = _keys_of(attribute, entries, ordered)
            if not keys:
                raise inconsistent(
                    f"the object graph names the key {attribute.checkpoint_key!r}, which is not in the bundle"
                )
            used.update(keys)
    _check_variables(saved, trackable, entries)
    return used


def _keys_of(
    attribute: TrackableObjectGraph.TrackableObject.SerializedTensor, entries: Entries, ordered: list[str]
) -> list[str]:
    """The bundle's keys of a value. What is no variable may have several: a table's end in -keys and -values."""
    key = attribute.checkpoint_key
    if key in entries:
        return [key]
    if attribute.name == VARIABLE_VALUE:
        return []
    following = islice(ordered, bisect(ordered, key), None)
    return list(takewhile(lambda other: other.startswith(f"{key}-"), following))


def _check_variables(saved: SavedObjectGraph, trackable: TrackableObjectGraph, entries: Entries) -> None:
    """Walks both graphs from their roots along the same names, as the loader does: node numbers may differ."""
    if not saved.nodes or not trackable.nodes:
        return
    todo = [(0, 0)]
    seen = set(todo)
    missing: dict[int, str] = {}
    matched = set()
    for at, other in todo:  # grows while it is walked
        node, twin = _node_at(saved.nodes, at), _node_at(trackable.nodes, other)
        twins = {child.local_name: child.node_id for child in twin.children}
        for child in node.children:
            number = twins.get(child.local_name)
            pair = (child.node_id, -1 if number is None else number)
            if pair in seen:
                continue
            seen.add(pair)
            target = _node_at(saved.nodes, child.node_id)
            is_variable = target.HasField("variable")
            if number is None:
                if is_variable:
                    missing[child.node_id] = target.variable.name or child.local_name
                continue
            todo.append((child.node_id, number))
            if is_variable:
                matched.add(child.node_id)
                _check_variable(target.variable, _node_at(trackable.nodes, number), entries)
    lost = [name for number, name in missing.items() if number not in matched]
    if lost:
        raise inconsistent(f"the bundle's object graph has no value for variable {lost[0]!r}")


def _node_at(nodes: Sequence[Node], number: int) -> Node:
    if not 0 <= number < len(nodes):
        raise inconsistent(f"the object graph refers to node {number} of {len(nodes)}")
    return nodes[number]


def _check_variable(variable: SavedVariable, node: TrackableObjectGraph.TrackableObject, entries: Entries) -> None:
    """The value of a variable is there, of the same type and a shape that fits."""
    keys = [attribute.checkpoint_key for attribute in node.attributes if attribute.name == VARIABLE_VALUE]
    if not keys:
        if node.HasField("registered_saver"):
            return
        raise inconsistent(f"variable {variable.name!r} has no value in the bundle")
    entry = entries[keys[0]]
    _check_type(keys[0], entry, variable.dtype)
    if variable.HasField("shape"):
        _check_shape(keys[0], entry, variable.shape)


def _check_type(key: str, entry: BundleEntry, enum: int) -> None:
    if entry.dtype.enum != enum:
        raise inconsistent(f"{key!r} is {entry.dtype} in the bundle and data type number {enum} in the graph")


def _check_shape(key: str, entry: BundleEntry, shape: TensorShapeProto) -> None:
    """A dimension of -1 fits any size."""
    if shape.unknown_rank:
        return
    wanted = tuple([dim.size for dim in shape.dim])
    if wanted == entry.shape:
        return
    if len(wanted) != len(entry.shape) or any(
        size not in {-1, found} for size, found in zip(wanted, entry.shape, strict=True)
    ):
        raise inconsistent(f"{key!r} has shape {entry.shape} in the bundle and {wanted} in the graph")


def check_graph(meta_graph: MetaGraphDef, entries: Entries) -> set[str]:
    """What the restore ops read is in the bundle and fits; what saver and signatures name is in the graph."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    _check_references(meta_graph, nodes)
    used = _check_restores(nodes, entries)
    for function in meta_graph.graph_def.library.function:
        used |= _check_restores({node.name: node for node in function.node_def}, entries)
    return used


def _check_references(meta_graph: MetaGraphDef, nodes: Mapping[str, NodeDef]) -> None:
    saver = meta_graph.saver_def
    named = [("the saver", saver.filename_tensor_name), ("the saver", saver.restore_op_name)]
    for key, signature in meta_graph.signature_def.items():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            named.append((f"signature {key!r}", info.name))  # noqa: PERF401 - two loops read better than one comprehension
    for who, name in named:
        if name and operation(name) not in nodes:
            raise inconsistent(f"{who} names {name!r}, which is not in the graph")


def _check_restores(nodes: Mapping[str, NodeDef], entries: Entries) -> set[str]:
    """The restore ops of one graph or function against the bundle; the keys that they read."""
    restored = restores(nodes)
    used = set()
    for name, outputs in restored.items():
        for key, _, dtype in outputs:
            if key not in entries:
                raise inconsistent(f"{name!r} restores the key {key!r}, which is not in the bundle")
            _check_type(key, entries[key], dtype)
            used.add(key)
    for variable, (key, part, _) in assignments(nodes, restored):
        if not part and "shape" in variable.attr:
            _check_shape(key, entries[key], variable.attr["shape"].shape)
    return used
