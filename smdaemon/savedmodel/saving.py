"""`save` and `simple_save`: an object tree, or a graph with inputs and outputs, as a SavedModel, as TensorFlow's of those names do.

model = SimpleNamespace(kernel=array, predict=GraphFunction("predict", ..., captures=["kernel"]))
save(model, "exports/1", signatures=model.predict)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smdaemon.errors import DropError
from smdaemon.placement import strip_default_attrs
from smdaemon.proto.pool import deterministic
from smdaemon.proto.tensorflow import (
    DataType,
    MetaGraphDef,
    NodeDef,
    SavedModel,
    SavedObject,
    SavedObjectGraph,
    TensorInfo,
    TrackableObjectGraph,
)
from smdaemon.savedmodel.asset_files import AssetFiles
from smdaemon.savedmodel.builder import Builder, Variables
from smdaemon.savedmodel.constants import (
    DEFAULT_SERVING_SIGNATURE_DEF_KEY,
    INIT_OP_SIGNATURE_KEY,
    OBJECT_GRAPH_KEY,
    PREDICT_METHOD_NAME,
    SERVING,
    TRAIN_OP_SIGNATURE_KEY,
    VARIABLE_VALUE,
)
from smdaemon.savedmodel.debug_info import Frame, make_debug_info, prune_debug_info
from smdaemon.savedmodel.encode_structure import function_spec
from smdaemon.savedmodel.functions import GraphFunction
from smdaemon.savedmodel.graph_input import GraphLike, meta_graph_of, saved_model_of
from smdaemon.savedmodel.graph_names import output_number
from smdaemon.savedmodel.model_graph import ModelGraph
from smdaemon.savedmodel.options import SaveOptions, check_namespaces, refuse, strip_debug_nodes
from smdaemon.savedmodel.sharding import sharded
from smdaemon.savedmodel.signatures import build_signature_def
from smdaemon.savedmodel.signatures_request import SignatureRequest, signature_defs
from smdaemon.savedmodel.structure import flattened
from smdaemon.savedmodel.tensor_info import GraphTensors, build_tensor_info, dtype_enum, shape_proto
from smdaemon.savedmodel.trackable import Node, NodeKind, ObjectTree, SavedValue
from smdaemon.savedmodel.values import StringScalar
from smdaemon.savedmodel.weights import TENSORFLOW_VERSION
from smdaemon.savedmodel.writer import Contents, WrittenModel, write_saved_model
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import Tensor
from smdaemon.tensorbundle.writer import ShardItem


def save(
    obj: Any,
    export_dir: str | Path,
    signatures: GraphFunction | Mapping[str, GraphFunction] | None = None,
    options: SaveOptions | None = None,
    *,
    shards: int = 1,
    on_bytes: Callable[[int], None] | None = None,
    sync: bool = True,
) -> WrittenModel:
    """Write the object tree `obj` as the SavedModel `export_dir`, which must not exist or be empty.

    What becomes what: see trackable.py. `signatures` are functions by key; a single one is `serving_default`. They need not be
    attributes of `obj`, but what they capture must be below it. Functions below `obj` can be called on the loaded model by their
    names. `shards`, `on_bytes` and `sync` are those of `write_saved_model`.

    Raises DropError as `ObjectTree`, `GraphFunction`, `SaveOptions` and `write_saved_model` do; `signature-invalid` for a key that is
    reserved, `savedmodel-inconsistent` for a function that captures what is not in the tree.
    """
    options = options or SaveOptions()
    contents, devices = _contents(obj, signatures, options, (SERVING,))
    placed: int | Sequence[Sequence[ShardItem]] = shards
    if options.experimental_sharding_callback is not None:
        tensors, placed = sharded(dict(contents.tensors), options.experimental_sharding_callback, devices)
        contents = replace(contents, tensors=tensors)
    Path(export_dir).parent.mkdir(parents=True, exist_ok=True)
    return write_saved_model(Path(export_dir), contents, shards=placed, on_bytes=on_bytes, sync=sync, into_empty=True)


def saved_contents(
    obj: Any,
    signatures: GraphFunction | Mapping[str, GraphFunction] | None = None,
    options: SaveOptions | None = None,
    *,
    tags: Sequence[str] = (SERVING,),
) -> Contents:
    """What `save` writes, under `tags` and those of the options; a sharding callback among these is not asked."""
    return _contents(obj, signatures, options or SaveOptions(), tags)[0]


def _contents(
    obj: Any,
    signatures: GraphFunction | Mapping[str, GraphFunction] | None,
    options: SaveOptions,
    tags: Sequence[str],
) -> tuple[Contents, dict[str, str]]:
    """The contents, and the device of each variable by its key."""
    named = _named(signatures)
    tree = ObjectTree(obj)
    assets = AssetFiles()
    asset_names = {node.number: assets.add(Path(node.value.path)) for node in tree.of_kind(NodeKind.ASSET)}
    meta_graph = MetaGraphDef()
    meta_graph.meta_info_def.tags.extend(dict.fromkeys([*tags, *options.extra_tags]))
    graph = ModelGraph(meta_graph, tree, asset_names)
    wrappers = _add_functions(graph, tree, named)
    if not options.experimental_skip_saver:
        graph.add_saver()
    _add_lists(tree)
    _fill_objects(meta_graph.object_graph_def, tree, options)
    _finish(meta_graph, options, wrappers)
    tensors: dict[str, Tensor | PartitionedTensor] = {value.key: value.tensor for value in tree.variables}
    tensors[OBJECT_GRAPH_KEY] = StringScalar(deterministic(_trackable(tree)))
    model = saved_model_of([meta_graph])
    contents = Contents(model, tensors, assets.files, debug_info=_debug_info(model, tree, named, options))
    return contents, {value.key: value.device for value in tree.variables}


def simple_save(
    export_dir: str | Path,
    graph: GraphLike,
    variables: Variables,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    legacy_init_op: str | None = None,
) -> Path:
    """Write a graph with one signature, `serving_default`, under the tag `serve`; the path of `saved_model.pb`.

    `inputs` and `outputs` are tensors of the graph: their names, or what `build_tensor_info` takes. Of a name alone, dtype and shape
    are taken from the definitions of ops that a MetaGraphDef carries, or from the node's attributes; DropError `signature-invalid`
    where neither tells them. `graph`, `variables` and `legacy_init_op` are those of `Builder`.
    """
    meta_graph = meta_graph_of(graph)
    sides = [{key: _tensor_info(meta_graph, tensor) for key, tensor in side.items()} for side in (inputs, outputs)]
    signatures = {DEFAULT_SERVING_SIGNATURE_DEF_KEY: build_signature_def(sides[0], sides[1], PREDICT_METHOD_NAME)}
    builder = Builder(export_dir)
    builder.add_meta_graph_and_variables(
        meta_graph, variables, [SERVING], signatures, main_op=legacy_init_op, clear_devices=True
    )
    return builder.save()


def _tensor_info(meta_graph: MetaGraphDef, tensor: Any) -> TensorInfo:
    """The TensorInfo of a tensor that is described, or named as `node` or `node:output`."""
    if not isinstance(tensor, str):
        return build_tensor_info(tensor)
    node = GraphTensors(meta_graph).node(tensor)
    dtype = _dtype_of(node, output_number(tensor))
    if any(op.name == node.op for op in meta_graph.meta_info_def.stripped_op_list.op) or not dtype:
        request = SignatureRequest(outputs={"tensor": tensor})
        return signature_defs({tensor: request}, meta_graph)[tensor].outputs["tensor"]
    info = TensorInfo(name=tensor if ":" in tensor else f"{tensor}:0", dtype=dtype, tensor_shape=shape_proto(None))
    if "shape" in node.attr:
        info.tensor_shape.CopyFrom(node.attr["shape"].shape)
    return build_tensor_info(GraphTensors(meta_graph).tensor(info.name, info))


# Ops of one output that has the type that their attribute says.
_TYPED_BY_DTYPE = frozenset(
    ["Const", "Placeholder", "PlaceholderWithDefault", "ReadVariableOp", "VariableV2", "Variable"]
)
_TYPED_BY_T = frozenset(
    [
        "Add",
        "AddV2",
        "BatchMatMulV2",
        "BiasAdd",
        "Concat",
        "ConcatV2",
        "Exp",
        "Identity",
        "LogSoftmax",
        "MatMul",
        "Mul",
        "Neg",
        "Relu",
        "Reshape",
        "Sigmoid",
        "Softmax",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
    ]
)


def _dtype_of(node: NodeDef, output: int) -> DataType:
    """The dtype of an output as the node itself tells it, for common ops; DT_INVALID for others."""
    if node.op in {"PartitionedCall", "StatefulPartitionedCall"} and output < len(node.attr["Tout"].list.type):
        return node.attr["Tout"].list.type[output]
    if output == 0 and node.op in _TYPED_BY_DTYPE:
        return node.attr["dtype"].type
    return node.attr["T"].type if output == 0 and node.op in _TYPED_BY_T else DataType.DT_INVALID


def _named(signatures: GraphFunction | Mapping[str, GraphFunction] | None) -> dict[str, GraphFunction]:
    if isinstance(signatures, GraphFunction):
        return {DEFAULT_SERVING_SIGNATURE_DEF_KEY: signatures}
    named = dict(signatures or {})
    for key, function in named.items():
        if not key or key in {INIT_OP_SIGNATURE_KEY, TRAIN_OP_SIGNATURE_KEY}:
            raise DropError("signature-invalid", f"the signature key {key!r} is reserved")
        if not isinstance(function, GraphFunction):
            raise DropError(
                "signature-invalid", f"the signature {key!r} is a {type(function).__name__}, no GraphFunction"
            )
    return named


class _Trace(dict[str, Any]):
    """What a node of kind CONCRETE stands for: the wrapper's name and how it is called."""


def _add_functions(
    graph: ModelGraph, tree: ObjectTree, signatures: Mapping[str, GraphFunction]
) -> dict[str, list[str]]:
    """Adds all functions to graph and tree; the names of the wrappers of each, by the name of its definition."""
    wrappers: dict[str, list[str]] = {}
    for node in tree.of_kind(NodeKind.FUNCTION):
        name = graph.add_function(node.value, as_signature=False)
        wrappers.setdefault(node.value.definition().signature.name, []).append(name)
        trace = tree.add_node(NodeKind.CONCRETE, _Trace(name=name, function=node.value, is_signature=False))
        node.children["trace_0"] = trace.number
    holder = tree.add_node(NodeKind.SIGNATURES, None)
    tree.nodes[0].children["signatures"] = holder.number
    for key, function in signatures.items():
        name = graph.add_function(function, as_signature=True)
        wrappers.setdefault(function.definition().signature.name, []).append(name)
        graph.add_signature(key, function, name)
        trace = tree.add_node(NodeKind.CONCRETE, _Trace(name=name, function=function, is_signature=True))
        holder.children[key] = trace.number
    return wrappers


def _add_lists(tree: ObjectTree) -> None:
    """The lists of variables that a loaded model has at its root, as a module has them in training."""
    if tree.variables:
        tree.add_list("variables", [value.node.number for value in tree.variables])
        tree.add_list("trainable_variables", [value.node.number for value in tree.variables if value.trainable])


def _fill_objects(objects: SavedObjectGraph, tree: ObjectTree, options: SaveOptions) -> None:
    """One SavedObject a node."""
    values = {value.node.number: value for value in tree.variables}
    assets = {node.number: index for index, node in enumerate(tree.of_kind(NodeKind.ASSET))}
    for node in tree.nodes:
        made = objects.nodes.add()
        for name, number in node.children.items():
            made.children.add(node_id=number, local_name=name)
        match node.kind:
            case NodeKind.VARIABLE:
                _fill_variable(made, values[node.number], options)
            case NodeKind.ASSET:
                made.asset.asset_file_def_index = assets[node.number]
                made.asset.SetInParent()
            case NodeKind.FUNCTION:
                _fill_function(made, node, tree)
            case NodeKind.CONCRETE:
                _fill_concrete(made, node.value)
            case _:
                made.user_object.identifier = node.kind.value
                made.user_object.version.producer = made.user_object.version.min_consumer = 1


def _fill_variable(made: SavedObject, value: SavedValue, options: SaveOptions) -> None:
    variable = made.variable
    variable.dtype = dtype_enum(value.tensor.dtype)
    variable.shape.CopyFrom(shape_proto(value.tensor.shape))
    variable.trainable, variable.name = value.trainable, value.name
    if options.saves_devices:
        variable.device = value.device


def _fill_function(made: SavedObject, node: Node, tree: ObjectTree) -> None:
    trace = node.children["trace_0"]
    made.dependencies.add(node_id=trace, local_name="trace_0")
    made.function.concrete_functions.append(tree.nodes[trace].value["name"])
    made.function.function_spec.CopyFrom(function_spec([*node.value.called_with]))


def _fill_concrete(made: SavedObject, trace: _Trace) -> None:
    function = trace["function"]
    names = [
        spec.name
        for spec in (function.inputs if trace["is_signature"] else flattened((*function.called_with.values(),)))
    ]
    concrete = made.bare_concrete_function
    concrete.concrete_function_name = trace["name"]
    if trace["is_signature"]:
        concrete.argument_keywords.extend(sorted(names))
        concrete.allowed_positional_arguments = int(len(names) == 1)  # of a single input there is no order to mistake
        concrete.function_spec.CopyFrom(function_spec([], sorted(names)))
    else:
        concrete.argument_keywords.extend(names)
        concrete.allowed_positional_arguments = len(names)
        concrete.function_spec.CopyFrom(function_spec([*function.called_with]))


def _trackable(tree: ObjectTree) -> TrackableObjectGraph:
    """The object graph by which values are found in the bundle: the same nodes and edges."""
    values = {value.node.number: value for value in tree.variables}
    made = TrackableObjectGraph()
    for node in tree.nodes:
        twin = made.nodes.add()
        for name, number in node.children.items():
            twin.children.add(node_id=number, local_name=name)
        if node.number in values:
            value = values[node.number]
            twin.attributes.add(name=VARIABLE_VALUE, full_name=value.name, checkpoint_key=value.key)
    return made


def _finish(meta_graph: MetaGraphDef, options: SaveOptions, wrappers: Mapping[str, list[str]]) -> None:
    """What the options change in the graph, and what is said about the whole."""
    graph, about = meta_graph.graph_def, meta_graph.meta_info_def
    if not options.experimental_custom_gradients:
        del graph.library.registered_gradients[:]
    check_namespaces(graph, options.namespace_whitelist)
    if options.experimental_debug_stripper:
        strip_debug_nodes(graph)
    for node in graph.node:
        if node.op in {"VarHandleOp", "ReadVariableOp"} and not options.saves_devices:
            node.device = ""
        if options.experimental_io_device and node.op in {"SaveV2", "RestoreV2"}:
            node.device = options.experimental_io_device
    strip_default_attrs(meta_graph)
    about.tensorflow_version = TENSORFLOW_VERSION
    about.stripped_default_attrs = True
    for alias, function in options.function_aliases.items():
        if not isinstance(function, GraphFunction):
            refuse("function_aliases", f"{alias!r} stands for a {type(function).__name__}, no GraphFunction")
        name = function.definition().signature.name
        if name not in wrappers:
            refuse("function_aliases", f"{alias!r} stands for a function that is not saved")
        for saved in wrappers[name]:
            about.function_aliases[saved] = alias


def _debug_info(
    model: SavedModel, tree: ObjectTree, signatures: Mapping[str, GraphFunction], options: SaveOptions
) -> Any:
    """The debug info of all functions; None unless it is asked for."""
    if not options.save_debug_info:
        return None
    traces: dict[str, Sequence[Frame]] = {}
    for function in (*(node.value for node in tree.of_kind(NodeKind.FUNCTION)), *signatures.values()):
        name = function.definition().signature.name
        traces |= {node if "@" in node else f"{node}@{name}": frames for node, frames in function.traces.items()}
    if not traces:
        refuse("save_debug_info", "no function says where its nodes were made")
    return prune_debug_info(make_debug_info(traces), model)
