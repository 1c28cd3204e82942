"""Files that the tests of the sources are fed: real ones made by the formats' own writers, and broken ones made by hand."""

import json
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smdaemon.sources.formats import open_source
from smdaemon.tensorbundle.dtypes import STRING


class Value(NamedTuple):
    """A tensor as it was read."""

    dtype: str
    shape: tuple[int, ...]
    content: object


def read_all(path: Path, format_name: str = "auto") -> dict[str, Value]:
    """Every tensor of a source, its buffers joined; the elements of strings."""
    with open_source(path, format_name) as source:
        values = {}
        for name, tensor in source.tensors.items():
            parts = [bytes(part) for part in tensor.buffers()]
            assert sum(map(len, parts)) == tensor.nbytes
            values[name] = Value(str(tensor.dtype), tensor.shape, parts if tensor.dtype is STRING else b"".join(parts))
        source.check_unchanged()
        return values


def value_of(array: np.ndarray) -> Value:
    """What reading this array must give."""
    if array.dtype.kind == "S":
        return Value("string", array.shape, [bytes(element) for element in array.flat])
    if array.dtype.kind == "U":
        return Value("string", array.shape, [str(element).encode() for element in array.flat])
    little = array.astype(array.dtype.newbyteorder("<"))
    return Value(array.dtype.name, array.shape, little.tobytes(order="C"))


def npy_bytes(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    """An array file with just this header."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + data


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with just this header: an object, or the text of one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class ZipMember(NamedTuple):
    """A zip member whose directory entry may lie."""

    name: bytes
    content: bytes
    method: int = 0
    crc: int | None = None
    unpacked_bytes: int | None = None
    packed_bytes: int | None = None
    offset: int | None = None
    flags: int = 0


def deflated(content: bytes) -> bytes:
    """A raw deflate stream."""
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(content) + engine.flush()


def zip_bytes(members: list[ZipMember]) -> bytes:
    """A zip archive of these members, as each says about itself."""
    body = directory = b""
    for member in members:
        packed = deflated(member.content) if member.method == 8 else member.content
        crc = zlib.crc32(member.content) if member.crc is None else member.crc
        unpacked_bytes = len(member.content) if member.unpacked_bytes is None else member.unpacked_bytes
        packed_bytes = len(packed) if member.packed_bytes is None else member.packed_bytes
        offset = len(body) if member.offset is None else member.offset
        common = (member.flags, member.method, 0, 33, crc, packed_bytes, unpacked_bytes, len(member.name), 0)
        directory += struct.pack("<4s2H4H3L2H", b"PK\x01\x02", 20, 20, *common) + struct.pack(
            "<3H2L", 0, 0, 0, 0, offset
        )
        directory += member.name
        body += struct.pack("<4sH4H3L2H", b"PK\x03\x04", 20, *common) + member.name + packed
    count = len(members)
    return body + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)


def npy_of(array: np.ndarray) -> bytes:
    """The array as numpy saves it."""
    import io

    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def open_descriptors() -> int:
    """How many files this process holds open."""
    return len(list(Path("/proc/self/fd").iterdir()))
