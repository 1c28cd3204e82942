"""Whether a meta graph and a bundle fit together: pure comparisons of messages with the bundle's entries.

Each check returns the bundle keys that it found a use for and raises DropError `savedmodel-inconsistent` on the first thing
that a loader would stumble over.
"""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, takewhile
from math import prod
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
from smdaemon.savedmodel.graph_names import operation, output_number
from smdaemon.tensorbundle.dtypes import STRING
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
    # by op: the key of each output, and which part of the tensor it is; "" for all of it
    restored: dict[str, list[tuple[str, bytes]]] = {}
    for node in nodes.values():
        if node.op != "RestoreV2" or len(node.input) < 3:
            continue
        keys, parts = (_constant_strings(nodes, source) for source in node.input[1:3])
        if keys is None or parts is None:  # made while it runs: nothing can be said
            continue
        outputs = restored[node.name] = []
        for key, part, enum in zip(keys, parts, node.attr["dtypes"].list.type, strict=False):
            name = key.decode("utf-8", "surrogateescape")
            if name not in entries:
                raise inconsistent(f"{node.name!r} restores the key {name!r}, which is not in the bundle")
            _check_type(name, entries[name], enum)
            outputs.append((name, part))
    for assigned, shape in _assigned(nodes, restored):
        _check_shape(assigned, entries[assigned], shape)
    return {name for outputs in restored.values() for name, _ in outputs}


def _assigned(
    nodes: Mapping[str, NodeDef], restored: Mapping[str, list[tuple[str, bytes]]]
) -> Iterator[tuple[str, TensorShapeProto]]:
    """The keys whose values are assigned whole to variables of known shape, with these shapes."""
    for node in nodes.values():
        if node.op not in {"AssignVariableOp", "Assign"} or len(node.input) < 2:
            continue
        variable = nodes.get(operation(node.input[0]))
        source = _source(nodes, node.input[1])
        outputs = restored.get(operation(source), [])
        if variable is None or "shape" not in variable.attr or output_number(source) >= len(outputs):
            continue
        key, part = outputs[output_number(source)]
        if not part:
            yield key, variable.attr["shape"].shape


def _source(nodes: Mapping[str, NodeDef], tensor: str) -> str:
    """Where the value of `tensor` comes from, through any Identity."""
    for _ in nodes:  # no further than there are nodes, should they form a ring
        node = nodes.get(operation(tensor))
        if node is None or node.op != "Identity" or not node.input:
            break
        tensor = node.input[0]
    return tensor


def _constant_strings(nodes: Mapping[str, NodeDef], tensor: str) -> list[bytes] | None:
    """The elements of a constant vector of strings; None for anything else."""
    node = nodes.get(operation(tensor))
    if node is None or node.op != "Const" or node.attr["dtype"].type != STRING.enum:
        return None
    value = node.attr["value"].tensor
    size = prod(dim.size for dim in value.tensor_shape.dim)
    strings = list(value.string_val)
    # one element may stand for all that are equal to it, from the last one on
    if strings and len(strings) < size <= _ELEMENTS_LIMIT:
        strings += strings[-1:] * (size - len(strings))
    return strings if len(strings) == size else None


_ELEMENTS_LIMIT = 100_000_000
