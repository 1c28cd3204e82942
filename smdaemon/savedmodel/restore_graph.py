"""The graph by which TensorFlow 1's loader and the C++ loader (TensorFlow Serving's) fill and save the variables.

`tf.saved_model.load` goes by the object graph instead and never looks here. Per variable there is a handle, a read and an
assignment; one RestoreV2 reads all values and one SaveV2 writes them, beneath a scope `save` as TensorFlow names it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from smdaemon.savedmodel import wire
from smdaemon.savedmodel.constants import GLOBAL_VARIABLES, TRAINABLE_VARIABLES
from smdaemon.savedmodel.object_graph import is_trainable
from smdaemon.savedmodel.tree import Leaf, Tree
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
    names = [keys[leaf.name] for leaf in tree.leaves]
    variables = b"".join([_variable_nodes(leaf, tensors[leaf.name]) for leaf in tree.leaves])
    saver = b"".join(_saver_nodes(scope, tree.leaves, types))
    return RestoreGraph(
        graph_def=(variables, _constants(scope, names), saver, wire.chunk(4, wire.number(1, GRAPH_PRODUCER))),
        program=b"".join((variables, _constants(scope, None), saver, wire.chunk(2, b""), wire.chunk(4, b""))),
        saver_def=_saver_def(scope),
        collections=_collections(scope, tree.leaves, types),
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
    """GraphDef.node {name, op, input, attr}."""
    references = b"".join([wire.text(3, source) for source in inputs])
    return wire.chunk(1, wire.text(1, name) + wire.text(2, op) + references + attrs)


def _attrs(**values: bytes) -> bytes:
    """NodeDef.attr entries; each value is an AttrValue."""
    return b"".join(wire.entry(5, key, values[key]) for key in sorted(values))


def _type_attr(dtype: DType) -> bytes:
    return wire.number(6, dtype.enum)


@lru_cache(1024)
def _variable_kind(dtype: DType, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """What the handles of many variables share, and what the ops on them do. A handle's `shared_name` sorts last."""
    return _attrs(dtype=_type_attr(dtype), shape=wire.chunk(7, wire.shape(shape))), _attrs(dtype=_type_attr(dtype))


def _variable_nodes(leaf: Leaf, tensor: Tensor) -> bytes:
    """The handle of a variable and the op that reads it, under the name that TensorFlow 1 looks for."""
    handle, access = _variable_kind(tensor.dtype, tensor.shape)
    shared_name = wire.chunk(5, _SHARED_NAME + wire.chunk(2, wire.text(2, leaf.variable)))
    return _node(leaf.variable, "VarHandleOp", attrs=handle + shared_name) + _node(
        f"{leaf.variable}/Read/ReadVariableOp", "ReadVariableOp", [leaf.variable], access
    )


_SHARED_NAME = wire.text(1, "shared_name")


def _constants(scope: str, names: list[str] | None) -> bytes:
    """What SaveV2 and RestoreV2 are told: the keys `names`, and for each that the whole tensor is meant. None: no values."""
    whole = None if names is None else [""] * len(names)
    inputs = {"tensor_names": names, "shape_and_slices": whole}
    return b"".join(
        _strings(f"{scope}/{op}/{name}", values) for op in ("SaveV2", "RestoreV2") for name, values in inputs.items()
    )


def _saver_nodes(scope: str, leaves: tuple[Leaf, ...], types: list[DType]) -> list[bytes]:
    """The ops that save and restore all variables in one go."""
    filename, save, restore = f"{scope}/Const", f"{scope}/SaveV2", f"{scope}/RestoreV2"
    dtypes = _attrs(dtypes=wire.chunk(1, wire.chunk(6, b"".join([wire.varint(dtype.enum) for dtype in types]))))
    reads = [f"{leaf.variable}/Read/ReadVariableOp" for leaf in leaves]
    assigns = [_assign_name(scope, item) for item in range(len(leaves))]
    return [
        _node(filename, "Placeholder", attrs=_attrs(dtype=_type_attr(STRING), shape=wire.chunk(7, b""))),
        _node(save, "SaveV2", [filename, f"{save}/tensor_names", f"{save}/shape_and_slices", *reads], dtypes),
        _node(f"{scope}/control_dependency", "Identity", [filename, f"^{save}"], _attrs(T=_type_attr(STRING))),
        _node(restore, "RestoreV2", [filename, f"{restore}/tensor_names", f"{restore}/shape_and_slices"], dtypes),
        *(
            _node(
                name,
                "AssignVariableOp",
                [leaf.variable, f"{restore}:{item}" if item else restore],
                _variable_kind(dtype, ())[1],
            )
            for item, (name, leaf, dtype) in enumerate(zip(assigns, leaves, types, strict=True))
        ),
        _node(f"{scope}/restore_all", "NoOp", [f"^{name}" for name in assigns]),
    ]


def _assign_name(scope: str, item: int) -> str:
    return f"{scope}/AssignVariableOp_{item}" if item else f"{scope}/AssignVariableOp"


def _strings(name: str, values: list[str] | None) -> bytes:
    """A constant vector of strings: TensorProto {dtype, tensor_shape, string_val}; an empty attribute for None."""
    if values is None:
        return _node(name, "Const", attrs=_attrs(dtype=_type_attr(STRING), value=b""))
    content = b"".join([wire.text(8, value) for value in values])
    tensor = wire.number(1, STRING.enum) + wire.chunk(2, wire.shape((len(values),))) + content
    return _node(name, "Const", attrs=_attrs(dtype=_type_attr(STRING), value=wire.chunk(8, tensor)))


def _saver_def(scope: str) -> bytes:
    """SaverDef {filename_tensor_name, save_tensor_name, restore_op_name, max_to_keep, version V2}."""
    return (
        wire.text(1, f"{scope}/Const:0")
        + wire.text(2, f"{scope}/control_dependency:0")
        + wire.text(3, f"{scope}/restore_all")
        + wire.number(4, 1)
        + wire.number(7, 2)
    )


def _collections(scope: str, leaves: tuple[Leaf, ...], types: list[DType]) -> dict[str, bytes]:
    """The variables as TensorFlow 1 lists them: CollectionDef.bytes_list of VariableDefs."""
    every, trainable = [], []
    for item, (leaf, dtype) in enumerate(zip(leaves, types, strict=True)):
        # The initializer is the assignment from the file: a variable of this graph has no other first value, and
        # tf.global_variables_initializer() must fail for want of a file name rather than set what was restored to zero.
        definition = (
            wire.text(1, f"{leaf.variable}:0")
            + wire.text(2, _assign_name(scope, item))
            + wire.text(3, f"{leaf.variable}/Read/ReadVariableOp:0")
            + wire.number(5, 1)
            + wire.number(7, is_trainable(dtype))
        )
        listed = wire.chunk(1, definition)
        every.append(listed)
        if is_trainable(dtype):
            trainable.append(listed)
    made = {GLOBAL_VARIABLES: wire.chunk(2, b"".join(every))}
    if trainable:
        made[TRAINABLE_VARIABLES] = wire.chunk(2, b"".join(trainable))
    return made
