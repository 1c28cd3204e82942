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
    content = deterministic(message)
    runs: list[_Run] = []
    _order(content, 0, len(content), descriptor, runs)
    if runs == [(0, len(content))]:
        return content
    # a graph may hold hundreds of megabytes of constants: they are copied once, here
    view = memoryview(content)
    return b"".join([view[start:end] for start, end in runs])


_Run = tuple[int, int]
"""Bytes that stay together: where they start and end in Python's serialisation."""


class _Nested(NamedTuple):
    """A field that holds messages with maps somewhere within, or is a map itself."""

    descriptor: Descriptor
    is_map: bool


def _order(content: bytes, start: int, end: int, descriptor: Descriptor, runs: list[_Run]) -> None:
    """Appends the bytes of the message that `content` holds from `start` to `end`, with the entries of all its maps in order."""
    nested = _nested(descriptor)
    if not nested:
        _append(runs, start, end)
        return
    entries: list[tuple[int | bytes, list[_Run]]] = []
    map_number = 0
    for number, field_start, payload, field_end in wire.fields(content, start, end):
        # a field of a known number but another wire type is one that protobuf does not know
        field = nested.get(number) if content[field_start] & 7 == wire.LENGTH else None
        if number != map_number and entries:
            _append_in_order(runs, entries)
            entries = []
        if field is None:
            _append(runs, field_start, field_end)
            continue
        ordered: list[_Run] = [] if field.is_map else runs
        _append(ordered, field_start, payload)
        _order(content, payload, field_end, field.descriptor, ordered)
        if field.is_map:
            map_number = number
            entries.append((_key(content, payload, field_end, field.descriptor), ordered))
    _append_in_order(runs, entries)


def _append(runs: list[_Run], start: int, end: int) -> None:
    """Adds a run, to the one before it where they touch."""
    if runs and runs[-1][1] == start:
        runs[-1] = (runs[-1][0], end)
    elif start < end:
        runs.append((start, end))


def _append_in_order(runs: list[_Run], entries: list[tuple[int | bytes, list[_Run]]]) -> None:
    """Adds the entries of one map, by key."""
    entries.sort(key=_first)
    for _, ordered in entries:
        for start, end in ordered:
            _append(runs, start, end)


def _first(entry: tuple[Any, object]) -> Any:
    """The key, of Any type to the type checker: the keys of one map are all numbers or all bytes."""
    return entry[0]


def _key(content: bytes, start: int, end: int, descriptor: Descriptor) -> int | bytes:
    """The key of the map entry that `content` holds from `start` to `end`: a number, or the bytes of a string."""
    is_string = descriptor.fields_by_number[1].type == FieldDescriptor.TYPE_STRING
    for number, _, payload, field_end in wire.fields(content, start, end):
        if number == 1:
            return content[payload:field_end] if is_string else wire.read_varint(content, payload)[0]
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
