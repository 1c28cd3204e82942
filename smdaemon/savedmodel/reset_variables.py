"""Which variables lose the values that a loader restored, because the op that it runs after restoring initialises them again."""

from typing import TYPE_CHECKING

from smdaemon.savedmodel.constants import INIT_OP_SIGNATURE_KEY, LEGACY_INIT_OP_KEY, MAIN_OP_KEY
from smdaemon.savedmodel.graph_names import operation
from smdaemon.savedmodel.restores import assignments, restores

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import MetaGraphDef, NodeDef


def reset_keys(meta_graph: "MetaGraphDef") -> dict[str, str]:
    """The bundle keys of such variables, with the name of the op that the loader runs.

    A main op that initialises and then restores resets nothing. Functions are not looked into.
    """
    ops = _ops_after_restoring(meta_graph)
    if not ops:
        return {}
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    restored = {variable.name: source.key for variable, source in assignments(nodes, restores(nodes))}
    found: dict[str, str] = {}
    for op in ops:
        run = _run_by(nodes, op)
        if operation(meta_graph.saver_def.restore_op_name) in run:
            continue
        for name in run:
            node = nodes[name]
            if node.op in {"Assign", "AssignVariableOp"} and node.input and operation(node.input[0]) in restored:
                found[restored[operation(node.input[0])]] = op
    return found


def _ops_after_restoring(meta_graph: "MetaGraphDef") -> list[str]:
    ops = [
        operation(name)
        for key in (MAIN_OP_KEY, LEGACY_INIT_OP_KEY)
        if key in meta_graph.collection_def
        for name in meta_graph.collection_def[key].node_list.value
    ]
    if INIT_OP_SIGNATURE_KEY in meta_graph.signature_def:
        ops += [operation(info.name) for info in meta_graph.signature_def[INIT_OP_SIGNATURE_KEY].outputs.values()]
    return ops


def _run_by(nodes: "dict[str, NodeDef]", op: str) -> set[str]:
    """Every node that running `op` runs."""
    run = {op} & nodes.keys()
    todo = list(run)
    for name in todo:  # grows while it is walked
        for source in map(operation, nodes[name].input):
            if source in nodes and source not in run:
                run.add(source)
                todo.append(source)
    return run
