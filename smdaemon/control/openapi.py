"""The OpenAPI description of the control socket: paths from the list of operations, schemas from the message descriptors."""

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import smdaemon
from smdaemon.control.operation import Operation
from smdaemon.control.render import JSON, PROTOBUF
from smdaemon.proto import v1
from smdaemon.proto.mapping import Field, is_map, is_timestamp

Json = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_SCALARS: dict[int, Json] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


def document(operations: Sequence[Operation]) -> Json:
    """The OpenAPI 3.1 document of `operations`."""
    paths: dict[str, Json] = {}
    schemas: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
        if operation.answer:
            _add_schema(schemas, operation.answer.DESCRIPTOR)
        if operation.body:
            _add_schema(schemas, operation.body.message.DESCRIPTOR)
    _add_schema(schemas, v1.Error.DESCRIPTOR)
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
            "required": operation.body.required,
            "content": _content(operation.body.message, operation.body.needs),
        }
    good: Json = {"description": operation.summary}
    if operation.answer is None:
        good["content"] = {operation.media: {}}
    elif operation.media:  # each event's data
        good["content"] = {operation.media: {"schema": _reference(operation.answer)}}
    else:
        good["content"] = _content(operation.answer)
    made["responses"] = {
        str(operation.status): good,
        "default": {"description": "an error", "content": _content(v1.Error)},
    }
    return made


def _operation_id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.replace("v1", "").replace("{id}", "one").replace("{name}/", "")) or [
        "index"
    ]
    return "_".join([operation.method.lower(), *words])


def _parameter(name: str, where: str, schema: Json) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _content(message: type[Message], needs: Sequence[str] = ()) -> Json:
    schema = _reference(message)
    return {JSON: {"schema": {**schema, "required": list(needs)} if needs else schema}, PROTOBUF: {}}


def _reference(message: type[Message]) -> Json:
    return {"$ref": f"{_SCHEMAS}{message.DESCRIPTOR.name}"}


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
        return {"$ref": f"{_SCHEMAS}{each.message_type.name}"}
    return dict(_SCALARS[each.cpp_type])
