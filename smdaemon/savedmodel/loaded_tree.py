"""The objects of a model as Python objects, without their behaviour: `model.layers[0].kernel`, lists, dicts, functions by what they take.

They are built from the SavedObjectGraph in `saved_object_graph.proto`. Functions cannot be called: there is no TensorFlow to
run them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from smdaemon.proto.tensorflow import MetaGraphDef, NodeDef, SavedConcreteFunction, SavedObject
from smdaemon.savedmodel.consistency import children_of, inconsistent
from smdaemon.savedmodel.lazy import LazyArray
from smdaemon.savedmodel.structure import decoded

if TYPE_CHECKING:
    import numpy as np


class LoadedObject:
    """An object of a model. What it has is found as attributes or by `[name]`; `identifier` is what kind of object it was.

    Where it has no attribute `variables` (or `trainable_variables`) of its own, that is the list of those beneath it.
    """

    def __init__(self, identifier: str = "") -> None:
        self._identifier = identifier
        self._children: dict[str, Any] = {}

    @classmethod
    def of(cls, children: dict[str, Any]) -> Self:
        """An object that has these children."""
        made = cls()
        made._children = children
        return made

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            children = self.__dict__.get("_children", {})
            if name in children:
                return children[name]
            if name == "identifier":
                return self._identifier
            if name in {"variables", "trainable_variables"}:
                return [variable for variable in variables_beneath(self) if name == "variables" or variable.trainable]
        raise AttributeError(f"the loaded object has no {name!r}; it has {sorted(self._children)[:20]}")

    def __getitem__(self, name: str) -> Any:
        return self._children[name]

    def __contains__(self, name: str) -> bool:
        return name in self._children

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __dir__(self) -> list[str]:
        return sorted({*self._children, "identifier", "variables", "trainable_variables"})

    def __repr__(self) -> str:
        return f"<LoadedObject {self._identifier!r} with {sorted(self._children)[:20]}>"


@dataclass(frozen=True, repr=False)
class ConcreteFunction:
    """One trace of a function: its name in the graph's library, and what it takes and gives, as structure.py has it.

    `bound_inputs` are the objects that it captures: variables, tables, constants.
    """

    name: str
    argument_keywords: tuple[str, ...] = ()
    bound_inputs: tuple[Any, ...] = ()
    _message: SavedConcreteFunction | None = None

    @cached_property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and named arguments; without a saved signature the keywords that it can be called with."""
        if self._message is None or not self._message.HasField("canonicalized_input_signature"):
            return self.argument_keywords, {}
        signature = decoded(self._message.canonicalized_input_signature)
        if not (
            isinstance(signature, tuple)
            and len(signature) == 2
            and isinstance(signature[0], tuple)
            and isinstance(signature[1], dict)
        ):
            raise inconsistent(f"the function {self.name!r} has an input signature that is not positional and named")
        return signature

    @cached_property
    def outputs(self) -> Any:
        """What it gives; None where that is nothing or not known."""
        if self._message is None or not self._message.HasField("output_signature"):
            return None
        return decoded(self._message.output_signature)

    def __repr__(self) -> str:
        return f"<ConcreteFunction {self.name!r}>"


@dataclass(frozen=True, repr=False)
class LoadedFunction:
    """A function with its traces."""

    concrete_functions: tuple[ConcreteFunction, ...]

    def __repr__(self) -> str:
        return f"<LoadedFunction with {len(self.concrete_functions)} traces>"


@dataclass(frozen=True)
class LoadedConstant:
    """A constant that functions capture: the node that holds it."""

    operation: str
    _node: NodeDef = field(repr=False)

    def read(self) -> "np.ndarray[Any, Any]":
        """Its value."""
        from smdaemon.savedmodel.tensor_values import array_of

        return array_of(self._node.attr["value"].tensor)


@dataclass(frozen=True)
class LoadedResource:
    """A table or another resource: the device it is bound to ("" for none); its contents are not variables."""

    device: str = ""


@dataclass(frozen=True)
class MissingVariable:
    """A variable without a value in the bundle, as models saved without their values have."""

    name: str


def revive(meta_graph: MetaGraphDef, variables: Mapping[int, LazyArray], assets: list[Path]) -> Any:
    """The root of the model's objects; `variables` by number of the node, `assets` in the order of `asset_file_def`.

    Raises DropError `savedmodel-inconsistent` where the object graph refers to what is not there.
    """
    return _Reviver(meta_graph, variables, assets).root()


class _Reviver:
    def __init__(self, meta_graph: MetaGraphDef, variables: Mapping[int, LazyArray], assets: list[Path]) -> None:
        self._graph = meta_graph.object_graph_def
        self._variables = variables
        self._assets = assets
        self._constants = _constants(meta_graph)
        self._made: dict[int, Any] = {}
        self._functions: dict[str, ConcreteFunction] = {}

    def root(self) -> Any:
        """All objects are made first and given their children then: they may refer to each other in rings."""
        nodes = self._graph.nodes
        if not nodes:
            return LoadedObject()
        self._make_all()
        for number in range(len(nodes)):
            self._give_children(number)
        return self._made[0]

    def _make_all(self) -> None:
        makers: dict[str | None, Callable[[int, SavedObject], Any]] = {
            "user_object": self._user_object,
            "asset": self._asset,
            "variable": self._variable,
            "constant": self._constant,
            "resource": lambda _, node: LoadedResource(node.resource.device),
            "captured_tensor": lambda _, node: LoadedObject(f"captured tensor {node.captured_tensor.name}"),
        }
        later: list[tuple[int, SavedObject]] = []
        for number, node in enumerate(self._graph.nodes):
            kind = node.WhichOneof("kind")
            if kind in {"function", "bare_concrete_function"}:
                later.append((number, node))
            else:
                self._made[number] = makers.get(kind, self._user_object)(number, node)
        for number, node in later:  # they refer to variables by number
            if node.HasField("function"):
                names = node.function.concrete_functions
                self._made[number] = LoadedFunction(tuple(self._function(name) for name in names))
            else:
                bare = node.bare_concrete_function
                self._made[number] = self._function(bare.concrete_function_name, tuple(bare.argument_keywords))

    def _user_object(self, _: int, node: SavedObject) -> Any:
        identifier = node.user_object.identifier
        if identifier in _LISTS:
            return []
        return {} if identifier in _DICTS else LoadedObject(identifier)

    def _asset(self, _: int, node: SavedObject) -> Path:
        number = node.asset.asset_file_def_index
        if not 0 <= number < len(self._assets):
            raise inconsistent(f"the object graph refers to asset {number} of {len(self._assets)}")
        return self._assets[number]

    def _variable(self, number: int, node: SavedObject) -> LazyArray | MissingVariable:
        return self._variables.get(number) or MissingVariable(node.variable.name)

    def _constant(self, _: int, node: SavedObject) -> LoadedConstant:
        name = node.constant.operation
        if name not in self._constants:
            raise inconsistent(f"the object graph refers to the constant {name!r}, which is not in the graph")
        return LoadedConstant(name, self._constants[name])

    def _function(self, name: str, keywords: tuple[str, ...] = ()) -> ConcreteFunction:
        if name not in self._functions:
            if name not in self._graph.concrete_functions:
                raise inconsistent(f"the object graph refers to the function {name!r}, which it does not describe")
            message = self._graph.concrete_functions[name]
            bound = tuple(self._bound(name, number) for number in message.bound_inputs)
            self._functions[name] = ConcreteFunction(name, keywords, bound, message)
        function = self._functions[name]
        return replace(function, argument_keywords=keywords) if keywords else function

    def _bound(self, name: str, number: int) -> Any:
        if not 0 <= number < len(self._graph.nodes):
            raise inconsistent(f"the function {name!r} captures node {number} of {len(self._graph.nodes)}")
        return self._made.get(number)

    def _give_children(self, number: int) -> None:
        children = children_of(self._graph.nodes, number)
        made = self._made[number]
        if isinstance(made, LoadedObject):
            made._children.update((name, self._made[child]) for name, child in children.items())  # noqa: SLF001 - its maker
        elif isinstance(made, list):
            items = {int(name): child for name, child in children.items() if _is_item(name)}
            made.extend(self._made[items[item]] for item in sorted(items))
        elif isinstance(made, dict):
            made.update((name, self._made[child]) for name, child in children.items())


def _is_item(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


_LISTS = frozenset(["trackable_list_wrapper", "trackable_tuple_wrapper"])
_DICTS = frozenset(["trackable_dict_wrapper", "signature_map"])


def _constants(meta_graph: MetaGraphDef) -> dict[str, NodeDef]:
    if not any(node.HasField("constant") for node in meta_graph.object_graph_def.nodes):
        return {}
    return {node.name: node for node in meta_graph.graph_def.node if node.op == "Const"}


def variables_beneath(root: Any) -> list[LazyArray]:
    """Every variable that is reached from an object, each once."""
    found: dict[int, LazyArray] = {}
    seen = {id(root)}
    todo = [root]
    while todo:
        item = todo.pop()
        if isinstance(item, LazyArray):
            found[id(item)] = item
            continue
        beneath: list[Any] = []
        if isinstance(item, LoadedObject):
            beneath = list(item._children.values())  # noqa: SLF001 - its own module
        elif isinstance(item, list):
            beneath = item
        elif isinstance(item, dict):
            beneath = list(item.values())
        for child in reversed(beneath):
            if id(child) not in seen:
                seen.add(id(child))
                todo.append(child)
    return list(found.values())
