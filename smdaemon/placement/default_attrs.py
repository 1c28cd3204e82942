"""Drops attrs that say no more than their op's default: a model without them also loads in a TensorFlow older than the attr."""

from functools import cache
from typing import TYPE_CHECKING

from smdaemon.placement.places import node_lists

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import AttrValue, MetaGraphDef, NodeDef, OpDef


def strip_default_attrs(meta_graph: "MetaGraphDef") -> int:
    """Drops, in place, the attrs of nodes in graph and functions that equal their op's default; returns how many.

    The defaults are those of the ops that the meta graph carries (`meta_info_def.stripped_op_list`, which stays as it is) and, for
    others, those of TensorFlow 2.21. Ops that neither knows keep their attrs, as do calls of the meta graph's own functions.
    """
    meta_info, graph_def = meta_graph.meta_info_def, meta_graph.graph_def
    defaults: dict[str, dict[str, AttrValue]] = {op.name: _defaults(op) for op in meta_info.stripped_op_list.op}
    defaults |= {function.signature.name: {} for function in graph_def.library.function}
    stripped = 0
    for _, nodes in node_lists(graph_def):
        for node in nodes:
            if node.op not in defaults:
                defaults[node.op] = _known(node.op)
            stripped += _strip(node, defaults[node.op])
    meta_info.stripped_default_attrs = True
    return stripped


def _strip(node: "NodeDef", defaults: "dict[str, AttrValue]") -> int:
    if not defaults:
        return 0
    attrs = node.attr
    stripped = [name for name in attrs if name in defaults and attrs[name] == defaults[name]]
    for name in stripped:
        del attrs[name]
    return len(stripped)


def _defaults(op: "OpDef") -> "dict[str, AttrValue]":
    return {attr.name: attr.default_value for attr in op.attr if attr.HasField("default_value")}


def _known(op: str) -> "dict[str, AttrValue]":
    """The defaults of one of TensorFlow's own ops, none for an op that it does not know."""
    content = _table().get(op)
    return {} if content is None else _defaults(content)


@cache
def _table() -> "dict[str, OpDef]":
    """The ops of TensorFlow 2.21 that have defaults, from `default_attrs.binpb` (see default_attrs_table.py)."""
    from importlib.resources import files

    from smdaemon.proto.tensorflow import OpList

    content = files("smdaemon.placement").joinpath("default_attrs.binpb").read_bytes()
    return {op.name: op for op in OpList.FromString(content).op}
