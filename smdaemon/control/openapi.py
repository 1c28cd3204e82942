"""The OpenAPI description of the control socket: paths from the list of operations, schemas from the message descriptors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

import smdaemon
from smdaemon.control.query import Parameter
from smdaemon.control.render import JSON, PROTOBUF
from smdaemon.proto.mapping import Field, is_map, is_timestamp
from smdaemon.proto.pool import lookup

Json = dict[str, Any]

_SCALARS: dict[int, Json] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


@dataclass(frozen=True)
class Operation:
    """One method of one path. `body` and `answer` name messages of smdaemon.v1; without `answer` it answers `media`.

    `needs` are the fields without which the body is refused; a `query` of None is not looked at.
    """

    method: str
    path: str
    summary: str
    answer: str = ""
    body: str = ""
    status: int = 200
    media: str = ""
    query: Mapping[str, Parameter] | None = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    body_required: bool = True


def document(operations: Sequence[Operation]) -> Json:
    """The OpenAPI 3.1 document of `operations`."""
    paths: dict[str, Json] = {}
    schemas: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
        for name in (operation.answer, operation.body, "Error"):
            if name:
                _add_schema(schemas, lookup(f"smdaemon.v1.{name}").DESCRIPTOR)
    return {
        "openapi": "3.1.0",
        "info": {"title": "smdaemon", "version": smdaemon.__version__},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(operation: Operation) -> Json:
    made: Json = {"summary": operation.summary, "operationId": _operation_id(operation)}
    parameters = [
        _parameter(name, "path", {"type": "integer" if name == "id" else "string"})
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    parameters += [_parameter(name, "query", each.schema) for name, each in (operation.query or {}).items()]
    if parameters:
        made["parameters"] = parameters
    if operation.body:
        made["requestBody"] = {
            "required": operation.body_required,
            "content": _content(operation.body, operation.needs),
        }
    good: Json = {"description": operation.summary}
    good["content"] = {operation.media: {}} if operation.media else _content(operation.answer)
    if operation.media and operation.answer:  # each event's data
        good["content"] = {operation.media: {"schema": _reference(operation.answer)}}
    made["responses"] = {
        str(operation.status): good,
        "default": {"description": "an error", "content": _content("Error")},
    }
    return made


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.replace("v1", "").replace("{id}", "one").replace("{name}/", "")) or [
        "index"
    ]
    return "_".join([operation.method.lower(), *words])


def _parameter(name: str, where: str, schema: Json) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _content(message: str, needs: Sequence[str] = ()) -> Json:
    schema = _reference(message)
    return {JSON: {"schema": {**schema, "required": list(needs)} if needs else schema}, PROTOBUF: {}}


def _reference(message: str) -> Json:
    return {"$ref": f"#/components/schemas/{message}"}


def _add_schema(schemas: dict[str, Json], descriptor: Any) -> None:
    """Put the schema of a message, and of the messages that it holds, in `schemas`."""
    if descriptor.name in schemas:
        return
    made: Json = {"type": "object", "properties": {}, "additionalProperties": False}
    schemas[descriptor.name] = made
    for each in descriptor.fields:
        made["properties"][each.name] = _field_schema(schemas, each)


def _field_schema(schemas: dict[str, Json], each: Field) -> Json:
    if is_map(each):
        values = each.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _value_schema(schemas, values)}
    one = _value_schema(schemas, each)
    return {"type": "array", "items": one} if each.is_repeated else one


def _value_schema(schemas: dict[str, Json], each: Field) -> Json:
    if is_timestamp(each):
        return {"type": "string", "format": "date-time"}
    if each.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        _add_schema(schemas, each.message_type)
        return _reference(each.message_type.name)
    return dict(_SCALARS[each.cpp_type])
