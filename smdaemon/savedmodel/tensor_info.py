"""What a signature says of a tensor: TensorInfo messages, made from descriptions and resolved in a graph.

Format: `TensorInfo` in `meta_graph.proto`. A dense tensor is named; a sparse one names its three parts; any other composite
(ragged tensors first of all) carries a TypeSpecProto and the infos of its parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, cast

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import (
    DataType,
    GraphDef,
    MetaGraphDef,
    NodeDef,
    OpDef,
    TensorInfo,
    TensorShapeProto,
    TypeSpecProto,
)
from smdaemon.savedmodel.graph_names import operation, output_number
from smdaemon.tensorbundle.dtypes import dtype_named

Shape: TypeAlias = tuple[int | None, ...] | None
"""None: any rank; a dimension of None: any size."""


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of a graph: `node:output`, its dtype by name (`float32`, `string`, `resource`, ...), its shape.

    `node` is the node that makes it, where the tensor was looked up in a graph.
    """

    name: str
    dtype: Any
    shape: Any = None
    node: NodeDef | None = None


@dataclass(frozen=True)
class SparseTensor:
    """A tensor as coordinates of what is not zero: indices int64 (n, rank), values (n,), dense_shape int64 (rank,).

    `shape` is that of the whole; None: not known.
    """

    indices: Any
    values: Any
    dense_shape: Any
    shape: Any = None


@dataclass(frozen=True)
class CompositeTensor:
    """A tensor of several parts that `type_spec` (a TypeSpecProto) makes one of."""

    type_spec: TypeSpecProto
    components: tuple[Any, ...]


def ragged_tensor(flat_values: Any, row_splits: Sequence[Any], shape: Any = None) -> CompositeTensor:
    """A ragged tensor: the values of all rows, and where the rows of each ragged dimension begin, outermost first.

    `shape` is that of the whole, None in each ragged dimension; by default it is made from the rank of `flat_values`.
    Raises DropError `signature-invalid` without row splits.
    """
    if not row_splits:
        _refuse("a ragged tensor has at least one vector of row splits")
    if shape is None:
        inner = _dims(flat_values.shape)
        shape = None if inner is None else (None,) * (len(row_splits) + 1) + inner[1:]
    spec = TypeSpecProto(
        type_spec_class=TypeSpecProto.RAGGED_TENSOR_SPEC,
        type_spec_class_name="RaggedTensorSpec",
        num_flat_components=1 + len(row_splits),
    )
    state = spec.type_state.tuple_value.values
    state.add().tensor_shape_value.CopyFrom(shape_proto(shape))
    state.add().tensor_dtype_value = dtype_enum(flat_values.dtype)
    state.add().int64_value = len(row_splits)
    state.add().tensor_dtype_value = dtype_enum(row_splits[0].dtype)
    return CompositeTensor(spec, (flat_values, *row_splits))


def build_tensor_info(tensor: Any) -> TensorInfo:
    """The TensorInfo of a tensor: a SparseTensor, a CompositeTensor, or whatever has `name`, `dtype` and `shape`.

    dtypes may be smdaemon's, numpy's, TensorFlow's, a DataType number or a name; shapes a tuple (None or -1 for any size), None
    for any rank, a TensorShapeProto or TensorFlow's TensorShape. Raises DropError `signature-invalid` for anything else.
    """
    if isinstance(tensor, TensorInfo):
        return tensor
    if isinstance(tensor, CompositeTensor):
        info = TensorInfo()
        info.composite_tensor.type_spec.CopyFrom(tensor.type_spec)
        for component in tensor.components:
            info.composite_tensor.components.add().CopyFrom(build_tensor_info(component))
        return info
    if isinstance(tensor, SparseTensor):
        info = TensorInfo(dtype=dtype_enum(tensor.values.dtype), tensor_shape=shape_proto(tensor.shape))
        info.coo_sparse.values_tensor_name = _name(tensor.values)
        info.coo_sparse.indices_tensor_name = _name(tensor.indices)
        info.coo_sparse.dense_shape_tensor_name = _name(tensor.dense_shape)
        return info
    if not hasattr(tensor, "dtype") or not hasattr(tensor, "shape"):
        _refuse(f"{tensor!r} describes no tensor: it has no dtype or no shape")
    return TensorInfo(name=_name(tensor), dtype=dtype_enum(tensor.dtype), tensor_shape=shape_proto(tensor.shape))


def build_tensor_info_from_op(name: str) -> TensorInfo:
    """The TensorInfo that stands for the op `name` itself: no dtype, no shape, no output number."""
    return TensorInfo(name=name, dtype=DataType.DT_INVALID, tensor_shape=TensorShapeProto(unknown_rank=True))


def dtype_enum(dtype: Any) -> DataType:
    """The number in `tensorflow.DataType` of a dtype given in any of the ways that `build_tensor_info` takes."""
    return cast("DataType", _number_of(dtype))


def _number_of(dtype: Any) -> int:
    if isinstance(dtype, bool):
        _refuse(f"{dtype!r} is no dtype")
    if isinstance(dtype, int):
        return dtype
    for attribute in ("as_datatype_enum", "enum"):  # TensorFlow's DType, ours
        number = getattr(dtype, attribute, None)
        if isinstance(number, int):
            return number
    if isinstance(dtype, str):
        return _enum_named(dtype)
    if dtype is str or dtype is bytes:
        return DataType.DT_STRING
    import numpy as np

    try:
        found = np.dtype(dtype)
    except TypeError:
        _refuse(f"{dtype!r} is no dtype")
    return DataType.DT_STRING if found.kind in "SUO" else _enum_named(found.name)


def _enum_named(name: str) -> int:
    """float32, float and DT_FLOAT are all 1; resource, variant and the like have only TensorFlow's names."""
    try:
        return dtype_named(name).enum
    except DropError:
        try:
            return DataType.Value(f"DT_{name.removeprefix('DT_').upper()}")
        except ValueError:
            _refuse(f"TensorFlow has no dtype {name!r}")


def shape_proto(shape: Any) -> TensorShapeProto:
    """The TensorShapeProto of a shape given in any of the ways that `build_tensor_info` takes."""
    dims = _dims(shape)
    made = TensorShapeProto()
    if dims is None:
        made.unknown_rank = True
        return made
    for dim in dims:
        made.dim.add().size = -1 if dim is None else dim
    return made


def shape_of(shape: TensorShapeProto) -> Shape:
    """The shape in a message, unknown sizes as None."""
    return None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)


def _dims(shape: Any) -> Shape:
    if isinstance(shape, TensorShapeProto):
        return shape_of(shape)
    if shape is None or getattr(shape, "rank", 0) is None:  # TensorFlow's TensorShape of unknown rank
        return None
    dims = shape.as_list() if hasattr(shape, "as_list") else shape
    if isinstance(dims, str) or not isinstance(dims, Iterable):
        _refuse(f"{shape!r} is no shape")
    return tuple(_dim(dim, shape) for dim in dims)


def _dim(dim: Any, shape: Any) -> int | None:
    if dim is None or dim == -1:
        return None
    try:
        size = int(dim.__index__())
    except (AttributeError, TypeError):
        _refuse(f"the shape {shape!r} holds {dim!r}")
    if not 0 <= size < 1 << 63:
        _refuse(f"the shape {shape!r} holds {dim!r}")
    return size


def _name(tensor: Any) -> str:
    """The name of a graph's tensor, with the number of its output."""
    name = getattr(tensor, "name", None)
    if not isinstance(name, str) or not name:
        _refuse(f"{tensor!r} has no name in a graph")
    return name if ":" in name else f"{name}:0"


class GraphTensors:
    """Looks tensors up in a graph by name; with a MetaGraphDef its op definitions tell numbers and dtypes of outputs."""

    def __init__(self, graph: GraphDef | MetaGraphDef, import_scope: str = "") -> None:
        ops: Iterable[OpDef] = ()
        if isinstance(graph, MetaGraphDef):
            ops = graph.meta_info_def.stripped_op_list.op
            graph = graph.graph_def
        self._prefix = f"{import_scope}/" if import_scope else ""
        self._nodes = {node.name: node for node in graph.node}
        self._ops = {op.name: op for op in ops}

    def node(self, name: str) -> NodeDef:
        """The node of a tensor or of an op; DropError `signature-invalid` where there is none."""
        found = self._nodes.get(self._prefix + operation(name))
        if found is None:
            _refuse(f"the name {self._prefix + name!r} refers to an op that is not in the graph")
        return found

    def tensor(self, name: str, info: TensorInfo) -> GraphTensor:
        """The tensor of that name; what the graph does not say of it is taken from `info`."""
        operator, _, number = name.partition(":")
        if not operator or not (number.isascii() and number.isdigit()):
            _refuse(f"{name!r} is not the name of a tensor, which is 'node:number'")
        node, output = self.node(name), output_number(name)
        types = self._output_types(node)
        if types is not None and output >= len(types):
            _refuse(f"{name!r} is not among the {len(types)} outputs of {node.name!r}")
        shapes = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
        return GraphTensor(
            self._prefix + name,
            dtype_name(info.dtype if types is None else types[output]),
            shape_of(shapes[output] if output < len(shapes) else info.tensor_shape),
            node,
        )

    def _output_types(self, node: NodeDef) -> list[int] | None:
        """The DataType of each output; None where the definition of the op is not known."""
        op = self._ops.get(node.op)
        if op is None:
            return None
        types: list[int] = []
        for output in op.output_arg:
            if output.type_list_attr:
                types += node.attr[output.type_list_attr].list.type
                continue
            count = node.attr[output.number_attr].i if output.number_attr else 1
            if not 0 <= count <= _OUTPUTS_LIMIT:
                _refuse(f"{node.name!r} claims {count} outputs")
            types += [node.attr[output.type_attr].type if output.type_attr else output.type] * count
        return types


_OUTPUTS_LIMIT = 1_000_000


def dtype_name(enum: int) -> str:
    """The name of a DataType: `float32` and the like, TensorFlow's own in lower case for what no bundle stores."""
    from smdaemon.tensorbundle.dtypes import dtype_numbered

    try:
        return dtype_numbered(enum).name
    except DropError:
        try:
            return DataType.Name(enum).removeprefix("DT_").lower()
        except ValueError:
            return f"data type {enum}"


def get_tensor_from_tensor_info(
    tensor_info: TensorInfo, graph: GraphDef | MetaGraphDef, import_scope: str = ""
) -> GraphTensor | SparseTensor | CompositeTensor:
    """The tensor that `tensor_info` describes, looked up in `graph`, whose names begin with `import_scope/` if that is given.

    Raises DropError `signature-invalid` where a name is malformed or not in the graph, or the info is of no known encoding.
    """
    return _resolved(tensor_info, GraphTensors(graph, import_scope))


def describe_tensor_info(tensor_info: TensorInfo) -> GraphTensor | SparseTensor | CompositeTensor:
    """The tensor that `tensor_info` describes, without looking into any graph."""
    return _resolved(tensor_info, _AsDescribed())


class _AsDescribed:
    """Takes every tensor for what its info says."""

    def tensor(self, name: str, info: TensorInfo) -> GraphTensor:
        return GraphTensor(name, dtype_name(info.dtype), shape_of(info.tensor_shape))


def _resolved(info: TensorInfo, tensors: GraphTensors | _AsDescribed) -> GraphTensor | SparseTensor | CompositeTensor:
    encoding = info.WhichOneof("encoding")
    if encoding == "name":
        return tensors.tensor(info.name, info)
    if encoding == "coo_sparse":
        parts = info.coo_sparse
        index = TensorInfo(dtype=DataType.DT_INT64, tensor_shape=TensorShapeProto(unknown_rank=True))
        values = TensorInfo(dtype=info.dtype, tensor_shape=TensorShapeProto(unknown_rank=True))
        return SparseTensor(
            tensors.tensor(parts.indices_tensor_name, index),
            tensors.tensor(parts.values_tensor_name, values),
            tensors.tensor(parts.dense_shape_tensor_name, index),
            shape_of(info.tensor_shape),
        )
    if encoding == "composite_tensor":
        composite = info.composite_tensor
        components = tuple(_resolved(component, tensors) for component in composite.components)
        wanted = composite.type_spec.num_flat_components
        if wanted and wanted != len(components):
            _refuse(f"a composite tensor has {len(components)} parts where its type has {wanted}")
        return CompositeTensor(composite.type_spec, components)
    return _refuse("a tensor info has neither a name nor sparse nor composite parts")


def _refuse(message: str) -> NoReturn:
    raise DropError("signature-invalid", message)
