"""Whether a meta graph and a bundle fit together: pure comparisons of messages with the bundle's entries.

Each check returns the bundle keys that it found a use for and raises DropError `savedmodel-inconsistent` on the first thing
that a loader would stumble over.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import TypeAlias

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import (
    MetaGraphDef,
    NodeDef,
    SavedObject,
    SavedObjectGraph,
    SavedVariable,
    TensorShapeProto,
    TrackableObjectGraph,
)
from smdaemon.savedmodel.constants import VARIABLE_VALUE
from smdaemon.savedmodel.graph_names import can_be_imported, operation
from smdaemon.savedmodel.restores import assignments, restores
from smdaemon.tensorbundle.entries import BundleEntry

Entries: TypeAlias = Mapping[str, BundleEntry]


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
    """Every variable that can be reached in the model has a value in the bundle that fits it."""
    twins = dict(matched_nodes(saved, trackable))
    for number, twin in twins.items():
        variable = saved.nodes[number].variable
        if not saved.nodes[number].HasField("variable"):
            continue
        if twin is None:
            raise inconsistent(f"the bundle's object graph has no value for variable {variable.name!r}")
        _check_variable(variable, trackable.nodes[twin], entries)


def matched_nodes(saved: SavedObjectGraph, trackable: TrackableObjectGraph) -> Iterator[tuple[int, int | None]]:
    """Each node of the saved graph that is reached from its root, with the node of the other at the same path.

    Both graphs are walked along the same names, as TensorFlow's loader does: node numbers may differ. None stands for what the other
    graph does not have, and comes last. Raises DropError `savedmodel-inconsistent` where an edge leads nowhere or two edges of
    a node have one name.
    """
    if not saved.nodes or not trackable.nodes:
        return
    known: dict[int, dict[str, int]] = {}
    todo = [(0, 0)]
    seen = {0}
    missing: dict[int, None] = {}
    for number, twin in todo:  # grows while it is walked
        yield number, twin
        if twin not in known:
            known[twin] = children_of(trackable.nodes, twin)
        for name, child in children_of(saved.nodes, number).items():
            if child in seen:
                continue
            other = known[twin].get(name)
            if other is None:
                missing[child] = None
                continue
            seen.add(child)
            todo.append((child, other))
    for number in missing:
        if number not in seen:
            yield number, None


def children_of(
    nodes: Sequence[SavedObject] | Sequence[TrackableObjectGraph.TrackableObject], number: int
) -> dict[str, int]:
    """The numbers of a node's children by their names; DropError `savedmodel-inconsistent` as `matched_nodes` says."""
    children: dict[str, int] = {}
    for child in nodes[number].children:
        if not 0 <= child.node_id < len(nodes):
            raise inconsistent(f"the object graph refers to node {child.node_id} of {len(nodes)}")
        if children.setdefault(child.local_name, child.node_id) != child.node_id:
            raise inconsistent(f"node {number} of the object graph has two children {child.local_name!r}")
    return children


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
    """What the restore ops read is in the bundle and fits; what saver and signatures name is in the graph, whose names can be imported."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    _check_names(meta_graph, nodes)
    _check_references(meta_graph, nodes)
    used = _check_restores(nodes, entries)
    for function in meta_graph.graph_def.library.function:
        used |= _check_restores({node.name: node for node in function.node_def}, entries)
    return used


def _check_names(meta_graph: MetaGraphDef, nodes: Mapping[str, NodeDef]) -> None:
    """No node has another's name, or one that TensorFlow's C++ refuses."""
    if len(nodes) < len(meta_graph.graph_def.node):
        name, _ = Counter(node.name for node in meta_graph.graph_def.node).most_common(1)[0]
        raise inconsistent(f"two nodes of the graph have the name {name!r}")
    for name in nodes:
        if not can_be_imported(name):
            raise inconsistent(f"{name!r} is no name that a node of a graph can have")


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
