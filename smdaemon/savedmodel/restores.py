"""What the restore ops of a graph read from a bundle, and which variables they fill."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

from smdaemon.proto.tensorflow import NodeDef
from smdaemon.savedmodel.graph_names import operation, output_number
from smdaemon.tensorbundle.dtypes import STRING

_HOPS_LIMIT = 16
"""Nodes between a restored value and its assignment; TensorFlow puts one or two there."""


class Restored(NamedTuple):
    """One output of a restore op: the key it reads, which part of that tensor (b"" for all of it), and its DataType."""

    key: str
    part: bytes
    dtype: int


def restores(nodes: Mapping[str, NodeDef]) -> dict[str, list[Restored]]:
    """The outputs of every RestoreV2 among `nodes` (by name), in order; not of those whose keys are made while they run."""
    found = {}
    for node in nodes.values():
        if node.op != "RestoreV2" or len(node.input) < 3:
            continue
        dtypes = node.attr["dtypes"].list.type
        keys, parts = (_constant_strings(nodes, source, len(dtypes)) for source in node.input[1:3])
        if keys is not None and parts is not None:
            found[node.name] = [
                Restored(key.decode("utf-8", "surrogateescape"), part, dtype)
                for key, part, dtype in zip(keys, parts, dtypes, strict=False)
            ]
    return found


def assignments(
    nodes: Mapping[str, NodeDef], restored: Mapping[str, list[Restored]]
) -> Iterator[tuple[NodeDef, Restored]]:
    """Each variable's node with what is restored into it."""
    for node in nodes.values():
        if node.op not in {"AssignVariableOp", "Assign"} or len(node.input) < 2:
            continue
        variable = nodes.get(operation(node.input[0]))
        source = _source(nodes, node.input[1])
        outputs = restored.get(operation(source), [])
        if variable is not None and output_number(source) < len(outputs):
            yield variable, outputs[output_number(source)]


def _source(nodes: Mapping[str, NodeDef], tensor: str) -> str:
    """Where the value of `tensor` comes from, through what leaves it as it is."""
    for _ in range(_HOPS_LIMIT):
        node = nodes.get(operation(tensor))
        if node is None or node.op not in {"Identity", "Reshape"} or not node.input:
            break
        tensor = node.input[0]
    return tensor


def _constant_strings(nodes: Mapping[str, NodeDef], tensor: str, limit: int) -> list[bytes] | None:
    """The elements of a constant vector of at most `limit` strings; None for anything else."""
    node = nodes.get(operation(tensor))
    if node is None or node.op != "Const" or node.attr["dtype"].type != STRING.enum:
        return None
    value = node.attr["value"].tensor
    size = prod(dim.size for dim in value.tensor_shape.dim)
    if size > limit:
        return None
    strings = list(value.string_val)
    # one element may stand for all that are equal to it, from the last one on
    if strings and len(strings) < size:
        strings += strings[-1:] * (size - len(strings))
    return strings if len(strings) == size else None
