"""GraphFunction: a function of a graph with what it takes, gives and captures, ready to be saved with an object tree.

A loader calls a function with its arguments in an order of its own: keywords sorted by name for a signature, the order of the
declaration for a method; and it takes dicts apart in the order of their sorted keys. So each function is saved behind wrappers that
take and give in that order, and its own order does not matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.message import Message

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import AttrValue, FunctionDef, OpDef, RegisteredGradient, SavedConcreteFunction
from smdaemon.savedmodel.debug_info import Frame
from smdaemon.savedmodel.encode_structure import encoded
from smdaemon.savedmodel.structure import TensorSpec
from smdaemon.savedmodel.tensor_info import dtype_enum, shape_proto

RESOURCE = 20
"""DT_RESOURCE, the type of a variable's handle."""


@dataclass(frozen=True, eq=False)
class GraphFunction:
    """A function that can be saved.

    `function_def` takes `inputs`, then `captures`, and gives `outputs`, all in this order. A capture is a variable or a file of the
    object tree: the object itself or its path in the tree, such as `layer/kernel`. What a call returns is a dict of the
    outputs by name, a tuple of them, or the only one (`returns`), or any structure of them (`returned`). What it is called with
    is a tensor for each input, or by the names of `arguments` structures of them. `library` holds the functions that it calls in turn, `traces`
    where its nodes were made, `gradients` which functions of the library are gradients of which op types.
    """

    name: str
    function_def: FunctionDef | Message
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    captures: Sequence[Any] = ()
    library: Sequence[FunctionDef | Message] = ()
    returns: Literal["dict", "tuple", "tensor"] = "dict"
    traces: Mapping[str, Sequence[Frame]] = field(default_factory=dict)
    gradients: Sequence[RegisteredGradient | Message] = ()
    arguments: Mapping[str, Any] | None = None
    returned: Any = None

    def __post_init__(self) -> None:
        for what, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names) or not all(names):
                raise self._refused(f"its {what} are called {names}, which are not names of their own")
        if self.returns == "tensor" and len(self.outputs) != 1:
            raise self._refused(f"it returns one tensor and has {len(self.outputs)} outputs")
        signature = self.definition().signature
        wanted = [*(dtype_enum(spec.dtype) for spec in self.inputs)]
        found = [argument.type for argument in signature.input_arg]
        if found[: len(wanted)] != wanted or len(found) != len(wanted) + len(self.captures):
            raise self._refused(f"it takes {found}, and is said to take {wanted} and {len(self.captures)} captures")
        given = [dtype_enum(spec.dtype) for spec in self.outputs]
        if [argument.type for argument in signature.output_arg] != given:
            raise self._refused(f"it gives {[*signature.output_arg]}, and is said to give {given}")

    @property
    def called_with(self) -> Mapping[str, Any]:
        """What a call takes: argument name -> structure of TensorSpecs, in the order of a positional call."""
        return {spec.name: spec for spec in self.inputs} if self.arguments is None else self.arguments

    @property
    def result(self) -> Any:
        """What a call returns: a structure of TensorSpecs."""
        if self.returned is not None:
            return self.returned
        if self.returns == "dict":
            return {spec.name: spec for spec in self.outputs}
        return tuple(self.outputs) if self.returns == "tuple" else self.outputs[0]

    def definition(self) -> FunctionDef:
        """The function's definition, as a message of ours."""
        return FunctionDef.FromString(self.function_def.SerializeToString())

    def _refused(self, why: str) -> DropError:
        return DropError("signature-invalid", f"the function {self.name!r} does not fit its description: {why}")


@dataclass(frozen=True)
class Captured:
    """What a function captures, as an argument: a variable's handle (`resource`, with the dtype and shape behind it) or a string."""

    node_id: int
    spec: TensorSpec
    resource: bool


def wrapper(
    name: str,
    function: GraphFunction,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    captured: Sequence[Captured],
) -> FunctionDef:
    """A function of that name that calls `function`; it takes `inputs` and gives `outputs`, the function's own in any order."""
    made = FunctionDef()
    signature = made.signature
    signature.name, signature.is_stateful = name, True
    arguments: dict[str, str] = {}
    for number, spec in enumerate(inputs):
        arguments[spec.name] = f"input_{number}"
        add_argument(made, number, f"input_{number}", spec)
    capture_names = []
    for number, capture in enumerate(captured):
        capture_names.append(f"capture_{number}")
        add_capture(made, f"capture_{number}", capture)
    called = made.node_def.add()
    called.name, called.op = "call", "StatefulPartitionedCall"
    called.input.extend([*(arguments[spec.name] for spec in function.inputs), *capture_names])
    fill_call(called.attr, function.definition().signature)
    sources = {spec.name: number for number, spec in enumerate(function.outputs)}
    for number, spec in enumerate(outputs):
        _add_output(made, number, spec, sources[spec.name])
    signature.control_output.append("call")
    made.control_ret["call"] = "call"
    return made


def fill_call(attrs: Any, signature: OpDef) -> None:
    """The attributes of a node that calls the function of that signature."""
    attrs["f"].func.name = signature.name
    for name, arguments in (("Tin", signature.input_arg), ("Tout", signature.output_arg)):
        attrs[name].list.SetInParent()
        attrs[name].list.type.extend(argument.type for argument in arguments)


def add_argument(made: FunctionDef, number: int, name: str, spec: TensorSpec) -> None:
    """Have the function take a tensor, its argument of that number."""
    argument = made.signature.input_arg.add()
    argument.name, argument.type = name, dtype_enum(spec.dtype)
    attrs = made.arg_attr[number].attr
    attrs["_user_specified_name"].s = spec.name.encode()
    attrs["_output_shapes"].list.shape.append(shape_proto(spec.shape))


def add_capture(made: FunctionDef, name: str, captured: Captured) -> None:
    """Have the function take what it captures."""
    argument = made.signature.input_arg.add()
    argument.name, argument.type = name, dtype_enum(RESOURCE if captured.resource else captured.spec.dtype)
    if captured.resource:
        data = argument.handle_data.add()
        data.dtype = dtype_enum(captured.spec.dtype)
        data.shape.CopyFrom(shape_proto(captured.spec.shape))


def _add_output(made: FunctionDef, number: int, spec: TensorSpec, source: int) -> None:
    """Output `number`, which is the called function's output `source`; it waits for all that the call does."""
    argument = made.signature.output_arg.add()
    argument.name, argument.type = f"output_{number}", dtype_enum(spec.dtype)
    node = made.node_def.add()
    node.name, node.op = f"result_{number}", "Identity"
    node.input.extend([f"call:output:{source}", "^call"])
    node.attr["T"].CopyFrom(AttrValue(type=dtype_enum(spec.dtype)))
    node.attr["_output_shapes"].list.shape.append(shape_proto(spec.shape))
    made.ret[argument.name] = f"{node.name}:output:0"


def concrete_function(
    function: GraphFunction, captured: Sequence[Captured], *, is_signature: bool
) -> SavedConcreteFunction:
    """How a wrapper is called: with keywords only if it is a signature's, else with positions; and what it returns."""
    if is_signature:
        arguments: Any = ((), {spec.name: spec for spec in function.inputs})
        result: Any = {spec.name: spec for spec in function.outputs}
    else:
        arguments, result = (tuple(function.called_with.values()), {}), function.result
    return SavedConcreteFunction(
        bound_inputs=[capture.node_id for capture in captured],
        canonicalized_input_signature=encoded(arguments),
        output_signature=encoded(result),
    )
