"""The functions of a model as plain values: which a loaded model offers, and what each of their traces takes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from smdaemon.errors import DropError

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import GraphDef, MetaGraphDef, NodeDef, SavedObject


@dataclass(frozen=True)
class CallSummary:
    """One way to call a function: the concrete function, positional and named arguments.

    A tensor is a dict of name, dtype and shape; any other argument is the value that the function was traced for.
    """

    function: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


@dataclass(frozen=True)
class FunctionSummary:
    """A function that the model's root has, under its name there, with the ways to call it."""

    name: str
    calls: tuple[CallSummary, ...]


def callable_functions(meta_graph: "MetaGraphDef") -> tuple[FunctionSummary, ...]:
    """The functions of the root object by name, as `saved_model_cli show --all` lists them; none of a TensorFlow 1 model.

    Raises DropError `savedmodel-corrupt` or `savedmodel-inconsistent` where the object graph contradicts itself.
    """
    nodes = meta_graph.object_graph_def.nodes
    if not nodes:
        return ()
    from smdaemon.savedmodel.consistency import children_of

    found = []
    for name, number in sorted(children_of(nodes, 0).items()):
        functions = sorted(_concrete_functions(nodes[number]))
        if functions:
            found.append(FunctionSummary(name, tuple(_call(meta_graph, *function) for function in functions)))
    return tuple(found)


def _concrete_functions(node: "SavedObject") -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of the concrete functions that an object stands for, with their keywords."""
    if node.HasField("function"):
        for name in node.function.concrete_functions:
            yield name, ()
    elif node.HasField("bare_concrete_function"):
        bare = node.bare_concrete_function
        yield bare.concrete_function_name, tuple(bare.argument_keywords)


def _call(meta_graph: "MetaGraphDef", name: str, keywords: tuple[str, ...]) -> CallSummary:
    from smdaemon.savedmodel.loaded_tree import ConcreteFunction

    functions = meta_graph.object_graph_def.concrete_functions
    if name not in functions:
        raise DropError(
            "savedmodel-inconsistent", f"the object graph refers to the function {name!r}, which it does not describe"
        )
    arguments, named = ConcreteFunction(name, keywords, (), functions[name]).arguments
    return CallSummary(
        name, tuple(plain(value) for value in arguments), {key: plain(value) for key, value in sorted(named.items())}
    )


def plain(value: Any) -> Any:
    """A decoded value (see structure.py) as what JSON knows."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    return str(value)


def used_ops(graph_def: "GraphDef") -> tuple[str, ...]:
    """The ops of the graph and of the functions that it calls, directly or not, sorted; functions' own names are none."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    used: set[str] = set()
    todo = [graph_def.node]
    for nodes in todo:  # grows while it is walked
        for name in {called for node in nodes for called in _called(node)} - used:
            used.add(name)
            if name in functions:
                todo.append(functions[name].node_def)
    return tuple(sorted(used - functions.keys()))


def _called(node: "NodeDef") -> Iterator[str]:
    yield node.op
    if node.op in {"PartitionedCall", "StatefulPartitionedCall"} and "f" in node.attr:
        yield node.attr["f"].func.name
