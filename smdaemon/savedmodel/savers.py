"""The saver of a graph that has none: ops that save and restore its variables, as TensorFlow 1 adds them.

Resource variables (VarHandleOp) and reference variables (VariableV2) are found by their nodes; a variable that is a piece of a
partitioned one has a SaveSliceInfoDef in the graph's collections and is restored from its part of the whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import AttrValue, GraphDef, MetaGraphDef, NodeDef, SaverDef, VariableDef
from smdaemon.savedmodel.constants import GLOBAL_VARIABLES
from smdaemon.savedmodel.graph_names import operation
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.slices import PartitionedTensor, TensorSlice
from smdaemon.tensorbundle.tensors import Tensor

HANDLE_OP = "VarHandleOp"
REFERENCE_OPS = frozenset(["VariableV2", "Variable"])


@dataclass(frozen=True)
class GraphVariable:
    """A variable of a graph and what of the bundle is its value.

    `key` is the tensor's, `whole` its shape and `part` the variable's place in it where the variable is a piece; `dtype` is a
    number in `tensorflow.DataType`.
    """

    name: str
    is_resource: bool
    dtype: int
    key: str
    whole: tuple[int, ...] = ()
    part: TensorSlice | None = None

    @property
    def slice_spec(self) -> str:
        """What RestoreV2 is told: `8 3 0,4:-` for the first four rows of an (8, 3), nothing for a whole tensor."""
        if self.part is None:
            return ""
        return " ".join([*map(str, self.whole), ":".join(f"{start},{length}" for start, length in self.part.extents)])


def graph_variables(meta_graph: MetaGraphDef) -> list[GraphVariable]:
    """The variables of the graph in the order of their nodes: those of its collection, all where there is no collection.

    The key of a variable is the name of its node, that of a piece the name of the whole.
    """
    listed = {operation(found.variable_name): found for found in _definitions(meta_graph)}
    variables = []
    for node in meta_graph.graph_def.node:
        if node.op != HANDLE_OP and node.op not in REFERENCE_OPS:
            continue
        if listed and node.name not in listed:
            continue
        key = node.name
        whole: tuple[int, ...] = ()
        part = None
        info = listed[node.name].save_slice_info_def if node.name in listed else None
        if info is not None and info.full_name:
            key, whole = info.full_name, tuple(info.full_shape)
            part = TensorSlice(tuple(zip(info.var_offset, info.var_shape, strict=False)))
        variables.append(GraphVariable(node.name, node.op == HANDLE_OP, node.attr["dtype"].type, key, whole, part))
    return variables


def _definitions(meta_graph: MetaGraphDef) -> Iterator[VariableDef]:
    if GLOBAL_VARIABLES not in meta_graph.collection_def:
        return
    for content in meta_graph.collection_def[GLOBAL_VARIABLES].bytes_list.value:
        yield VariableDef.FromString(content)


def joined_pieces(
    variables: Iterable[GraphVariable], tensors: Mapping[str, Tensor | PartitionedTensor]
) -> dict[str, Tensor | PartitionedTensor]:
    """`tensors` with pieces that are given one by one, under the names of their variables, made one under the whole's name."""
    joined = dict(tensors)
    wholes: dict[str, list[GraphVariable]] = {}
    for variable in variables:
        if variable.part is not None and variable.key not in tensors:
            wholes.setdefault(variable.key, []).append(variable)
    for key, pieces in wholes.items():
        parts: list[tuple[TensorSlice, Tensor]] = []
        for piece in pieces:
            tensor = joined.pop(piece.name, None)
            if piece.part is None or tensor is None or isinstance(tensor, PartitionedTensor):
                raise DropError("savedmodel-inconsistent", f"the variable {piece.name!r} of the graph has no value")
            parts.append((piece.part, tensor))
        joined[key] = PartitionedTensor(parts[0][1].dtype, pieces[0].whole, parts)
    return joined


def add_saver(meta_graph: MetaGraphDef, variables: Sequence[GraphVariable]) -> None:
    """Adds the nodes that save and restore `variables`, and the SaverDef that names them."""
    graph = meta_graph.graph_def
    scope = _free_scope(graph)
    filename = f"{scope}/Const"
    types = [variable.dtype for variable in variables]
    _node(graph, filename, "Placeholder", dtype=_type(STRING.enum), shape=AttrValue(shape={}))
    save = [filename, *_constants(graph, f"{scope}/SaveV2", variables)]
    save += [_value(graph, scope, item, variable) for item, variable in enumerate(variables)]
    _node(graph, f"{scope}/SaveV2", "SaveV2", save, dtypes=_types(types))
    written = [filename, f"^{scope}/SaveV2"]
    _node(graph, f"{scope}/control_dependency", "Identity", written, T=_type(STRING.enum))
    restore = [filename, *_constants(graph, f"{scope}/RestoreV2", variables)]
    _node(graph, f"{scope}/RestoreV2", "RestoreV2", restore, dtypes=_types(types))
    assigned = [_assignment(graph, scope, item, variable) for item, variable in enumerate(variables)]
    _node(graph, f"{scope}/restore_all", "NoOp", [f"^{name}" for name in assigned])
    meta_graph.saver_def.CopyFrom(
        SaverDef(
            filename_tensor_name=f"{filename}:0",
            save_tensor_name=f"{scope}/control_dependency:0",
            restore_op_name=f"{scope}/restore_all",
            max_to_keep=1,
            version=SaverDef.V2,
        )
    )


def _free_scope(graph: GraphDef) -> str:
    """`save`, or `save_1`, ... where that is a name already."""
    taken = {node.name.partition("/")[0] for node in graph.node}
    scope, count = "save", 0
    while scope in taken:
        count += 1
        scope = f"save_{count}"
    return scope


def _constants(graph: GraphDef, op: str, variables: Sequence[GraphVariable]) -> list[str]:
    """The vectors of keys and of slices that SaveV2 and RestoreV2 take; their names."""
    vectors = {
        "tensor_names": [variable.key for variable in variables],
        "shape_and_slices": [variable.slice_spec for variable in variables],
    }
    for name, elements in vectors.items():
        value = AttrValue()
        value.tensor.dtype = STRING.enum  # type: ignore[assignment]  # enum values are ints
        value.tensor.tensor_shape.dim.add().size = len(elements)
        value.tensor.string_val.extend(element.encode("utf-8", "surrogateescape") for element in elements)
        _node(graph, f"{op}/{name}", "Const", dtype=_type(STRING.enum), value=value)
    return [f"{op}/{name}" for name in vectors]


def _value(graph: GraphDef, scope: str, item: int, variable: GraphVariable) -> str:
    """What SaveV2 takes of a variable: a reference is its own value, a handle must be read."""
    if not variable.is_resource:
        return variable.name
    name = f"{scope}/ReadVariableOp_{item}" if item else f"{scope}/ReadVariableOp"
    _node(graph, name, "ReadVariableOp", [variable.name], dtype=_type(variable.dtype))
    return name


def _assignment(graph: GraphDef, scope: str, item: int, variable: GraphVariable) -> str:
    """The op that gives a variable output number `item` of RestoreV2; its name."""
    inputs = [variable.name, f"{scope}/RestoreV2:{item}" if item else f"{scope}/RestoreV2"]
    op = "AssignVariableOp" if variable.is_resource else "Assign"
    name = f"{scope}/{op}_{item}" if item else f"{scope}/{op}"
    if variable.is_resource:
        _node(graph, name, op, inputs, dtype=_type(variable.dtype))
    else:
        colocated = AttrValue(list={"s": [b"loc:@" + variable.name.encode()]})
        yes = AttrValue(b=True)
        _node(graph, name, op, inputs, T=_type(variable.dtype), use_locking=yes, validate_shape=yes, _class=colocated)
    return name


def _node(graph: GraphDef, name: str, op: str, inputs: Iterable[str] = (), **attrs: AttrValue) -> NodeDef:
    node = graph.node.add()
    node.name, node.op = name, op
    node.input.extend(inputs)
    for key, value in attrs.items():
        node.attr[key].CopyFrom(value)
    return node


def _type(enum: int) -> AttrValue:
    return AttrValue(type=enum)  # type: ignore[arg-type]  # enum values are ints


def _types(enums: Iterable[int]) -> AttrValue:
    value = AttrValue()
    value.list.SetInParent()
    value.list.type.extend(enums)  # type: ignore[arg-type]  # enum values are ints
    return value
