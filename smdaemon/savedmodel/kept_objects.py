"""A SavedModel of the variables of an object-based checkpoint, with the tree of objects that was saved.

The nodes, names and keys of the checkpoint's TrackableObjectGraph stay, shared objects and rings among them, so that the
export can be read as the checkpoint could (`tf.train.Checkpoint(model=...).read(EXPORT_DIR/variables/variables)`). What is
dropped: variables that were not chosen, and edges under names that a loaded object has for itself.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from keyword import iskeyword
from typing import TYPE_CHECKING

from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import OBJECT_ATTRIBUTES, OBJECT_GRAPH_KEY, SERVING, VARIABLE_VALUE
from smdaemon.savedmodel.graph_names import legal_name, unused
from smdaemon.savedmodel.object_graph import ObjectGraphs, is_trainable
from smdaemon.savedmodel.restore_graph import restore_graph
from smdaemon.savedmodel.tree import ROOT_RESERVED, Branch, Leaf, Tree, is_reserved
from smdaemon.savedmodel.values import StringScalar
from smdaemon.savedmodel.weights import check_variables, weights_model
from smdaemon.savedmodel.writer import Contents
from smdaemon.tensorbundle.tensors import Tensor

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import SavedObject, SavedObjectGraph, TrackableObjectGraph

    TrackableObject = TrackableObjectGraph.TrackableObject

# Keras's names of layers, which it sets as attributes
_NUMBERED = re.compile(r"[^\W\d]\w*-[0-9]+")
_IDENTIFIERS = {
    "object": "_generic_user_object",
    "dict": "trackable_dict_wrapper",
    "list": "trackable_list_wrapper",
    "signatures": "signature_map",
}


def kept_contents(
    graph: "TrackableObjectGraph", tensors: Mapping[str, Tensor], *, tags: Sequence[str] = (SERVING,)
) -> Contents:
    """The SavedModel of the chosen `tensors`, by bundle key, of a checkpoint whose object graph is `graph`.

    Every tensor is kept: values that belong to no variable (the entries of a table) stay in the bundle as they are, and a
    tensor that the graph does not name becomes a variable of the root. Raises DropError `source-corrupt` for a graph that
    contradicts itself, and what `check_variables` raises.
    """
    kept = _Kept(graph, tensors)
    check_variables({leaf.name: tensors[leaf.name] for leaf in kept.leaves})
    objects = kept.object_graphs()
    restore = restore_graph(Tree(Branch(), kept.leaves), tensors, objects.keys)
    bundle: dict[str, Tensor] = {**tensors, OBJECT_GRAPH_KEY: StringScalar(objects.trackable)}
    return Contents(weights_model(tags, restore, objects), bundle, program=restore.program)


class _Kept:
    """The nodes of a checkpoint's graph that are kept, as they were numbered, and the leaves in their order."""

    def __init__(self, graph: "TrackableObjectGraph", tensors: Mapping[str, Tensor]) -> None:
        from smdaemon.proto.tensorflow import TrackableObjectGraph

        # a copy: the caller's is not ours to change
        self._trackable = TrackableObjectGraph.FromString(graph.SerializeToString())
        self._tensors = tensors
        self._nodes = self._trackable.nodes
        _check_references(self._nodes)
        _adopt(self._trackable, _unnamed(self._nodes, tensors))
        self._values = {number: key for number, node in enumerate(self._nodes) if (key := _value_key(node)) is not None}
        self._dropped = {number for number, key in self._values.items() if key not in tensors}
        self._variables = {
            number: key for number, key in self._values.items() if number not in self._dropped and number > 0
        }
        self.leaves = tuple(self._leaves())

    def _leaves(self) -> Iterable[Leaf]:
        """A leaf for each variable: named by its key, its variable by the name it had, if that is legal and its alone."""
        had = {
            number: next(value.full_name for value in self._nodes[number].attributes if value.name == VARIABLE_VALUE)
            for number in self._variables
        }
        often = Counter(had.values())
        stays = {name for name, count in often.items() if count == 1 and name == legal_name(name)}
        taken = set(stays)
        for number, key in self._variables.items():
            name = had[number]
            if name not in stays:
                name = unused(legal_name(key.partition(f"/{OBJECT_ATTRIBUTES}/")[0]), taken)
            yield Leaf(key, (key,), name)

    def object_graphs(self) -> ObjectGraphs:
        """Both graphs, with the same edges; the checkpoint's slots stay where it had them."""
        from smdaemon.proto.pool import deterministic
        from smdaemon.proto.tensorflow import SavedObjectGraph

        saved = SavedObjectGraph()
        names = {leaf.name: leaf.variable for leaf in self.leaves}
        for number, node in enumerate(self._nodes):
            self._trim(number, node)
            made = saved.nodes.add()
            if number in self._variables:
                key = self._variables[number]
                _fill_variable(made, names[key], self._tensors[key])
            else:
                _fill_object(made, "object" if number == 0 else _kind(child.local_name for child in node.children))
            for child in node.children:
                made.children.add(node_id=child.node_id, local_name=child.local_name)
        trainable = [number for number, key in self._variables.items() if is_trainable(self._tensors[key].dtype)]
        for name, items in (("variables", [*self._variables]), ("trainable_variables", trainable)):
            self._add(saved, "list", name, items)
        self._add(saved, "signatures", "signatures", ())
        return ObjectGraphs(
            deterministic(saved), deterministic(self._trackable), {leaf.name: leaf.name for leaf in self.leaves}
        )

    def _trim(self, number: int, node: "TrackableObject") -> None:
        """Take away what cannot be kept of a node."""
        children = [
            child
            for child in node.children
            if child.node_id not in self._dropped
            and number not in self._variables
            and not is_reserved(child.local_name)
            and not (number == 0 and child.local_name in ROOT_RESERVED)
        ]
        if len(children) < len(node.children):
            copies = [(child.node_id, child.local_name) for child in children]
            del node.children[:]
            for child_number, name in copies:
                node.children.add(node_id=child_number, local_name=name)
        slots = [
            (slot.original_variable_node_id, slot.slot_name, slot.slot_variable_node_id)
            for slot in node.slot_variables
            if not {slot.original_variable_node_id, slot.slot_variable_node_id} & self._dropped
        ]
        del node.slot_variables[:]
        for original, name, slot_number in slots:
            node.slot_variables.add(
                original_variable_node_id=original, slot_name=name, slot_variable_node_id=slot_number
            )
        values = [
            (value.name, value.full_name, value.checkpoint_key)
            for value in node.attributes
            if _keys_of(value.checkpoint_key, value.name, self._tensors)
        ]
        del node.attributes[:]
        for name, full_name, key in values:
            node.attributes.add(name=name, full_name=full_name, checkpoint_key=key)
        node.ClearField("registered_saver")

    def _add(self, saved: "SavedObjectGraph", kind: str, name: str, items: Iterable[int]) -> None:
        number = len(saved.nodes)
        node, made = self._nodes.add(), saved.nodes.add()
        _fill_object(made, kind)
        for item, target in enumerate(items):
            for holder in (node, made):
                holder.children.add(node_id=target, local_name=str(item))
        if kind == "list":
            node.has_checkpoint_values.value = True
        for root in (self._nodes[0], saved.nodes[0]):
            root.children.add(node_id=number, local_name=name)


def _check_references(nodes: "Sequence[TrackableObject]") -> None:
    """DropError `source-corrupt` for a graph without root, or with an edge that leads to no node."""
    for node in nodes:
        slots = ((slot.original_variable_node_id, slot.slot_variable_node_id) for slot in node.slot_variables)
        for number in (*(child.node_id for child in node.children), *(number for pair in slots for number in pair)):
            if not 0 <= number < len(nodes):
                raise DropError("source-corrupt", f"{OBJECT_GRAPH_KEY} names node {number} of {len(nodes)}")
    if not nodes:
        raise DropError("source-corrupt", f"{OBJECT_GRAPH_KEY} has no nodes")


def _value_key(node: "TrackableObject") -> str | None:
    return next((value.checkpoint_key for value in node.attributes if value.name == VARIABLE_VALUE), None)


def _keys_of(key: str, name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """The keys of a value. One that is no variable's may have several: a table's end in -keys and -values."""
    if key in tensors or name == VARIABLE_VALUE:
        return [key] if key in tensors else []
    return [f"{key}{end}" for end in ("-keys", "-values") if f"{key}{end}" in tensors]


def _unnamed(nodes: "Iterable[TrackableObject]", tensors: Mapping[str, Tensor]) -> list[str]:
    """The keys of tensors that no node names."""
    named = {
        key
        for node in nodes
        for value in node.attributes
        for key in _keys_of(value.checkpoint_key, value.name, tensors)
    }
    return [key for key in tensors if key not in named]


def _adopt(graph: "TrackableObjectGraph", keys: Iterable[str]) -> None:
    """Makes each key a variable of the root, under its path as one name."""
    taken = {child.local_name for child in graph.nodes[0].children}
    for key in keys:
        path, is_value, _ = key.partition(f"/{OBJECT_ATTRIBUTES}/")
        if not is_value:  # TensorFlow finds no variable by such a key
            raise DropError("source-corrupt", f"{OBJECT_GRAPH_KEY} does not name the tensor {key!r}")
        graph.nodes[0].children.add(node_id=len(graph.nodes), local_name=key if path in taken else path)
        graph.nodes.add().attributes.add(name=VARIABLE_VALUE, checkpoint_key=key)


def _kind(names: Iterable[str]) -> str:
    """What a node with children of these names was, as far as they tell."""
    known = list(names)
    if known and set(known) == {str(item) for item in range(len(known))}:
        return "list"
    if all(_NUMBERED.fullmatch(name) or (name.isidentifier() and not iskeyword(name)) for name in known):
        return "object"
    return "dict"


def _fill_object(made: "SavedObject", kind: str) -> None:
    made.user_object.identifier = _IDENTIFIERS[kind]
    made.user_object.version.producer = made.user_object.version.min_consumer = 1


def _fill_variable(made: "SavedObject", name: str, tensor: Tensor) -> None:
    variable = made.variable
    variable.dtype = tensor.dtype.enum  # type: ignore[assignment]  # the stub wants the enum's class
    variable.shape.SetInParent()
    for size in tensor.shape:
        variable.shape.dim.add(size=size)
    variable.trainable = is_trainable(tensor.dtype)
    variable.name = name
