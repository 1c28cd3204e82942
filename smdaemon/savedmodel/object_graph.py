"""The two object graphs of an export: the one that `tf.saved_model.load` builds from, and the one that a checkpoint is read by.

Both have the same nodes and the same edges: node 0 is the root, then every branch and leaf of the tree in order, then two
lists, `variables` and `trainable_variables`, whose items are the leaves over again, and an empty map of `signatures`. Formats: SavedObjectGraph and
TrackableObjectGraph in `protos/tensorflow/core/protobuf/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from smdaemon.savedmodel import wire
from smdaemon.savedmodel.constants import OBJECT_ATTRIBUTES, VARIABLE_VALUE
from smdaemon.savedmodel.tree import Branch, Kind, Leaf, Tree
from smdaemon.tensorbundle.dtypes import DType
from smdaemon.tensorbundle.tensors import Tensor


@dataclass(frozen=True)
class ObjectGraphs:
    """`saved` is a SavedObjectGraph and `trackable` a TrackableObjectGraph, both serialised; `keys` are the tensors' bundle keys by name."""

    saved: bytes
    trackable: bytes
    keys: dict[str, str]


def object_graphs(tree: Tree, tensors: Mapping[str, Tensor]) -> ObjectGraphs:
    """The object graphs of `tree`, whose leaves have the types and shapes of `tensors`."""
    nodes, edges = _numbered(tree, tensors)
    keys: dict[str, str] = {}
    saved, trackable = [], []
    for node, children in zip(nodes, edges, strict=True):
        if isinstance(node, Leaf):
            key = keys[node.name] = checkpoint_key(node.path)
            saved.append(wire.chunk(1, _variable(node, tensors[node.name])))
            trackable.append(wire.chunk(1, _value(node, key) + _HAS_VALUES))
        else:
            saved.append(wire.chunk(1, children + _USER_OBJECTS[node]))
            trackable.append(wire.chunk(1, children + (b"" if node is Kind.SIGNATURES else _HAS_VALUES)))
    return ObjectGraphs(b"".join(saved), b"".join(trackable), keys)


def checkpoint_key(path: tuple[str, ...]) -> str:
    """The bundle key of the variable at `path`: its parts, escaped, and the name of the attribute that is saved."""
    escaped = [part.replace(".", "..").replace("/", ".S") for part in path]
    return "/".join([*escaped, OBJECT_ATTRIBUTES, VARIABLE_VALUE])


def is_trainable(dtype: DType) -> bool:
    """Whether a variable of that type can be trained: gradients need floats or complex numbers."""
    return dtype.name.startswith(("float", "bfloat", "complex"))


def _numbered(tree: Tree, tensors: Mapping[str, Tensor]) -> tuple[list[Kind | Leaf], list[bytes]]:
    """Every node in the order of its number, and beside each the references to its children."""
    nodes: list[Kind | Leaf] = [Kind.OBJECT]
    edges: list[bytes] = [b""]
    numbers: dict[str, int] = {}
    todo: list[tuple[int, Branch]] = [(0, tree.root)]
    for at, branch in todo:  # grows while it is walked: breadth first
        references = []
        for name, child in branch.children.items():
            number = len(nodes)
            references.append(_reference(number, name))
            edges.append(b"")
            if isinstance(child, Leaf):
                numbers[child.name] = number
                nodes.append(child)
            else:
                nodes.append(child.kind)
                todo.append((number, child))
        edges[at] = b"".join(references)
    items = [_reference(numbers[leaf.name], str(item)) for item, leaf in enumerate(tree.leaves)]
    trainable = [numbers[leaf.name] for leaf in tree.leaves if is_trainable(tensors[leaf.name].dtype)]
    if len(trainable) < len(items):
        trainable_items = [_reference(number, str(item)) for item, number in enumerate(trainable)]
    else:
        trainable_items = items
    for name, kind, references in (
        ("variables", Kind.LIST, items),
        ("trainable_variables", Kind.LIST, trainable_items),
        ("signatures", Kind.SIGNATURES, []),
    ):
        edges[0] += _reference(len(nodes), name)
        nodes.append(kind)
        edges.append(b"".join(references))
    return nodes, edges


def _reference(number: int, name: str) -> bytes:
    return wire.chunk(1, wire.number(1, number) + wire.text(2, name))


def _user_object(identifier: str) -> bytes:
    """SavedObject.user_object {identifier, version {producer 1, min_consumer 1}}."""
    return wire.chunk(4, wire.text(1, identifier) + wire.chunk(2, wire.number(1, 1) + wire.number(2, 1)))


_USER_OBJECTS = {
    Kind.OBJECT: _user_object("_generic_user_object"),
    Kind.DICT: _user_object("trackable_dict_wrapper"),
    Kind.LIST: _user_object("trackable_list_wrapper"),
    Kind.SIGNATURES: _user_object("signature_map"),
}

# TrackableObject.has_checkpoint_values {value true}: every node but the signatures is a variable or has one beneath it
_HAS_VALUES = wire.chunk(5, wire.number(1, 1))


def _variable(leaf: Leaf, tensor: Tensor) -> bytes:
    """SavedObject.variable {dtype, shape, trainable, name}."""
    return wire.chunk(7, _variable_kind(tensor.dtype, tensor.shape) + wire.text(6, leaf.variable))


@lru_cache(1024)
def _variable_kind(dtype: DType, shape: tuple[int, ...]) -> bytes:
    return wire.number(1, dtype.enum) + wire.chunk(2, wire.shape(shape)) + wire.number(3, is_trainable(dtype))


def _value(leaf: Leaf, key: str) -> bytes:
    """TrackableObject.attributes {name, full_name, checkpoint_key}."""
    return wire.chunk(2, _VALUE_NAME + wire.text(2, leaf.variable) + wire.text(3, key))


_VALUE_NAME = wire.text(1, VARIABLE_VALUE)
