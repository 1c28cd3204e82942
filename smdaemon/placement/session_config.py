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
    """`config` with what `placed` makes of each device; fields that become empty are dropped. Bytes that are no ConfigProto stay."""
    if b"/" not in config and b":" not in config:
        return config  # most configurations hold no device: it shows at once, in thousands of nodes
    try:
        devices = {payload: _device(payload) for payload in _device_fields(config)}
    except (DropError, UnicodeDecodeError):
        return config
    if not devices:
        return config
    return b"".join(_replaced_parts(config, lambda payload: placed(devices[payload]).encode()))


def without_counts(config: bytes) -> bytes:
    """`config` without the numbers of devices that the machine of the training had. Bytes that are no ConfigProto stay."""
    try:
        fields = list(_fields(config))
    except DropError:
        return config
    return b"".join(whole for number, whole, _ in fields if number != _DEVICE_COUNT)


def _device_fields(config: bytes) -> Iterator[bytes]:
    """The content of every field that holds a device; DropError where the bytes are no ConfigProto."""
    for number, _, payload in _fields(config):
        if number == _DEVICE_FILTERS and payload:
            yield payload
        elif number == _EXPERIMENTAL and payload is not None:
            yield from (leader for nested, _, leader in _fields(payload) if nested == _GROUP_LEADER and leader)


def _device(payload: bytes) -> str:
    device = payload.decode()
    parse_device(device)
    return device


def _replaced_parts(config: bytes, placed: Callable[[bytes], bytes]) -> Iterator[bytes]:
    for number, whole, payload in _fields(config):
        if number == _DEVICE_FILTERS and payload:
            yield _replaced_field(number, whole, payload, placed)
        elif number == _EXPERIMENTAL and payload is not None:
            inner = b"".join(
                _replaced_field(nested, part, leader, placed) if nested == _GROUP_LEADER and leader else part
                for nested, part, leader in _fields(payload)
            )
            yield whole if inner == payload else _chunk(number, inner)
        else:
            yield whole


def _replaced_field(number: int, whole: bytes, payload: bytes, placed: Callable[[bytes], bytes]) -> bytes:
    """The field with its device replaced, nothing where none is left."""
    device = placed(payload)
    if device == payload:
        return whole
    return _chunk(number, device) if device else b""


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
