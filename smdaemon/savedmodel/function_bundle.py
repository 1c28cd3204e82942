"""Function bundles: a model's compiled functions and the description of its parameters, without their values, in one file.

A trainer writes one once; from then on each of its checkpoints becomes a servable version. Format: `smdaemon.v1.FunctionBundle` in
`protos/smdaemon/v1/function.proto`, serialised.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from smdaemon.errors import DropError
from smdaemon.proto import v1
from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel.debug_info import Frame
from smdaemon.savedmodel.encode_structure import encoded
from smdaemon.savedmodel.exported_function import ExportedFunction, Operand
from smdaemon.savedmodel.serving_target import DEFAULT_SERVING, check_runs, serving_target
from smdaemon.savedmodel.structure import TensorSpec, decoded, flattened

FORMAT = 1
"""The layout that is written, and the only one that is read."""

SUFFIX = ".functions"
"""How the names of function bundles end, by custom."""


@dataclass(frozen=True)
class FunctionBundle:
    """Functions by signature key, and the parameters of the model (name, dtype, shape), of which each function needs some.

    `serving_tensorflow` is the oldest release of TensorFlow that runs the functions, `producer` says what made them.
    """

    functions: Mapping[str, ExportedFunction]
    parameters: tuple[TensorSpec, ...]
    serving_tensorflow: str = DEFAULT_SERVING
    producer: str = ""

    @property
    def has_debug_info(self) -> bool:
        """Whether any function tells where its operations were made."""
        return any(function.traces for function in self.functions.values())

    def check(self, release: str = "") -> None:
        """DropError `function-too-new` unless TensorFlow `release` (empty: the one that the bundle names) runs all functions."""
        target = serving_target(release or self.serving_tensorflow)
        for key, function in self.functions.items():
            check_runs(key, function.module, function.version, target)


def encode_functions(bundle: FunctionBundle) -> bytes:
    """The content of a function bundle's file. The same functions give the same bytes."""
    message = v1.FunctionBundle(format=FORMAT, serving_tensorflow=bundle.serving_tensorflow, producer=bundle.producer)
    _add_tensors(message.parameters, sorted(bundle.parameters, key=lambda spec: spec.name))
    for key, function in bundle.functions.items():
        made = message.functions[key]
        made.module, made.calling_convention_version = function.module, function.version
        made.platforms.extend(function.platforms)
        made.disabled_checks.extend(function.disabled_checks)
        made.attribute = function.attribute
        _add_tensors(made.inputs, function.inputs)
        _add_tensors(made.outputs, function.outputs)
        for operand in function.operands:
            made.operands.add(
                **({"parameter": operand.parameter} if operand.input is None else {"input": operand.input})
            )
        made.arguments.CopyFrom(encoded(tuple(function.arguments.items())))
        made.returned.CopyFrom(encoded(function.returned))
        for node, frames in function.traces.items():
            for frame in frames:
                made.traces[node].frames.add(
                    file=frame.file, line=frame.line, column=frame.column, function=frame.function
                )
    return deterministic(message)


def decode_functions(content: bytes, what: str) -> FunctionBundle:
    """The bundle in `content`, which errors call `what`; DropError `function-invalid` where it is none or contradicts itself."""
    try:
        message = v1.FunctionBundle.FromString(content)
    except DecodeError as error:
        raise DropError("function-invalid", f"{what!r} is no function bundle") from error
    if message.format != FORMAT:
        raise DropError(
            "function-invalid",
            f"{what!r} is no function bundle, or one of layout {message.format} where {FORMAT} is known",
        )
    if not message.functions:
        raise DropError("function-invalid", f"the function bundle {what!r} has no function")
    parameters = tuple(_spec(tensor) for tensor in message.parameters)
    if len({spec.name for spec in parameters}) < len(parameters):
        raise DropError("function-invalid", f"two parameters of the function bundle {what!r} have one name")
    return FunctionBundle(
        {key: _function(key, message.functions[key]) for key in sorted(message.functions)},
        parameters,
        message.serving_tensorflow or DEFAULT_SERVING,
        message.producer,
    )


def _function(key: str, made: v1.ExportedFunction) -> ExportedFunction:
    if not made.platforms:
        raise DropError("function-invalid", f"the function {key!r} runs on no platform")
    if made.attribute and not made.attribute.isidentifier():
        raise DropError("function-invalid", f"the function {key!r} cannot be an attribute {made.attribute!r}")
    function = ExportedFunction(
        name=key,
        module=made.module,
        version=made.calling_convention_version,
        platforms=tuple(made.platforms),
        inputs=tuple(_spec(tensor) for tensor in made.inputs),
        outputs=tuple(_spec(tensor) for tensor in made.outputs),
        operands=tuple(_operand(key, operand) for operand in made.operands),
        arguments=_arguments(key, decoded(made.arguments)),
        returned=decoded(made.returned),
        disabled_checks=tuple(made.disabled_checks),
        attribute=made.attribute,
        traces={
            node: [Frame(frame.file, frame.line, frame.function, column=frame.column) for frame in trace.frames]
            for node, trace in made.traces.items()
        },
    )
    for what, specs, structure in (
        ("inputs", function.inputs, tuple(function.arguments.values())),
        ("outputs", function.outputs, function.returned),
    ):
        placed = flattened(structure)
        if len(specs) != len(placed) or {spec.name: spec for spec in specs} != {spec.name: spec for spec in placed}:
            raise DropError("function-invalid", f"the {what} of the function {key!r} differ from their structure")
    return function


def _operand(key: str, operand: v1.FunctionOperand) -> Operand:
    kind = operand.WhichOneof("kind")
    if kind is None:
        raise DropError("function-invalid", f"an operand of the function {key!r} is neither an input nor a parameter")
    return Operand(parameter=operand.parameter) if kind == "parameter" else Operand(operand.input)


def _arguments(key: str, pairs: Any) -> dict[str, Any]:
    """The arguments by name, from the tuple of pairs that they are kept as: a map would lose their order."""
    if isinstance(pairs, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return {str(name): structure for name, structure in pairs}
    raise DropError("function-invalid", f"the arguments of the function {key!r} are malformed")


def _spec(tensor: v1.FunctionTensor) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.dtype, tuple(None if size < 0 else size for size in tensor.shape))


def _add_tensors(field: Any, specs: Iterable[TensorSpec]) -> None:
    for spec in specs:
        field.add(name=spec.name, dtype=spec.dtype, shape=[-1 if size is None else size for size in spec.shape or ()])
