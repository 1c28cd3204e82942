"""The devices in a serialised ConfigProto, the session configuration that call nodes carry in their attr `config_proto`.

    ConfigProto  {1 device_count: {type: count}, 4 device_filters: repeated string, 16 experimental: Experimental}
    Experimental {1 collective_group_leader: string}

All other fields keep their bytes.
"""

from collections.abc import Callable, Iterator

from smdaemon.errors import DropError
from smdaemon.placement.names import parse_device
from smdaemon.tensorbundle.coding import read_varint, varint

_DEVICE_COUNT, _DEVICE_FILTERS, _EXPERIMENTAL = 1, 4, 16
_GROUP_LEADER = 1
_LENGTH = 2
_FIXED_BYTES = {1: 8, 5: 4}


def replaced(config: bytes, placed: Callable[[str], str]) -> bytes:
    """`config` with what `placed` makes of each device; filters that become empty are dropped. Bytes that are no ConfigProto stay."""
    try:
        return _without_empty(config, placed)
    except (DropError, UnicodeDecodeError, IndexError):
        return config


def without_counts(config: bytes) -> bytes:
    """`config` without the numbers of devices that the machine of the training had. Bytes that are no ConfigProto stay."""
    try:
        fields = list(_fields(config))
    except (DropError, IndexError):
        return config
    return b"".join(whole for number, whole, _ in fields if number != _DEVICE_COUNT)


def _without_empty(config: bytes, placed: Callable[[str], str]) -> bytes:
    parts = []
    for number, whole, payload in _fields(config):
        if number == _DEVICE_FILTERS and payload is not None:
            parts.append(_device(number, whole, payload, placed))
        elif number == _EXPERIMENTAL and payload is not None:
            inner = b"".join(
                _device(nested, part, leader, placed) if nested == _GROUP_LEADER and leader is not None else part
                for nested, part, leader in _fields(payload)
            )
            parts.append(whole if inner == payload else _chunk(number, inner))
        else:
            parts.append(whole)
    return b"".join(parts)


def _device(number: int, whole: bytes, payload: bytes, placed: Callable[[str], str]) -> bytes:
    """The field with its device replaced, empty where none is left."""
    before = payload.decode()
    parse_device(before)
    after = placed(before) if before else before
    if after == before:
        return whole
    return _chunk(number, after.encode()) if after else b""


def _chunk(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | _LENGTH) + varint(len(payload)) + payload


def _fields(content: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Each field's number, its bytes as a whole, and its payload if it is one with a length; DropError where it ends early."""
    position, end = 0, len(content)
    while position < end:
        start = position
        tag, position = read_varint(content, position, end)
        payload = None
        match tag & 7:
            case 0:
                _, position = read_varint(content, position, end)
            case 2:
                size, position = read_varint(content, position, end)
                payload = content[position : position + size]
                position += size
            case wire_type if wire_type in _FIXED_BYTES:
                position += _FIXED_BYTES[wire_type]
            case wire_type:
                raise DropError("device-invalid", f"a session configuration holds a field of wire type {wire_type}")
        if position > end:
            raise DropError("device-invalid", "a session configuration ends within a field")
        yield tag >> 3, content[start:position], payload
