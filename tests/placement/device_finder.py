"""An independent look for devices: every text of a message, wherever it stands, with the messages serialised within."""

import re

from google.protobuf.message import Message

LIKE_A_DEVICE = re.compile(
    rb"/(job|replica|task|device):|/(cpu|gpu|tpu)[:/]|(?<![A-Za-z_])(CPU|GPU|TPU)(?![A-Za-z_])|loc:@", re.IGNORECASE
)
"""Wider than any device name: bare types as in device counts, and colocations, too."""


def find_devices(message: Message, path: str = "") -> list[tuple[str, bytes]]:
    """The path and the content of every string, bytes and map key below `message` that looks like a device."""
    found: list[tuple[str, bytes]] = []
    pending: list[tuple[str, object]] = [(path, message)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, Message):
            for field, inner in value.ListFields():
                pending += _values(f"{path}.{field.name}", inner)
        elif isinstance(value, str | bytes):
            content = value.encode() if isinstance(value, str) else value
            if LIKE_A_DEVICE.search(content):
                found.append((path, content))
    return found


def _values(path: str, value: object) -> list[tuple[str, object]]:
    if hasattr(value, "items"):
        return [pair for key, inner in value.items() for pair in ((f"{path}{{}}", key), (f"{path}[{key}]", inner))]
    if isinstance(value, str | bytes | Message) or not hasattr(value, "__len__"):
        return [(path, value)]
    return [(path, inner) for inner in value]
