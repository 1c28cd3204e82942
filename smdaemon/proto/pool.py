"""The private descriptor pool that every message class comes from.

TensorFlow's messages keep their true names (so that `Any` in text format resolves) and therefore must not enter protobuf's
default pool: there they clash with TensorFlow's own, whichever is imported second. A pool of our own has neither problem.
Messages of two pools cannot be merged into each other; go through bytes.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

_FILE_TAG = 0x0A  # field 1 with a length


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """The pool, filled from `descriptors.binpb` at first use (about 2 ms)."""
    made = descriptor_pool.DescriptorPool()
    for file in _files_of(files("smdaemon.proto").joinpath("descriptors.binpb").read_bytes()):
        made.AddSerializedFile(file)
    return made


def _files_of(descriptor_set: bytes) -> Iterator[bytes]:
    """Every `file` of a serialised FileDescriptorSet: its only field, number 1, each with its length before it.

    Cut apart by hand, for importing protobuf's own message for it takes 30 ms, a tenth of what a command takes in all.
    """
    position = 0
    while position < len(descriptor_set):
        if descriptor_set[position] != _FILE_TAG:
            raise ValueError(f"descriptors.binpb is no FileDescriptorSet at byte {position}")
        position += 1
        length = shift = 0
        while True:
            byte = descriptor_set[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield descriptor_set[position : position + length]
        position += length


@cache
def lookup(full_name: str) -> Any:
    """The message class or enum wrapper of that full name; KeyError where there is none."""
    try:
        return message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))
    except KeyError:
        from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

        return EnumTypeWrapper(pool().FindEnumTypeByName(full_name))


def deterministic(message: Message) -> bytes:
    """`message` serialised with map keys sorted: the same message gives the same bytes."""
    return message.SerializeToString(deterministic=True)
