"""Messages of `smdaemon.v1` as plain dicts, and back, by walking their descriptors; request texts in JSON and TOML.

The dict form is what goes over the control socket as JSON and what stands in request and result files:
field names as declared, whole numbers as numbers (also 64-bit ones), timestamps in RFC 3339, declaration order. A field with
presence (optional fields, messages) is left out while it is unset; every other field is always there.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from smdaemon.errors import DropError
from smdaemon.proto import v1

TIMESTAMP = "google.protobuf.Timestamp"
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}

M = TypeVar("M", bound=Message)
Field: TypeAlias = Any  # a FieldDescriptor: the C and the Python runtime share no type


def is_map(field: Field) -> bool:
    """Whether the field is declared as map<key, value>."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_timestamp(field: Field) -> bool:
    """Whether the field's type is the well-known Timestamp."""
    return field.message_type is not None and bool(field.message_type.full_name == TIMESTAMP)


# Message to dict.


def message_to_dict(message: Message) -> dict[str, Any]:
    """`message` as a dict of plain values, ready for `json.dumps`; map keys are sorted, so equal messages give equal texts."""
    return {
        field.name: _field_to_plain(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _field_to_plain(message: Message, field: Field) -> Any:
    value = getattr(message, field.name)
    if is_map(field):
        item = field.message_type.fields_by_name["value"]
        return {str(key): _value_to_plain(value[key], item) for key in sorted(value)}
    if field.is_repeated:
        return [_value_to_plain(each, field) for each in value]
    return _value_to_plain(value, field)


def _value_to_plain(value: Any, field: Field) -> Any:
    if is_timestamp(field):
        return value.ToJsonString()
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return message_to_dict(value)
    if field.cpp_type in _FLOATS and not math.isfinite(value):
        return str(value)  # JSON has no number for it
    return value


# Dict to message.


def dict_to_message(data: Any, kind: type[M], *, where: str = "") -> M:
    """A message of class `kind` from its dict form.

    Null counts as unset, a 64-bit number may stand as a decimal string: that is how protobuf's own JSON writes it.
    DropError request-invalid names the field, what stands there and, for an unknown field, the nearest known one.
    `where` is put before the names of fields.
    """
    message = kind()
    _fill(message, data, where)
    return message


def _fill(message: Message, data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        _refuse(where, f"expected an object, got {_shown(data)}")
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in data.items():
        field = fields.get(name)
        if field is None:
            raise DropError("request-invalid", f"unknown field {_join(where, name)!r}{_nearest(name, list(fields))}")
        if value is not None:
            _set(message, field, value, _join(where, name))


def _set(message: Message, field: Field, value: Any, where: str) -> None:
    if is_map(field):
        _set_map(message, field, value, where)
    elif field.is_repeated:
        _set_repeated(message, field, value, where)
    elif is_timestamp(field):
        _set_timestamp(getattr(message, field.name), value, where)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        child = getattr(message, field.name)
        child.SetInParent()
        _fill(child, value, where)
    else:
        setattr(message, field.name, _scalar(field, value, where))


def _set_map(message: Message, field: Field, value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        _refuse(where, f"expected an object, got {_shown(value)}")
    entry = field.message_type.fields_by_name
    target = getattr(message, field.name)
    for key, item in value.items():
        name = _scalar(entry["key"], key, where)
        if entry["value"].cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            _fill(target[name], item, _join(where, key))
        else:
            target[name] = _scalar(entry["value"], item, _join(where, key))


def _set_repeated(message: Message, field: Field, value: Any, where: str) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        _refuse(where, f"expected a list, got {_shown(value)}")
    target = getattr(message, field.name)
    for at, item in enumerate(value):
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            _fill(target.add(), item, f"{where}[{at}]")
        else:
            target.append(_scalar(field, item, f"{where}[{at}]"))


def _set_timestamp(target: Any, value: Any, where: str) -> None:
    try:
        target.FromJsonString(value if isinstance(value, str) else value.isoformat())
    except (ValueError, AttributeError):
        _refuse(where, f"expected a time like '2026-01-31T12:00:00Z', got {_shown(value)}")


def _scalar(field: Field, value: Any, where: str) -> Any:
    if field.cpp_type in _INTEGERS:
        return _integer(field, value, where)
    if field.cpp_type in _FLOATS:
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):  # a whole number that no float holds
                if math.isfinite(value):
                    return float(value)
        _refuse(where, f"expected a number, got {_shown(value)}")
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            _refuse(where, f"expected true or false, got {_shown(value)}")
        return value
    if field.cpp_type != FieldDescriptor.CPPTYPE_STRING:
        raise TypeError(f"{field.full_name}: this mapping does not know the field's type")
    if not isinstance(value, str):
        _refuse(where, f"expected a string, got {_shown(value)}")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        _refuse(where, "the string is not valid Unicode")
    return value


def _integer(field: Field, value: Any, where: str) -> int:
    low, high = _INTEGERS[field.cpp_type]
    if isinstance(value, str) and high > 2**32 and re.fullmatch("-?[0-9]{1,20}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(where, f"expected a whole number, got {_shown(value)}")
    if not low <= value <= high:
        _refuse(where, f"{_shown(value)} is outside {low} to {high}")
    return int(value)


def _refuse(where: str, message: str) -> NoReturn:
    raise DropError("request-invalid", f"{where}: {message}" if where else message)


def _join(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _nearest(name: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]!r}" if near else f"; the fields are {', '.join(known)}"


def _shown(value: Any) -> str:
    """`value` for a message: short, and safe for any integer (Python refuses to print very long ones)."""
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > 1024:
        return "a number of very many digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Requests.


def request_from_json(text: bytes) -> v1.ExportRequest:
    """The ExportRequest that a JSON text holds; DropError request-invalid."""
    return dict_to_message(parse_json(text), v1.ExportRequest)


def request_from_toml(text: bytes) -> v1.ExportRequest:
    """The ExportRequest that a TOML text holds; DropError request-invalid."""
    try:
        data = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise DropError("request-invalid", f"not valid TOML: {_reason(error)}") from error
    return dict_to_message(data, v1.ExportRequest)


def request_from_protobuf(data: bytes) -> v1.ExportRequest:
    """The ExportRequest in protobuf's wire format; an unknown field is refused, as in the texts."""
    return message_from_protobuf(data, v1.ExportRequest)


REQUEST_PARSERS = {
    ".export.json": request_from_json,
    ".export.toml": request_from_toml,
    ".export.binpb": request_from_protobuf,
}
"""How the names of request files end, and what reads their content."""


def request_ending(name: str) -> str | None:
    """By which of REQUEST_PARSERS a file of this name is a request; None where it is none."""
    return next((ending for ending in REQUEST_PARSERS if name.endswith(ending)), None)


def message_from_protobuf(data: bytes, kind: type[M]) -> M:
    """A message of class `kind` in protobuf's wire format; DropError request-invalid, also for an unknown field."""
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise DropError("request-invalid", f"not a serialised {kind.DESCRIPTOR.full_name}") from error
    _refuse_unknown(message, "")
    return message


def _refuse_unknown(message: Message, where: str) -> None:
    from google.protobuf.unknown_fields import UnknownFieldSet

    unknown = UnknownFieldSet(message)
    if len(unknown):
        _refuse(where, f"unknown field number {unknown[0].field_number}")
    for field, value in message.ListFields():
        for part, inner in _messages_of(field, value):
            _refuse_unknown(inner, f"{_join(where, field.name)}{part}")


def _messages_of(field: Field, value: Any) -> list[tuple[str, Message]]:
    """The messages that a field's value is or has, each with what tells it from the others."""
    if is_map(field):
        holds_messages = field.message_type.fields_by_name["value"].message_type is not None
        return [(f".{key}", value[key]) for key in sorted(value)] if holds_messages else []
    if field.message_type is None:
        return []
    return [(f"[{at}]", each) for at, each in enumerate(value)] if field.is_repeated else [("", value)]


def parse_json(text: bytes) -> Any:
    """The value of a JSON text (RFC 8259): UTF-8, no key twice in an object, no NaN; DropError request-invalid."""
    try:
        return json.loads(
            text.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise DropError("request-invalid", f"not valid JSON: {_reason(error)}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} stands twice in one object")
        made[key] = value
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not a JSON number: {name}")


def _whole(digits: str) -> int:
    if len(digits) > 40:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error)
    return text[:1].lower() + text[1:]
