"""A tree of Python objects as the nodes that `tf.saved_model.load` builds from: what `save` is given, walked and numbered.

Arrays and Tensors become variables; dicts, lists and tuples themselves; GraphFunctions functions; any other object that has
attributes an object with these. An object that is reached twice is one node: tied weights stay tied, rings are rings. Attributes
and dict values that are plain Python values (numbers, strings, None, Python functions) are not saved, as TensorFlow does not save them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.functions import GraphFunction
from smdaemon.savedmodel.graph_names import legal_name, unused
from smdaemon.savedmodel.object_graph import checkpoint_key, is_trainable
from smdaemon.savedmodel.tree import ROOT_RESERVED, check_key_parts
from smdaemon.savedmodel.values import tensor_of
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import Tensor


@dataclass(eq=False)
class Variable:
    """A value (array or Tensor) that becomes a variable, where the defaults do not fit.

    `name` defaults to the path in the tree, `trainable` to whether the dtype has gradients; `device` is kept if the options say so.
    """

    value: Any
    name: str | None = None
    trainable: bool | None = None
    device: str = ""


@dataclass(eq=False)
class FileAsset:
    """A file that goes below `assets/`, and that functions may capture as a string: its path where the model lies."""

    path: str | Path


class NodeKind(Enum):
    """What a node is when it is loaded."""

    OBJECT = "_generic_user_object"
    DICT = "trackable_dict_wrapper"
    LIST = "trackable_list_wrapper"
    TUPLE = "trackable_tuple_wrapper"
    SIGNATURES = "signature_map"
    VARIABLE = "variable"
    ASSET = "asset"
    FUNCTION = "function"
    CONCRETE = "bare_concrete_function"


@dataclass(eq=False)
class Node:
    """One node: its number, the object it stands for, where it is in the tree, and the numbers of its children by name."""

    number: int
    kind: NodeKind
    value: Any
    path: tuple[str, ...]
    children: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedValue:
    """A variable: its node, its name (unique in the model), its key in the bundle, its value."""

    node: Node
    name: str
    key: str
    tensor: Tensor | PartitionedTensor
    trainable: bool
    device: str


class ObjectTree:
    """The nodes of the tree of `root`, numbered breadth first; node 0 is the root, always an object.

    Raises DropError: `name-invalid` for a key of a dict that is no text or empty, or ends with ".ATTRIBUTES", `name-clash` for a child of the root that a loaded
    model has of its own, `dtype-unsupported` for a root that has no children, for values of dtypes that no variable has, and for things in a list that cannot be saved.
    """

    def __init__(self, root: Any) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is its object's only as long as that lives
        self._add(root, ())
        if self.nodes[0].kind not in {NodeKind.OBJECT, NodeKind.DICT, NodeKind.LIST, NodeKind.TUPLE}:
            raise DropError("dtype-unsupported", f"a {type(root).__name__} is no tree of objects; put it into a dict")
        self.nodes[0].kind = NodeKind.OBJECT
        for node in self.nodes:  # grows while it is walked: breadth first
            for name, child in _children(node):
                number = self._numbers.get(id(child))
                node.children[name] = self._add(child, (*node.path, name)) if number is None else number
        for name in self.nodes[0].children:
            if name in ROOT_RESERVED:
                raise DropError("name-clash", f"the loaded model has a {name!r} of its own")
        self.variables = list(self._variables())

    def add_list(self, name: str, numbers: list[int]) -> None:
        """Give the root a list of nodes that there are."""
        node = self._new(NodeKind.LIST, None, (name,))
        node.children = {str(item): number for item, number in enumerate(numbers)}
        self.nodes[0].children[name] = node.number

    def add_node(self, kind: NodeKind, value: Any) -> Node:
        """A node without a place in the tree yet."""
        return self._new(kind, value, ())

    def find(self, captured: Any) -> Node | None:
        """The node of an object, or of the object at a path such as `layer/kernel`; None where there is none."""
        if not isinstance(captured, str):
            number = self._numbers.get(id(captured))
            return None if number is None else self.nodes[number]
        node = self.nodes[0]
        for part in captured.split("/"):
            if part not in node.children:
                return None
            node = self.nodes[node.children[part]]
        return node

    def of_kind(self, kind: NodeKind) -> list[Node]:
        """All nodes of a kind."""
        return [node for node in self.nodes if node.kind is kind]

    def _add(self, value: Any, path: tuple[str, ...]) -> int:
        kind = kind_of(value)
        if kind is None:
            raise DropError(
                "dtype-unsupported", f"{'/'.join(path)!r} is a {type(value).__name__}, which cannot be saved"
            )
        node = self._new(kind, value, path)
        self._numbers[id(value)] = node.number
        self._kept.append(value)
        return node.number

    def _new(self, kind: NodeKind, value: Any, path: tuple[str, ...]) -> Node:
        node = Node(len(self.nodes), kind, value, path)
        self.nodes.append(node)
        return node

    def _variables(self) -> Iterator[SavedValue]:
        taken: set[str] = set()
        for node in self.of_kind(NodeKind.VARIABLE):
            made = node.value if isinstance(node.value, Variable) else Variable(node.value)
            check_key_parts("/".join(node.path), node.path)
            tensor = tensor_of(made.value)
            if not tensor.dtype.variable:
                where = "/".join(node.path)
                raise DropError(
                    "dtype-unsupported", f"TensorFlow has no variables of {tensor.dtype}, the dtype of {where!r}"
                )
            trainable = is_trainable(tensor.dtype) if made.trainable is None else made.trainable
            name = unused(legal_name(made.name or "/".join(node.path)), taken)
            yield SavedValue(node, name, checkpoint_key(node.path), tensor, trainable, made.device)


def kind_of(value: Any) -> NodeKind | None:
    """What `value` becomes; None for a plain value that is not saved."""
    if isinstance(value, GraphFunction):
        return NodeKind.FUNCTION
    if isinstance(value, FileAsset):
        return NodeKind.ASSET
    if isinstance(value, Variable | PartitionedTensor) or hasattr(value, "buffers") or hasattr(value, "__array__"):
        return NodeKind.VARIABLE
    for types, kind in ((Mapping, NodeKind.DICT), (tuple, NodeKind.TUPLE), (list, NodeKind.LIST)):
        if isinstance(value, types):
            return kind
    if isinstance(value, _PLAIN) or not hasattr(value, "__dict__"):
        return None
    return NodeKind.OBJECT


# Things with attributes that are no part of a model; an object that merely can be called, a layer for one, is.
_PLAIN = (type, Enum, PurePath, FunctionType, MethodType, ModuleType, partial)


def _children(node: Node) -> Iterator[tuple[str, Any]]:
    """The children of a node that are saved, by name."""
    value = node.value
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str) or not key or "\0" in key:
                raise DropError("name-invalid", f"{'/'.join(node.path)!r} has the key {key!r}, which can be no name")
            if kind_of(child) is not None:
                yield key, child
    elif isinstance(value, list | tuple):
        for item, child in enumerate(value):
            yield str(item), child
    elif kind_of(value) is NodeKind.OBJECT:
        for name, child in vars(value).items():
            # the prefix is TensorFlow's own
            if not name.startswith("_self_") and kind_of(child) is not None:
                yield name, child
