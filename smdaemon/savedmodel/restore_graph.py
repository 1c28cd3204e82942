"""The graph by which TensorFlow 1's loader and the C++ loader (TensorFlow Serving's) fill and save the variables.

`tf.saved_model.load` goes by the object graph instead and never looks here. Per variable there is a handle, a read and an
assignment; one RestoreV2 reads all values and one SaveV2 writes them, beneath a scope `save` as TensorFlow names it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from smdaemon.savedmodel import wire
from smdaemon.savedmodel.constants import GLOBAL_VARIABLES, TRAINABLE_VARIABLES
from smdaemon.savedmodel.object_graph import is_trainable
from smdaemon.savedmodel.tree import Tree
from smdaemon.tensorbundle.dtypes import STRING, DType
from smdaemon.tensorbundle.tensors import Tensor

# The GraphDef version of TensorFlow 2.21; a consumer older than the producer still reads the graph (min_consumer is 0).
GRAPH_PRODUCER = 2474


@dataclass(frozen=True)
class RestoreGraph:
    """Parts of a MetaGraphDef: GraphDef (in pieces to be joined), SaverDef, and the collections' CollectionDefs by name.

    `program` is what the fingerprint of the graph is taken of: the GraphDef without the values of string constants, with an
    empty library and empty versions.
    """

    graph_def: tuple[bytes, ...]
    program: bytes
    saver_def: bytes
    collections: dict[str, bytes]


def restore_graph(tree: Tree, tensors: Mapping[str, Tensor], keys: Mapping[str, str]) -> RestoreGraph:
    """The graph of the variables of `tree`; `keys` are the bundle keys by tensor name."""
    scope = _free_scope(tree)
    types = [tensors[leaf.name].dtype for leaf in tree.leaves]
    encoded = [
        _variable(scope, item, leaf.variable, dtype, tensors[leaf.name].shape)
        for item, (leaf, dtype) in enumerate(zip(tree.leaves, types, strict=True))
    ]
    variables = b"".join([variable.nodes for variable in encoded])
    saver = b"".join(_saver_nodes(scope, encoded, types))
    versions = wire.chunk(4, wire.number(1, GRAPH_PRODUCER))
    return RestoreGraph(
        graph_def=(variables, _constants(scope, [keys[leaf.name] for leaf in tree.leaves]), saver, versions),
        program=b"".join((variables, _constants(scope, None), saver, wire.chunk(2, b""), wire.chunk(4, b""))),
        saver_def=_saver_def(scope),
        collections=_collections(encoded),
    )


def _free_scope(tree: Tree) -> str:
    """`save`, or `save_1`, ... where a variable lies there."""
    taken = {leaf.variable.partition("/")[0] for leaf in tree.leaves}
    scope, count = "save", 0
    while scope in taken:
        count += 1
        scope = f"save_{count}"
    return scope


def _node(name: str, op: str, inputs: Iterable[str] = (), attrs: bytes = b"") -> bytes:
    """GraphDef.node {name, op, input, attr}; further inputs may stand before the attributes in `attrs`."""
    references = b"".join([wire.text(3, source) for source in inputs])
    return wire.chunk(1, wire.text(1, name) + wire.text(2, op) + references + attrs)


def _attrs(**values: bytes) -> bytes:
    """NodeDef.attr entries; each value is an AttrValue."""
    return b"".join(wire.entry(5, key, values[key]) for key in sorted(values))


def _type_attr(dtype: DType) -> bytes:
    return wire.number(6, dtype.enum)


class _Variable(NamedTuple):
    """What one variable adds to the graph: nodes, inputs of nodes that all variables share, and its VariableDef."""

    nodes: bytes
    saved: bytes
    assignment: bytes
    restored: bytes
    definition: bytes
    is_trainable: bool


# Fields of NodeDef: the name, an input, the ops
_NAME, _INPUT = wire.tag(1), wire.tag(3)
_HANDLE, _READ, _ASSIGN = (wire.text(2, op) for op in ("VarHandleOp", "ReadVariableOp", "AssignVariableOp"))
_SHARED_NAME = wire.text(1, "shared_name")


def _variable(scope: str, item: int, variable: str, dtype: DType, shape: tuple[int, ...]) -> _Variable:
    """The handle of a variable, the op that reads it, and the assignment of RestoreV2's output number `item`.

    Each string is encoded once; this runs for every variable.
    """
    trainable, handle_attrs, attrs = _kind(dtype, shape)
    read_op = f"{variable}/Read/ReadVariableOp"  # where TensorFlow 1 looks for it
    assign_op = f"{scope}/AssignVariableOp_{item}" if item else f"{scope}/AssignVariableOp"
    name, read, assign = wire.delimited(variable), wire.delimited(read_op), wire.delimited(assign_op)
    shared_name = wire.chunk(5, _SHARED_NAME + wire.chunk(2, wire.tag(2) + name))
    value = wire.text(3, f"{scope}/RestoreV2:{item}" if item else f"{scope}/RestoreV2")
    return _Variable(
        nodes=wire.chunk(1, _NAME + name + _HANDLE + handle_attrs + shared_name)
        + wire.chunk(1, _NAME + read + _READ + _INPUT + name + attrs),
        saved=_INPUT + read,
        assignment=wire.chunk(1, _NAME + assign + _ASSIGN + _INPUT + name + value + attrs),
        restored=wire.text(3, f"^{assign_op}"),
        # The initializer is the assignment from the file: a variable of this graph has no other first value, and
        # tf.global_variables_initializer() must fail for want of a file name rather than set what was restored to zero.
        definition=wire.text(1, f"{variable}:0") + wire.tag(2) + assign + wire.text(3, f"{read_op}:0") + trainable,
        is_trainable=is_trainable(dtype),
    )


@lru_cache(1024)
def _kind(dtype: DType, shape: tuple[int, ...]) -> tuple[bytes, bytes, bytes]:
    """What variables of a type and shape share: the end of the VariableDef, the attributes of handle (but the last) and ops."""
    definition = wire.number(5, 1) + wire.number(7, is_trainable(dtype))
    handle = _attrs(dtype=_type_attr(dtype), shape=wire.chunk(7, wire.shape(shape)))
    return definition, handle, _attrs(dtype=_type_attr(dtype))


def _constants(scope: str, keys: list[str] | None) -> bytes:
    """What SaveV2 and RestoreV2 are told: the keys, and for each that the whole tensor is meant. None: no values."""
    values = {"tensor_names": b"", "shape_and_slices": b""}
    if keys is not None:
        names = b"".join([wire.text(8, key) for key in keys])
        values = {
            "tensor_names": _strings(len(keys), names),
            "shape_and_slices": _strings(len(keys), wire.text(8, "") * len(keys)),
        }
    return b"".join(
        _node(f"{scope}/{op}/{name}", "Const", attrs=_attrs(dtype=_type_attr(STRING), value=value))
        for op in ("SaveV2", "RestoreV2")
        for name, value in values.items()
    )


def _strings(count: int, elements: bytes) -> bytes:
    """AttrValue.tensor: a vector of strings, TensorProto {dtype, tensor_shape, string_val}."""
    return wire.chunk(8, wire.number(1, STRING.enum) + wire.chunk(2, wire.shape((count,))) + elements)


def _saver_nodes(scope: str, variables: list[_Variable], types: list[DType]) -> list[bytes]:
    """The ops that save and restore all variables in one go."""
    filename, save, restore = f"{scope}/Const", f"{scope}/SaveV2", f"{scope}/RestoreV2"
    dtypes = _attrs(dtypes=wire.chunk(1, wire.chunk(6, b"".join([wire.varint(dtype.enum) for dtype in types]))))
    return [
        _node(filename, "Placeholder", attrs=_attrs(dtype=_type_attr(STRING), shape=wire.chunk(7, b""))),
        _node(
            save,
            "SaveV2",
            [filename, f"{save}/tensor_names", f"{save}/shape_and_slices"],
            b"".join([variable.saved for variable in variables]) + dtypes,
        ),
        _node(f"{scope}/control_dependency", "Identity", [filename, f"^{save}"], _attrs(T=_type_attr(STRING))),
        _node(restore, "RestoreV2", [filename, f"{restore}/tensor_names", f"{restore}/shape_and_slices"], dtypes),
        *(variable.assignment for variable in variables),
        _node(f"{scope}/restore_all", "NoOp", attrs=b"".join([variable.restored for variable in variables])),
    ]


def _saver_def(scope: str) -> bytes:
    """SaverDef {filename_tensor_name, save_tensor_name, restore_op_name, max_to_keep, version V2}."""
    return (
        wire.text(1, f"{scope}/Const:0")
        + wire.text(2, f"{scope}/control_dependency:0")
        + wire.text(3, f"{scope}/restore_all")
        + wire.number(4, 1)
        + wire.number(7, 2)
    )


def _collections(variables: list[_Variable]) -> dict[str, bytes]:
    """The variables as TensorFlow 1 lists them: CollectionDef.bytes_list of VariableDefs."""
    every = [wire.chunk(1, variable.definition) for variable in variables]
    trainable = [listed for listed, variable in zip(every, variables, strict=True) if variable.is_trainable]
    made = {GLOBAL_VARIABLES: wire.chunk(2, b"".join(every))}
    if trainable:
        made[TRAINABLE_VARIABLES] = wire.chunk(2, b"".join(trainable))
    return made
