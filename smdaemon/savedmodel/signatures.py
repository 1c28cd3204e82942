"""Signatures: what a model takes and gives under a name, as TensorFlow's `signature_def_utils` makes, checks and reads them.

A tensor is described by anything that `tensor_info.build_tensor_info` takes. What TensorFlow Serving's Classify and Regress
demand of dtypes is demanded here. Every refusal is a DropError `signature-invalid`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import DataType, GraphDef, MetaGraphDef, NodeDef, SignatureDef, TensorInfo, TensorProto
from smdaemon.savedmodel.constants import (
    CLASSIFY_INPUTS,
    CLASSIFY_METHOD_NAME,
    CLASSIFY_OUTPUT_CLASSES,
    CLASSIFY_OUTPUT_SCORES,
    PREDICT_METHOD_NAME,
    REGRESS_INPUTS,
    REGRESS_METHOD_NAME,
    REGRESS_OUTPUTS,
    SUPERVISED_EVAL_METHOD_NAME,
    SUPERVISED_TRAIN_METHOD_NAME,
)
from smdaemon.savedmodel.tensor_info import GraphTensors, build_tensor_info, build_tensor_info_from_op, dtype_name

if TYPE_CHECKING:
    import numpy as np


def build_signature_def(
    inputs: Mapping[str, TensorInfo] | None = None,
    outputs: Mapping[str, TensorInfo] | None = None,
    method_name: str | None = None,
    defaults: "Mapping[str, TensorProto | NodeDef | np.ndarray[Any, Any]] | None" = None,
) -> SignatureDef:
    """The SignatureDef of these parts; `defaults` are inputs' values where a request has none.

    A default is an array (or a number, string, list of these), a TensorProto or a Const node.
    """
    signature = SignatureDef(method_name=method_name or "")
    for key, info in (inputs or {}).items():
        signature.inputs[key].CopyFrom(info)
    for key, info in (outputs or {}).items():
        signature.outputs[key].CopyFrom(info)
    for key, default in (defaults or {}).items():
        signature.defaults[key].CopyFrom(_default(key, default))
    return signature


def _default(key: str, default: Any) -> TensorProto:
    from smdaemon.savedmodel.tensor_values import tensor_proto

    if isinstance(default, TensorProto):
        return default
    if isinstance(default, NodeDef):
        if default.op != "Const":
            _refuse(f"the default of {key!r} is the node {default.name!r} of op {default.op!r}, not a Const")
        return default.attr["value"].tensor
    try:
        return tensor_proto(default)
    except DropError as error:
        raise DropError("signature-invalid", f"the default of {key!r}: {error}") from error


def predict_signature_def(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> SignatureDef:
    """A signature for TensorFlow Serving's Predict, which takes any dtypes; neither inputs nor outputs may be empty."""
    for what, tensors in (("inputs", inputs), ("outputs", outputs)):
        if not tensors:
            _refuse(f"a predict signature has no {what}")
    return build_signature_def(_infos(inputs), _infos(outputs), PREDICT_METHOD_NAME)


def regression_signature_def(examples: Any, predictions: Any) -> SignatureDef:
    """A signature for TensorFlow Serving's Regress: serialised tf.Examples (string) to predictions (float32)."""
    return build_signature_def(
        {REGRESS_INPUTS: _typed("regression", "examples", examples, DataType.DT_STRING)},
        {REGRESS_OUTPUTS: _typed("regression", "predictions", predictions, DataType.DT_FLOAT)},
        REGRESS_METHOD_NAME,
    )


def classification_signature_def(examples: Any, classes: Any = None, scores: Any = None) -> SignatureDef:
    """A signature for TensorFlow Serving's Classify: serialised tf.Examples (string) to classes (string), scores (float32) or both."""
    if classes is None and scores is None:
        _refuse("a classification signature has neither classes nor scores")
    inputs = {CLASSIFY_INPUTS: _typed("classification", "examples", examples, DataType.DT_STRING)}
    outputs = {}
    if classes is not None:
        outputs[CLASSIFY_OUTPUT_CLASSES] = _typed("classification", "classes", classes, DataType.DT_STRING)
    if scores is not None:
        outputs[CLASSIFY_OUTPUT_SCORES] = _typed("classification", "scores", scores, DataType.DT_FLOAT)
    return build_signature_def(inputs, outputs, CLASSIFY_METHOD_NAME)


def _typed(method: str, what: str, tensor: Any, wanted: int) -> TensorInfo:
    """The info of a dense tensor that must have the DataType `wanted`."""
    if tensor is None:
        _refuse(f"a {method} signature has no {what}")
    info = build_tensor_info(tensor)
    if info.WhichOneof("encoding") != "name":
        _refuse(f"the {what} of a {method} signature must be a dense tensor")
    if info.dtype != wanted:
        _refuse(f"the {what} of a {method} signature must be {dtype_name(wanted)}, not {dtype_name(info.dtype)}")
    return info


def supervised_train_signature_def(
    inputs: Mapping[str, Any],
    loss: Mapping[str, Any] | None,
    predictions: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> SignatureDef:
    """A signature for training: what goes in, and loss, predictions and metrics as its outputs."""
    return _supervised(SUPERVISED_TRAIN_METHOD_NAME, inputs, (loss, predictions, metrics))


def supervised_eval_signature_def(
    inputs: Mapping[str, Any],
    loss: Mapping[str, Any] | None,
    predictions: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> SignatureDef:
    """The same for evaluation."""
    return _supervised(SUPERVISED_EVAL_METHOD_NAME, inputs, (loss, predictions, metrics))


def _supervised(method: str, inputs: Mapping[str, Any], outputs: tuple[Mapping[str, Any] | None, ...]) -> SignatureDef:
    if not inputs:
        _refuse(f"a signature of method {method!r} has no inputs")
    merged: dict[str, Any] = {}
    for tensors in outputs:
        merged |= tensors or {}
    return build_signature_def(_infos(inputs), _infos(merged), method)


def _infos(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {key: build_tensor_info(tensor) for key, tensor in tensors.items()}


def is_valid_signature(signature_def: SignatureDef | None) -> bool:
    """Whether TensorFlow Serving can serve the signature by one of its three methods."""
    if signature_def is None:
        return False
    inputs = {key: info.dtype for key, info in signature_def.inputs.items()}
    outputs = {key: info.dtype for key, info in signature_def.outputs.items()}
    if signature_def.method_name == PREDICT_METHOD_NAME:
        return bool(inputs and outputs)
    if signature_def.method_name == REGRESS_METHOD_NAME:
        return inputs == {REGRESS_INPUTS: DataType.DT_STRING} and outputs == {REGRESS_OUTPUTS: DataType.DT_FLOAT}
    if signature_def.method_name == CLASSIFY_METHOD_NAME:
        allowed = {
            (CLASSIFY_OUTPUT_CLASSES, DataType.DT_STRING),
            (CLASSIFY_OUTPUT_SCORES, DataType.DT_FLOAT),
        }
        return inputs == {CLASSIFY_INPUTS: DataType.DT_STRING} and bool(outputs) and {*outputs.items()} <= allowed
    return False


def op_signature_def(op: str | NodeDef, key: str) -> SignatureDef:
    """A signature whose one output, `key`, stands for an op: how init and train ops are kept."""
    name = op if isinstance(op, str) else op.name
    return build_signature_def(outputs={key: build_tensor_info_from_op(name)})


def load_op_from_signature_def(
    signature_def: SignatureDef, key: str, graph: GraphDef | MetaGraphDef, import_scope: str = ""
) -> NodeDef:
    """The op that a signature made by `op_signature_def` stands for."""
    if key not in signature_def.outputs:
        _refuse(f"the signature has no output {key!r}; it has {sorted(signature_def.outputs)}")
    return GraphTensors(graph, import_scope).node(signature_def.outputs[key].name)


def _refuse(message: str) -> NoReturn:
    raise DropError("signature-invalid", message)
