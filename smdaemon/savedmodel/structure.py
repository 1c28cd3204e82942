"""StructuredValue messages as Python values: the arguments and results that functions are saved with.

Format: `struct.proto`. Lists, tuples, dicts, numbers and strings become Python's; dtypes become their names, shapes tuples.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import BoundedTensorSpecProto, StructuredValue, TensorProto, TensorSpecProto
from smdaemon.savedmodel.tensor_info import Shape, dtype_name, shape_of

DEPTH_LIMIT = 64
"""Of nesting; the wire format's parsers refuse little more, the text format's would go on."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a function takes or gives: its name (may be empty), dtype and shape."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class TypeSpec:
    """A composite tensor or another value that is no plain tensor: the name of its type, and the type's own state."""

    name: str
    state: Any


@dataclass(frozen=True)
class NamedTuple:
    """A value of a named tuple type: the type's name, the fields in order."""

    name: str
    fields: dict[str, Any]


def flattened(structure: Any) -> list[TensorSpec]:
    """The TensorSpecs of a structure in the order in which TensorFlow takes it apart: dicts by their sorted keys."""
    match structure:
        case TensorSpec():
            return [structure]
        case NamedTuple():
            items: Iterable[Any] = structure.fields.values()
        case dict():
            items = (structure[key] for key in sorted(structure))
        case list() | tuple():
            items = structure
        case _:
            return []
    return [spec for item in items for spec in flattened(item)]


def decoded(value: StructuredValue, depth: int = 0) -> Any:
    """The Python value; DropError `savedmodel-corrupt` where it is of no known kind or nested deeper than DEPTH_LIMIT."""
    if depth > DEPTH_LIMIT:
        raise DropError("savedmodel-corrupt", f"a structure is nested more than {DEPTH_LIMIT} deep")
    kind = value.WhichOneof("kind")
    if kind is None:
        raise DropError("savedmodel-corrupt", "a structure holds a value of no known kind")
    if kind in _PLAIN:
        return getattr(value, kind)
    if kind in _LEAVES:
        return _LEAVES[kind](getattr(value, kind))
    return _nested(kind, getattr(value, kind), depth + 1)


def _nested(kind: str, value: Any, depth: int) -> Any:
    """The value of a kind that holds further values."""
    if kind == "dict_value":
        return {key: decoded(value.fields[key], depth) for key in sorted(value.fields)}
    if kind == "type_spec_value":
        state = decoded(value.type_state, depth) if value.type_state.WhichOneof("kind") else None
        return TypeSpec(value.type_spec_class_name or f"type spec {value.type_spec_class}", state)
    if kind == "named_tuple_value":
        return NamedTuple(value.name, {pair.key: decoded(pair.value, depth) for pair in value.values})
    values = [decoded(element, depth) for element in value.values]
    return tuple(values) if kind == "tuple_value" else values


def _tensor_spec(spec: TensorSpecProto | BoundedTensorSpecProto) -> TensorSpec:
    return TensorSpec(spec.name, dtype_name(spec.dtype), shape_of(spec.shape))


def _array(tensor: TensorProto) -> Any:
    from smdaemon.savedmodel.tensor_values import array_of

    return array_of(tensor)


_PLAIN = frozenset(["float64_value", "int64_value", "string_value", "bool_value"])
_LEAVES: dict[str, Callable[[Any], Any]] = {
    "none_value": lambda _: None,
    "tensor_shape_value": shape_of,
    "tensor_dtype_value": dtype_name,
    "tensor_spec_value": _tensor_spec,
    "bounded_tensor_spec_value": _tensor_spec,
    "tensor_value": _array,
    "numpy_value": _array,
}
