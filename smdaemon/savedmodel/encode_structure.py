"""Python values as StructuredValue messages: the arguments and results that functions are saved with (structure.py reads them).

Format: `struct.proto`.
"""

from collections.abc import Sequence
from typing import Any

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import FunctionSpec, StructuredValue
from smdaemon.savedmodel.structure import NamedTuple, TensorSpec
from smdaemon.savedmodel.tensor_info import dtype_enum, shape_proto


def encoded(value: Any) -> StructuredValue:
    """The message of None, a bool, a number, a string, a TensorSpec, or lists, tuples, dicts and NamedTuples of these."""
    made = StructuredValue()
    _fill(made, value)
    return made


def _fill(made: StructuredValue, value: Any) -> None:
    match value:
        case None:
            made.none_value.SetInParent()
        case TensorSpec():
            spec = made.tensor_spec_value
            spec.name, spec.dtype = value.name, dtype_enum(value.dtype)
            spec.shape.CopyFrom(shape_proto(value.shape))
        case NamedTuple() | dict() | list() | tuple():
            _fill_nested(made, value)
        case bool() | int() | float() | str():
            setattr(made, _SCALARS[type(value)], value)
        case _:
            raise DropError("signature-invalid", f"{value!r} cannot be kept with a function")


_SCALARS = {bool: "bool_value", int: "int64_value", float: "float64_value", str: "string_value"}


def _fill_nested(made: StructuredValue, value: NamedTuple | dict[str, Any] | list[Any] | tuple[Any, ...]) -> None:
    if isinstance(value, NamedTuple):
        made.named_tuple_value.name = value.name
        for key, item in value.fields.items():
            pair = made.named_tuple_value.values.add()
            pair.key = key
            _fill(pair.value, item)
    elif isinstance(value, dict):
        made.dict_value.SetInParent()
        for key in sorted(value):
            _fill(made.dict_value.fields[key], value[key])
    else:
        items = made.list_value if isinstance(value, list) else made.tuple_value
        items.SetInParent()
        for item in value:
            _fill(items.values.add(), item)


def function_spec(positional: Sequence[str], keyword_only: Sequence[str] = ()) -> FunctionSpec:
    """What a function's arguments are called, as Python's `inspect.getfullargspec` tells it."""
    arguments: dict[str, Any] = {
        "args": list(positional),
        "varargs": None,
        "varkw": None,
        "defaults": None,
        "kwonlyargs": list(keyword_only),
        "kwonlydefaults": None,
        "annotations": {},
    }
    return FunctionSpec(fullargspec=encoded(NamedTuple("FullArgSpec", arguments)), input_signature=encoded(None))
