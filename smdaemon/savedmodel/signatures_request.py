"""Signatures asked for by the names of a graph's tensors: `{"x": "input:0"}`; the graph tells their dtypes and shapes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from typing import NoReturn, TypeAlias

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import DataType, FunctionDef, MetaGraphDef, NodeDef, SignatureDef, TensorInfo
from smdaemon.savedmodel.constants import (
    CLASSIFY_METHOD_NAME,
    INIT_OP_SIGNATURE_KEY,
    PREDICT_METHOD_NAME,
    REGRESS_METHOD_NAME,
    TRAIN_OP_SIGNATURE_KEY,
)
from smdaemon.savedmodel.graph_names import operation, output_number
from smdaemon.savedmodel.signatures import build_signature_def, is_valid_signature
from smdaemon.savedmodel.tensor_info import GraphTensor, GraphTensors, SparseTensor, build_tensor_info, shape_of

_COMPARED_LIMIT = 5_000
"""Names that a missing one is compared with: each comparison takes some ten microseconds."""


@dataclass(frozen=True)
class SparseNames:
    """A sparse tensor, by the names of the three tensors that it is made of."""

    indices: str
    values: str
    dense_shape: str


TensorNames: TypeAlias = Mapping[str, str | SparseNames]


@dataclass(frozen=True)
class SignatureRequest:
    """What a signature takes and gives, by the names of tensors: `node:output`, or `node` for its first output."""

    inputs: TensorNames = field(default_factory=dict)
    outputs: TensorNames = field(default_factory=dict)
    method_name: str = PREDICT_METHOD_NAME

    def operations(self) -> Iterable[str]:
        """The nodes that it names."""
        for name in (*self.inputs.values(), *self.outputs.values()):
            names = (name,) if isinstance(name, str) else (name.indices, name.values, name.dense_shape)
            yield from map(operation, names)


def signature_defs(requests: Mapping[str, SignatureRequest], meta_graph: MetaGraphDef) -> dict[str, SignatureDef]:
    """The signatures asked for, resolved in the graph.

    dtypes come from the op definitions that the meta graph carries (or its functions), shapes from what the graph recorded
    when it was written, or from the placeholder. Raises DropError `signature-invalid`: for a tensor that is not in the graph,
    with the nearest names that are; for one whose dtype nothing tells; for what TensorFlow Serving's Classify and Regress
    refuse; for a key that is kept for ops.
    """
    tensors = _Tensors(meta_graph)
    made = {}
    for key, request in requests.items():
        if key in {INIT_OP_SIGNATURE_KEY, TRAIN_OP_SIGNATURE_KEY}:
            _refuse(f"the signature key {key!r} is reserved for an op")
        if not request.outputs:
            _refuse(f"signature {key!r} has no outputs")
        inputs, outputs = (
            {name: tensors.info(f"{name!r} of signature {key!r}", tensor) for name, tensor in named.items()}
            for named in (request.inputs, request.outputs)
        )
        made[key] = build_signature_def(inputs, outputs, request.method_name)
        if request.method_name in {CLASSIFY_METHOD_NAME, REGRESS_METHOD_NAME} and not is_valid_signature(made[key]):
            _refuse(f"signature {key!r} is none that TensorFlow Serving takes for {request.method_name!r}")
    return made


class _Tensors:
    """The tensors of a graph, by name."""

    def __init__(self, meta_graph: MetaGraphDef) -> None:
        self._graph = GraphTensors(meta_graph)
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}

    def info(self, where: str, name: str | SparseNames) -> TensorInfo:
        """The TensorInfo of a tensor; `where` says in errors what it is for."""
        if isinstance(name, str):
            return build_tensor_info(self._tensor(where, name))
        parts = (self._tensor(where, part) for part in (name.indices, name.values, name.dense_shape))
        return build_tensor_info(SparseTensor(*parts))

    def _tensor(self, where: str, name: str) -> GraphTensor:
        node = self._nodes.get(operation(name))
        if node is None or name.startswith("^"):
            _refuse(f"{where} is {name!r}, which is not in the graph; {self._nearest(operation(name))}")
        full_name = name if ":" in name else f"{name}:0"
        fallback = TensorInfo(dtype=_called_dtype(node, self._functions, output_number(full_name)))
        if "shape" in node.attr and output_number(full_name) == 0:  # a placeholder, a variable
            fallback.tensor_shape.CopyFrom(node.attr["shape"].shape)
        else:
            fallback.tensor_shape.unknown_rank = True
        try:
            found = self._graph.tensor(full_name, fallback)
        except DropError as error:
            raise DropError(error.code, f"{where}: {error}") from error
        if found.dtype in {"invalid", "data type 0"}:
            _refuse(f"{where} is {name!r}, an output of the op {node.op!r} that the graph does not define")
        recorded = "_output_shapes" in node.attr
        return found if recorded else GraphTensor(found.name, found.dtype, shape_of(fallback.tensor_shape), node)

    def _nearest(self, name: str) -> str:
        """What the user may have meant."""
        last = name.rpartition("/")[2]
        alike = [known for known in self._nodes if last and last in known]
        compared = alike or self._nodes
        found = get_close_matches(name, islice(compared, _COMPARED_LIMIT), n=3, cutoff=0.4) or alike[:3]
        return f"the nearest names are {', '.join(map(repr, found))}" if found else "no name is like it"


def _called_dtype(node: NodeDef, functions: Mapping[str, FunctionDef], output: int) -> DataType:
    """The dtype that a function of the graph's library gives as its output; DT_INVALID for a node that calls none."""
    function = functions.get(node.op)
    if function is None or output >= len(function.signature.output_arg):
        return DataType.DT_INVALID
    return function.signature.output_arg[output].type


def _refuse(message: str) -> NoReturn:
    raise DropError("signature-invalid", message)
