"""The private descriptor pool that every message class comes from.

TensorFlow's messages keep their true names (so that `Any` in text format resolves) and therefore must not enter protobuf's
default pool: there they clash with TensorFlow's own, whichever is imported second. A pool of our own has neither problem.
Messages of two pools cannot be merged into each other; go through bytes.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """The pool, filled from `descriptors.binpb` at first use (about 2 ms)."""
    made = descriptor_pool.DescriptorPool()
    content = files("smdaemon.proto").joinpath("descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        made.Add(file)
    return made


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
