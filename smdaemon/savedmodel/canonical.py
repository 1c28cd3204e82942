"""The one serialisation of a message that TensorFlow's fingerprints are taken of: what C++ writes deterministically.

Python's protobuf sorts the entries of a map as well, but otherwise: numbers downwards, and of two strings of which one begins
with the other the longer first. C++ sorts both upwards. Here Python's bytes are put in C++'s order; their length stays.
"""

from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel import wire


def canonical(message: Message) -> bytes:
    """The bytes of `message` as C++ serialises it deterministically."""
    descriptor: Any = message.DESCRIPTOR  # upb's class, which the type checker holds for another
    return _ordered(deterministic(message), descriptor)


class _Nested(NamedTuple):
    """A field that holds messages with maps somewhere within, or is a map itself."""

    descriptor: Descriptor
    is_map: bool


def _ordered(content: bytes, descriptor: Descriptor) -> bytes:
    """The serialised message `content` with the entries of all its maps in order."""
    nested = _nested(descriptor)
    if not nested:
        return content
    parts: list[bytes] = []
    entries: list[tuple[int | bytes, bytes]] = []
    map_number = 0
    for number, start, payload, end in wire.fields(content):
        # a field of a known number but another wire type is one that protobuf does not know
        field = nested.get(number) if content[start] & 7 == wire.LENGTH else None
        if number != map_number and entries:
            parts += _in_order(entries)
            entries = []
        if field is None:
            parts.append(content[start:end])
            continue
        ordered = content[start:payload] + _ordered(content[payload:end], field.descriptor)
        if field.is_map:
            map_number = number
            entries.append((_key(content[payload:end], field.descriptor), ordered))
        else:
            parts.append(ordered)
    return b"".join(parts + _in_order(entries))


def _in_order(entries: list[tuple[int | bytes, bytes]]) -> list[bytes]:
    """The entries of one map, by key."""
    entries.sort(key=_first)
    return [content for _, content in entries]


def _first(entry: tuple[Any, bytes]) -> Any:
    """The key, of Any type to the type checker: the keys of one map are all numbers or all bytes."""
    return entry[0]


def _key(entry: bytes, descriptor: Descriptor) -> int | bytes:
    """The key of a map entry: a number, or the bytes of a string."""
    is_string = descriptor.fields_by_number[1].type == FieldDescriptor.TYPE_STRING
    for number, _, payload, end in wire.fields(entry):
        if number == 1:
            return entry[payload:end] if is_string else wire.read_varint(entry, payload)[0]
    return b"" if is_string else 0


@cache
def _nested(descriptor: Descriptor) -> dict[int, _Nested]:
    """The fields of a message that must be looked into, by number."""
    found = {}
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and (_is_map(inner) or _holds_map(inner, frozenset())):
            found[field.number] = _Nested(inner, _is_map(inner))
    return found


def _is_map(descriptor: Descriptor) -> bool:
    return bool(descriptor.GetOptions().map_entry)


def _holds_map(descriptor: Descriptor, seen: frozenset[str]) -> bool:
    """Whether messages of this type can have a map somewhere within; `seen` are those above it, types may be recursive."""
    if descriptor.full_name in seen:
        return False
    seen |= {descriptor.full_name}
    inners = [field.message_type for field in descriptor.fields if field.message_type is not None]
    return any(_is_map(inner) or _holds_map(inner, seen) for inner in inners)
