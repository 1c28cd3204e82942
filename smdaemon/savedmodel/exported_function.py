"""ExportedFunction: a function that JAX has compiled to StableHLO, ready to be called from a TensorFlow graph.

TensorFlow runs such a module by one op, XlaCallModule. Its arguments are the inputs and the parameters that the module needs, in the
module's order; parameters are read from variables, so they are stored once however many functions use them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import AttrValue, FunctionDef
from smdaemon.savedmodel.debug_info import Frame
from smdaemon.savedmodel.functions import Captured, GraphFunction, add_argument, add_capture
from smdaemon.savedmodel.graph_names import legal_name
from smdaemon.savedmodel.structure import TensorSpec
from smdaemon.savedmodel.tensor_info import dtype_enum, shape_proto

CALL_NODE = "XlaCallModule"
"""The name of the node that calls the module, in a function of its own."""

UNSAFE_DTYPES = frozenset(["int4", "uint4", "int2", "uint2", "float4_e2m1fn"])
"""TensorFlow holds an element of these in a byte, XLA packs them: on TensorFlow 2.21 they give wrong numbers, or errors."""


@dataclass(frozen=True)
class Operand:
    """What the module is called with at one place: the input of that index, or the parameter of that name."""

    input: int | None = None
    parameter: str = ""

    @classmethod
    def of_parameter(cls, name: str) -> "Operand":
        """A parameter."""
        return cls(parameter=name)


@dataclass(frozen=True)
class ExportedFunction:
    """A compiled function, as `jax.export` makes it.

    `module` is a StableHLO portable artifact, `version` that of its calling convention, `platforms` are lower-case names.
    `inputs` and `outputs` are the tensors that a call takes and gives, named by their places in `arguments` (argument name ->
    structure of TensorSpecs, in the order of a positional call) and in `returned` (structure of TensorSpecs). Sizes of None
    may differ from call to call. `operands` are the module's arguments. `attribute` is the name by which the loaded model has the
    function, beside the signature; none if empty. `traces` say where the operations of the module were made.
    """

    name: str
    module: bytes
    version: int
    platforms: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operands: tuple[Operand, ...]
    arguments: Mapping[str, Any]
    returned: Any
    disabled_checks: tuple[str, ...] = ()
    attribute: str = ""
    traces: Mapping[str, Sequence[Frame]] = field(default_factory=dict)


def graph_function(function: ExportedFunction, parameters: Mapping[str, TensorSpec], number: int) -> GraphFunction:
    """The function as one of a graph; `parameters` are the model's, and `number` tells functions of equal names apart.

    Raises DropError: `dtype-unsupported` for tensors that TensorFlow would give to the module in another layout,
    `function-invalid` for operands that there are not, `signature-invalid` as `GraphFunction`.
    """
    captures = list(dict.fromkeys(operand.parameter for operand in function.operands if operand.input is None))
    missing = [name for name in captures if name not in parameters]
    if missing:
        raise _invalid(function, f"it needs the parameter {missing[0]!r}, which the model does not have")
    needed = [TensorSpec("", parameters[name].dtype, parameters[name].shape) for name in captures]
    for spec in (*function.inputs, *function.outputs, *(parameters[name] for name in captures)):
        if spec.dtype in UNSAFE_DTYPES:
            raise DropError(
                "dtype-unsupported",
                f"{spec.name!r} of the function {function.name!r} is {spec.dtype}, which TensorFlow would hand over wrongly",
                remedy="keep it as int8 (or uint8, float8) and cast it inside the JAX function",
            )
    definition = _definition(function, captures, needed, number)
    traces = {
        f"{node}@{definition.signature.name}": frames for node, frames in sorted(function.traces.items()) if frames
    }
    return GraphFunction(
        function.name,
        definition,
        function.inputs,
        function.outputs,
        captures=captures,
        arguments=function.arguments,
        returned=function.returned,
        traces=traces,
    )


def _definition(
    function: ExportedFunction, captures: Sequence[str], needed: Sequence[TensorSpec], number: int
) -> FunctionDef:
    """A function that takes the inputs and the variables' handles, reads the variables and calls the module."""
    made = FunctionDef()
    signature = made.signature
    signature.name, signature.is_stateful = f"__xla_{legal_name(function.name).replace('/', '_')}_{number}", True
    for index, spec in enumerate(function.inputs):
        add_argument(made, index, f"input_{index}", spec)
    values: dict[str, tuple[str, str]] = {}  # of a parameter: the output that reads it, and its dtype
    for index, (name, spec) in enumerate(zip(captures, needed, strict=True)):
        add_capture(made, f"parameter_{index}", Captured(0, spec, resource=True))
        read = made.node_def.add()
        read.name, read.op = f"read_{index}", "ReadVariableOp"
        read.input.append(f"parameter_{index}")
        read.attr["dtype"].type = dtype_enum(spec.dtype)
        values[name] = f"{read.name}:value:0", spec.dtype
    call = made.node_def.add()
    call.name, call.op = CALL_NODE, "XlaCallModule"
    types = []
    for operand in function.operands:
        if operand.input is None:
            value, dtype = values[operand.parameter]
            call.input.append(value)
            types.append(dtype)
        elif 0 <= operand.input < len(function.inputs):
            call.input.append(f"input_{operand.input}")
            types.append(function.inputs[operand.input].dtype)
        else:
            raise _invalid(function, f"it needs input {operand.input} of {len(function.inputs)}")
    _fill_call(call.attr, function, types)
    for index, spec in enumerate(function.outputs):
        output = signature.output_arg.add()
        output.name, output.type = f"output_{index}", dtype_enum(spec.dtype)
        made.ret[output.name] = f"{call.name}:output:{index}"
    return made


def _fill_call(attrs: Any, function: ExportedFunction, types: Sequence[str]) -> None:
    """The attributes of the op that calls the module. Those that are left out have their defaults."""
    attrs["version"].i = function.version
    attrs["module"].s = function.module
    attrs["Tin"].list.SetInParent()
    attrs["Tin"].list.type.extend(dtype_enum(dtype) for dtype in types)
    attrs["Tout"].list.SetInParent()
    attrs["Tout"].list.type.extend(dtype_enum(spec.dtype) for spec in function.outputs)
    attrs["Sout"].list.SetInParent()
    attrs["Sout"].list.shape.extend(shape_proto(spec.shape) for spec in function.outputs)
    attrs["platforms"].list.s.extend(platform.upper().encode() for platform in function.platforms)
    if function.disabled_checks:
        attrs["disabled_checks"].list.s.extend(check.encode() for check in function.disabled_checks)
    if function.version >= SHARDY_VERSION:
        attrs["use_shardy_partitioner"].CopyFrom(AttrValue(b=True))


SHARDY_VERSION = 10
"""From this version of the calling convention on, a module may hold Shardy's annotations."""


def _invalid(function: ExportedFunction, why: str) -> DropError:
    return DropError("function-invalid", f"the function {function.name!r} does not fit the model: {why}")
