"""Takes out of a meta graph what none of the named nodes needs: the training ops of a graph that is to serve."""

from collections.abc import Iterable, Iterator, Mapping

from smdaemon.proto.tensorflow import AttrValue, CollectionDef, FunctionDef, MetaGraphDef, NodeDef, VariableDef
from smdaemon.savedmodel.constants import ASSETS_KEY, GLOBAL_VARIABLES, TRAINABLE_VARIABLES
from smdaemon.savedmodel.graph_names import operation

VARIABLE_COLLECTIONS = (
    GLOBAL_VARIABLES,
    TRAINABLE_VARIABLES,
    "local_variables",
    "model_variables",
    "moving_average_variables",
    "global_step",
)
"""The collections of VariableDefs."""

_COLOCATED = "loc:@"


def prune(meta_graph: MetaGraphDef, roots: Iterable[str]) -> int:
    """Keeps, in place, the nodes that `roots` need and the functions that these call; returns how many nodes went.

    A variable that is kept keeps its initial value too: its entry in the collections names it. Collections lose what names a
    node that went; those of other objects (queue runners, loops of the backward pass) go whole, since they name nodes in ways of
    their own.
    """
    graph = meta_graph.graph_def
    nodes = {node.name: node for node in graph.node}
    kept = needed(nodes, (operation(root) for root in roots))
    definitions = [
        (name, definition) for name, _, definition in _variables(meta_graph.collection_def) if name == GLOBAL_VARIABLES
    ]
    for _, definition in definitions:
        if operation(definition.variable_name) in kept:
            kept |= needed(nodes, _named_by(definition), kept)
    before = len(graph.node)
    if len(kept) < before:
        copies = [node for node in graph.node if node.name in kept]
        serialized = [node.SerializeToString() for node in copies]
        del graph.node[:]
        for content in serialized:
            _without_lost_colocations(graph.node.add(), content, kept)
    _prune_functions(meta_graph)
    _prune_collections(meta_graph, kept)
    return before - len(graph.node)


def needed(nodes: Mapping[str, NodeDef], roots: Iterable[str], known: Iterable[str] = ()) -> set[str]:
    """The names of the nodes that `roots` need, themselves among them; what `known` need is known."""
    found = set(known)
    todo = [name for name in roots if name in nodes and name not in found]
    found.update(todo)
    while todo:
        for source in nodes[todo.pop()].input:
            name = operation(source)
            if name in nodes and name not in found:
                found.add(name)
                todo.append(name)
    return found


def _named_by(definition: VariableDef) -> Iterator[str]:
    """The nodes that a VariableDef names; a loader looks for each."""
    for name in (
        definition.variable_name,
        definition.initializer_name,
        definition.snapshot_name,
        definition.initial_value_name,
    ):
        if name:
            yield operation(name)


def _without_lost_colocations(node: NodeDef, content: bytes, kept: set[str]) -> None:
    """Fills `node`; it need not be placed beside nodes that went."""
    node.ParseFromString(content)
    if "_class" not in node.attr:
        return
    places = node.attr["_class"].list.s
    left = [place for place in places if _is_kept_place(place, kept)]
    if len(left) < len(places):
        del places[:]
        places.extend(left)
        if not left:
            del node.attr["_class"]


def _is_kept_place(place: bytes, kept: set[str]) -> bool:
    text = place.decode("utf-8", "surrogateescape")
    return not text.startswith(_COLOCATED) or text.removeprefix(_COLOCATED) in kept


def _prune_functions(meta_graph: MetaGraphDef) -> None:
    """Keeps the functions that the graph calls, those that these call, and the gradients of both."""
    library = meta_graph.graph_def.library
    functions = {function.signature.name: function for function in library.function}
    gradients = {gradient.function_name: gradient.gradient_func for gradient in library.gradient}
    kept: set[str] = set()
    todo = list(_called(meta_graph.graph_def.node))
    while todo:
        name = todo.pop()
        if name not in functions or name in kept:
            continue
        kept.add(name)
        function: FunctionDef = functions[name]
        todo += [*_called(function.node_def), gradients.get(name, "")]
    for number in reversed(range(len(library.function))):
        if library.function[number].signature.name not in kept:
            del library.function[number]
    for number in reversed(range(len(library.gradient))):
        if library.gradient[number].function_name not in kept:
            del library.gradient[number]


def _called(nodes: Iterable[NodeDef]) -> Iterator[str]:
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield from _named_functions(value)


def _named_functions(value: AttrValue) -> Iterator[str]:
    """The functions that an attr names, those in the attrs of a function among them."""
    todo = [value]
    while todo:
        current = todo.pop()
        for function in (*((current.func,) if current.HasField("func") else ()), *current.list.func):
            yield function.name
            todo.extend(function.attr.values())


def _prune_collections(meta_graph: MetaGraphDef, kept: set[str]) -> None:
    collections = meta_graph.collection_def
    variables = {name: [] for name in VARIABLE_COLLECTIONS if name in collections}  # type: dict[str, list[bytes]]
    for name, content, definition in _variables(collections):
        if kept.issuperset(_named_by(definition)):
            variables[name].append(content)
    for name in list(collections):
        collection = collections[name]
        kind = collection.WhichOneof("kind")
        if name in variables and kind == "bytes_list":
            _replace(collection, variables[name])
        elif kind == "node_list":
            left = [node for node in collection.node_list.value if operation(node) in kept]
            del collection.node_list.value[:]
            collection.node_list.value.extend(left)
            if not left:
                del collections[name]
        elif kind in {"bytes_list", "any_list"} and name != ASSETS_KEY:
            del collections[name]


def _replace(collection: CollectionDef, values: list[bytes]) -> None:
    del collection.bytes_list.value[:]
    collection.bytes_list.value.extend(values)


def _variables(collections: Mapping[str, CollectionDef]) -> Iterator[tuple[str, bytes, VariableDef]]:
    """Every VariableDef of the collections: the collection's name, the definition as it stands there, and the message."""
    for name in VARIABLE_COLLECTIONS:
        if name in collections:
            for content in collections[name].bytes_list.value:
                yield name, content, VariableDef.FromString(content)
