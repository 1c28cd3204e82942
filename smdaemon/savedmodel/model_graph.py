"""The graph of a saved object tree: handles of its variables, its assets, its functions, and a call for each signature.

`tf.saved_model.load` takes functions and values from the object graph; sessions and TensorFlow Serving run what stands here.
"""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import AttrValue, FunctionDef, MetaGraphDef, NodeDef, RegisteredGradient, TensorInfo
from smdaemon.savedmodel.constants import INIT_OP_SIGNATURE_KEY, PREDICT_METHOD_NAME
from smdaemon.savedmodel.functions import (
    Captured,
    GraphFunction,
    concrete_function,
    fill_call,
    wrapper,
)
from smdaemon.savedmodel.graph_names import legal_name, unused
from smdaemon.savedmodel.restore_graph import GRAPH_PRODUCER
from smdaemon.savedmodel.savers import HANDLE_OP, GraphVariable, add_saver
from smdaemon.savedmodel.signatures import op_signature_def
from smdaemon.savedmodel.structure import TensorSpec, flattened
from smdaemon.savedmodel.tensor_info import dtype_enum, shape_proto
from smdaemon.savedmodel.trackable import Node, NodeKind, ObjectTree, SavedValue
from smdaemon.tensorbundle.dtypes import STRING


class ModelGraph:
    """Fills `meta_graph` with the graph of `tree`; the asset files have the names `asset_names`, by node number."""

    def __init__(self, meta_graph: MetaGraphDef, tree: ObjectTree, asset_names: dict[int, str]) -> None:
        self._meta_graph = meta_graph
        self._graph = meta_graph.graph_def
        self._graph.versions.producer = GRAPH_PRODUCER
        self._tree = tree
        self._values: dict[int, SavedValue] = {value.node.number: value for value in tree.variables}
        self._names: set[str] = set()
        self._functions: dict[str, FunctionDef] = {}
        # what stands for a captured node in the graph: a handle, or the op that reads an asset's path
        self._captured_ops: dict[int, str] = {}
        self._wrappers = 0
        for value in tree.variables:
            self._add_variable(value)
        starts = [self._add_asset(node, asset_names[node.number]) for node in tree.of_kind(NodeKind.ASSET)]
        self._add_init_op(starts)

    def add_function(self, function: GraphFunction, *, as_signature: bool) -> str:
        """Put a function with all that it calls into the library, and how it is called into the object graph; its wrapper's name."""
        kind = "signature_wrapper_" if as_signature else ""
        self._wrappers += 1
        name = f"__inference_{kind}{function.name}_{self._wrappers}"
        captured = [self._captured(function, capture) for capture in function.captures]
        if as_signature:
            inputs, outputs = _by_name(function.inputs), _by_name(function.outputs)
        else:
            inputs, outputs = flattened(tuple(function.called_with.values())), flattened(function.result)
        self._add_definitions([function.function_def, *function.library])
        self._add_definitions([wrapper(name, function, inputs, outputs, captured)])
        gradients = self._graph.library.registered_gradients
        for gradient in function.gradients:
            made = RegisteredGradient.FromString(gradient.SerializeToString())
            if made not in gradients:
                gradients.append(made)
        self._meta_graph.object_graph_def.concrete_functions[name].CopyFrom(
            concrete_function(function, captured, is_signature=as_signature)
        )
        return name

    def add_signature(self, key: str, function: GraphFunction, called: str) -> None:
        """Add a placeholder for each input, the call of the wrapper `called`, and the SignatureDef of both."""
        inputs, outputs = _by_name(function.inputs), _by_name(function.outputs)
        signature = self._meta_graph.signature_def[key]
        signature.method_name = PREDICT_METHOD_NAME
        sources = []
        for spec in inputs:
            name = self._placeholder(f"{key}_{spec.name}", spec)
            sources.append(name)
            signature.inputs[spec.name].CopyFrom(_info(f"{name}:0", spec))
        sources += [self._captured_ops[self._captured(function, capture).node_id] for capture in function.captures]
        call = self._node("StatefulPartitionedCall", "StatefulPartitionedCall", sources)
        fill_call(call.attr, self._functions[called].signature)
        for number, spec in enumerate(outputs):
            signature.outputs[spec.name].CopyFrom(_info(f"{call.name}:{number}", spec))

    def add_saver(self) -> None:
        """Add the ops that restore the variables in a session."""
        variables = [
            GraphVariable(self._captured_ops[value.node.number], True, value.tensor.dtype.enum, value.key)
            for value in self._tree.variables
        ]
        if variables:
            add_saver(self._meta_graph, variables)

    def _add_variable(self, value: SavedValue) -> None:
        name = unused(legal_name(value.name), self._names)
        kind = _type(value.tensor.dtype.enum)
        shape = AttrValue(shape=shape_proto(value.tensor.shape))
        handle = self._append(name, HANDLE_OP, dtype=kind, shape=shape, shared_name=AttrValue(s=value.name.encode()))
        handle.device = value.device
        self._names.add(f"{name}/Read/ReadVariableOp")
        self._append(f"{name}/Read/ReadVariableOp", "ReadVariableOp", [name], dtype=kind).device = value.device
        self._captured_ops[value.node.number] = name

    def _add_asset(self, node: Node, filename: str) -> str:
        """Add a variable that holds the path of an asset, which a loader gives before it runs the init op; the assignment."""
        kind = _type(STRING.enum)
        path = self._placeholder("asset_path_initializer", TensorSpec("", "string", ()))
        holder = self._node("asset_path", HANDLE_OP, dtype=kind, shape=AttrValue(shape={}))
        holder.attr["shared_name"].s = holder.name.encode()
        assign = self._node(f"{holder.name}/Assign", "AssignVariableOp", [holder.name, path], dtype=kind)
        read = self._node(f"{holder.name}/Read/ReadVariableOp", "ReadVariableOp", [holder.name], dtype=kind)
        self._captured_ops[node.number] = read.name
        listed = self._meta_graph.asset_file_def.add()
        listed.filename, listed.tensor_info.name = filename, f"{path}:0"
        return assign.name

    def _add_init_op(self, awaited: Iterable[str]) -> None:
        init = self._node("init", "NoOp", [f"^{name}" for name in awaited])
        self._meta_graph.signature_def[INIT_OP_SIGNATURE_KEY].CopyFrom(
            op_signature_def(init.name, INIT_OP_SIGNATURE_KEY)
        )

    def _captured(self, function: GraphFunction, capture: object) -> Captured:
        node = self._tree.find(capture)
        if node is not None and node.kind is NodeKind.VARIABLE:
            tensor = self._values[node.number].tensor
            return Captured(node.number, TensorSpec("", tensor.dtype.name, tensor.shape), resource=True)
        if node is not None and node.kind is NodeKind.ASSET:
            return Captured(node.number, TensorSpec("", "string", ()), resource=False)
        what = repr(capture) if isinstance(capture, str) else f"a {type(capture).__name__}"
        raise DropError(
            "savedmodel-inconsistent",
            f"the function {function.name!r} captures {what}, which is no variable or file of the object tree",
            remedy="make what the function captures an attribute of the object that is saved",
        )

    def _add_definitions(self, definitions: Sequence[FunctionDef | Message]) -> None:
        for given in definitions:
            definition = FunctionDef.FromString(given.SerializeToString())
            name = definition.signature.name
            known = self._functions.get(name)
            if known is None:
                self._functions[name] = definition
                self._graph.library.function.append(definition)
            elif known != definition:
                raise DropError("name-clash", f"there are two functions {name!r} that differ")

    def _placeholder(self, name: str, spec: TensorSpec) -> str:
        kind, shape = _type(dtype_enum(spec.dtype)), AttrValue(shape=shape_proto(spec.shape))
        return self._node(name, "Placeholder", dtype=kind, shape=shape).name

    def _node(self, name: str, op: str, inputs: Iterable[str] = (), **attrs: AttrValue) -> NodeDef:
        return self._append(unused(legal_name(name), self._names), op, inputs, **attrs)

    def _append(self, name: str, op: str, inputs: Iterable[str] = (), **attrs: AttrValue) -> NodeDef:
        node = self._graph.node.add()
        node.name, node.op = name, op
        node.input.extend(inputs)
        for key, value in attrs.items():
            node.attr[key].CopyFrom(value)
        return node


def _by_name(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    return sorted(specs, key=lambda spec: spec.name)


def _type(enum: int) -> AttrValue:
    return AttrValue(type=enum)  # type: ignore[arg-type]  # enum values are ints


def _info(name: str, spec: TensorSpec) -> TensorInfo:
    return TensorInfo(name=name, dtype=dtype_enum(spec.dtype), tensor_shape=shape_proto(spec.shape))
