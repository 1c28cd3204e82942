"""Which variables a model has, under which names, and which bundle keys hold their values.

TensorFlow 2's models are named by the object graph: a variable is called by its path from the root, `layers/0/kernel`. TensorFlow 1's
are named by the graph: a variable is called as its node, and a partitioned one, whose parts share a key, as its key.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from smdaemon.proto.tensorflow import MetaGraphDef, NodeDef, SavedObjectGraph, TrackableObjectGraph, VariableDef
from smdaemon.savedmodel.consistency import inconsistent, matched_nodes
from smdaemon.savedmodel.constants import GLOBAL_VARIABLES, OBJECT_ATTRIBUTES, TRAINABLE_VARIABLES, VARIABLE_VALUE
from smdaemon.savedmodel.graph_names import operation
from smdaemon.savedmodel.restores import Restored, assignments, restores
from smdaemon.tensorbundle.reader import BundleReader


@dataclass(frozen=True)
class NamedVariable:
    """A variable: its name in the model, the name it was made with, its bundle key, and whether it is trained (None: unknown)."""

    name: str
    full_name: str
    key: str
    trainable: bool | None = None


_SUFFIX = f"/{OBJECT_ATTRIBUTES}/{VARIABLE_VALUE}"


def path_of(key: str) -> str:
    """`a/b.Sc/.ATTRIBUTES/VARIABLE_VALUE` -> `a/b/c`: the path in a checkpoint key, unescaped."""
    path = key.removesuffix(_SUFFIX)
    if "." not in path:
        return path
    return "/".join(_unescaped(part) for part in path.split("/"))


def _unescaped(part: str) -> str:
    """`..` is a dot and `.S` a slash; TensorFlow's own parts, `.OPTIMIZER_SLOT` and the like, stay."""
    return part if part.startswith(_OWN_PARTS) else _ESCAPE.sub(lambda found: _ESCAPED[found[0]], part)


_ESCAPED = {"..": ".", ".S": "/"}
_ESCAPE = re.compile(r"\.[.S]")
_OWN_PARTS = (".OPTIMIZER_SLOT", OBJECT_ATTRIBUTES)


def by_object_graph(
    saved: SavedObjectGraph, trackable: TrackableObjectGraph, bundle: BundleReader
) -> tuple[list[NamedVariable], dict[int, NamedVariable]]:
    """All variables, and those of them that the saved object graph reaches, by its node numbers.

    Raises DropError `savedmodel-inconsistent` where a key is not in the bundle or an edge leads nowhere.
    """
    at = {number: twin for number, twin in matched_nodes(saved, trackable) if twin is not None}
    trainable = {
        at[number]: node.variable.trainable
        for number, node in enumerate(saved.nodes)
        if number in at and node.HasField("variable")
    }
    found: dict[int, NamedVariable] = {}
    names: dict[str, str] = {}
    for number, node in enumerate(trackable.nodes):
        for attribute in node.attributes:
            if attribute.name != VARIABLE_VALUE:
                continue
            key = attribute.checkpoint_key
            if key not in bundle:
                raise inconsistent(f"the object graph names the key {key!r}, which is not in the bundle")
            name = path_of(key)
            if names.setdefault(name, key) != key:  # only an escaped slash can do this
                name = key.removesuffix(_SUFFIX)
            found[number] = NamedVariable(name, attribute.full_name, key, trainable.get(number))
    reached = {number: found[twin] for number, twin in at.items() if twin in found}
    return list(found.values()), reached


def by_graph(meta_graph: MetaGraphDef, bundle: BundleReader) -> list[NamedVariable]:
    """The variables that the restore ops of a graph fill; then what else they read, and what the bundle holds besides, by key."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    restored = restores(nodes)
    trainable = {*_listed(meta_graph, TRAINABLE_VARIABLES)}
    known = {*_listed(meta_graph, GLOBAL_VARIABLES)} | trainable
    found: dict[str, NamedVariable] = {}
    for variable, value in assignments(nodes, restored):
        if value.key not in bundle:
            raise inconsistent(f"the graph restores the key {value.key!r}, which is not in the bundle")
        name = _graph_name(variable, value)
        said = variable.name in trainable if variable.name in known else None
        found.setdefault(value.key, NamedVariable(name, variable.name, value.key, said))
    for key, _ in bundle.entries():
        found.setdefault(key, NamedVariable(key, key, key))
    return _distinct(found.values())


def _graph_name(variable: NodeDef, value: Restored) -> str:
    return value.key if value.part else variable.name


def _distinct(variables: Iterable[NamedVariable]) -> list[NamedVariable]:
    """The variables under names of their own: one whose name another has before it is called by its key."""
    names: set[str] = set()
    distinct = []
    for variable in variables:
        own = variable if variable.name not in names else replace(variable, name=variable.key)
        names.add(own.name)
        distinct.append(own)
    return distinct


def _listed(meta_graph: MetaGraphDef, collection: str) -> Iterator[str]:
    """The names of the nodes of the variables in a collection."""
    from google.protobuf.message import DecodeError

    if collection not in meta_graph.collection_def:
        return
    for content in meta_graph.collection_def[collection].bytes_list.value:
        try:
            yield operation(VariableDef.FromString(content).variable_name)
        except DecodeError as error:
            raise inconsistent(f"the collection {collection!r} holds no variable: {error}") from error
