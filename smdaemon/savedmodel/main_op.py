"""The op that a loader runs first: it initialises variables and tables, and may restore the variables after that.

The nodes are those that TensorFlow 1's `main_op` makes, in a MetaGraphDef instead of a default graph.
"""

from collections.abc import Iterable

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import MetaGraphDef, VariableDef
from smdaemon.savedmodel.constants import GLOBAL_VARIABLES, LOCAL_VARIABLES, TABLE_INITIALIZERS
from smdaemon.savedmodel.graph_names import operation


def main_op(meta_graph: MetaGraphDef) -> str:
    """Adds an op that initialises all variables, local variables and tables of the meta graph's collections; its name.

    Raises DropError `signature-invalid` where a collection names what is not in the graph.
    """
    graph = _Graph(meta_graph)
    inits = [
        graph.no_op("init", _initializers(meta_graph, GLOBAL_VARIABLES)),
        graph.no_op("init", _initializers(meta_graph, LOCAL_VARIABLES)),
        graph.no_op("init_all_tables", _tables(meta_graph)),
    ]
    return graph.no_op("group_deps", inits)


def main_op_with_restore(meta_graph: MetaGraphDef, restore_op_name: str) -> str:
    """The same, and the op `restore_op_name` is run with it; the name of the op that stands for both."""
    graph = _Graph(meta_graph)
    return graph.no_op("group_deps", [main_op(meta_graph), restore_op_name])


class _Graph:
    """Adds ops to a graph under names that are free."""

    def __init__(self, meta_graph: MetaGraphDef) -> None:
        self._nodes = meta_graph.graph_def.node

    def no_op(self, name: str, after: Iterable[str]) -> str:
        taken = {node.name for node in self._nodes}
        strangers = [op for op in after if operation(op) not in taken]
        if strangers:
            raise DropError("signature-invalid", f"the op {strangers[0]!r} is not in the graph")
        free, count = name, 0
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        self._nodes.add(name=free, op="NoOp", input=[f"^{operation(op)}" for op in after])
        return free


def _initializers(meta_graph: MetaGraphDef, collection: str) -> list[str]:
    if collection not in meta_graph.collection_def:
        return []
    from google.protobuf.message import DecodeError

    try:
        return [
            VariableDef.FromString(content).initializer_name
            for content in meta_graph.collection_def[collection].bytes_list.value
        ]
    except DecodeError as error:
        raise DropError("savedmodel-corrupt", f"the collection {collection!r} holds no variable: {error}") from error


def _tables(meta_graph: MetaGraphDef) -> list[str]:
    if TABLE_INITIALIZERS not in meta_graph.collection_def:
        return []
    return list(meta_graph.collection_def[TABLE_INITIALIZERS].node_list.value)
