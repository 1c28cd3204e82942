"""A msgpack file as a tree of what lies where in it: structure is read, payloads are passed over.

Follows the msgpack specification (https://github.com/msgpack/msgpack/blob/master/spec.md) and the extension types of
`flax.serialization`:

    1  an array: a msgpack array of shape (an array of sizes), dtype name (a string), row-major bytes (binary), as bytes
    2  a complex number of Python: a msgpack array of its two floats
    3  a scalar of numpy, packed like an array

A window of the file is read at a time, so that memory and time go with the number of objects, not with their size. What an
object claims about its length is compared with the file before it is believed.
"""

import struct
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from smdaemon.errors import DropError
from smdaemon.sources.files import SourceFile

MAX_OBJECTS = 1 << 20
"""More objects than these no tree of weights has; each costs a microsecond and some hundred bytes."""
MAX_DEPTH = 512
"""msgpack for Python itself packs no deeper."""
MAX_KEY_BYTES = 4096
MAX_TEXT_BYTES = 100_000_000
"""All keys and kept strings together."""
MAX_RANK = 254
"""TensorFlow's."""
TEXT_BYTES = 1024
"""Longer strings are passed over."""

_WINDOW_BYTES = 16 << 10
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_NUMBERS = frozenset(["uint", "int", "float32", "float64"])

_WIDE = {
    0xC4: ("bin", 1),
    0xC5: ("bin", 2),
    0xC6: ("bin", 4),
    0xC7: ("ext", 1),
    0xC8: ("ext", 2),
    0xC9: ("ext", 4),
    0xCA: ("float32", 4),
    0xCB: ("float64", 8),
    0xCC: ("uint", 1),
    0xCD: ("uint", 2),
    0xCE: ("uint", 4),
    0xCF: ("uint", 8),
    0xD0: ("int", 1),
    0xD1: ("int", 2),
    0xD2: ("int", 4),
    0xD3: ("int", 8),
    0xD9: ("str", 1),
    0xDA: ("str", 2),
    0xDB: ("str", 4),
    0xDC: ("array", 2),
    0xDD: ("array", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}


def _first_bytes() -> Iterator[tuple[int, tuple[str, int, int]]]:
    """What an object is by its first byte; its length or value, if that byte has it; and in how many bytes it follows, if not."""
    for first in range(0x100):
        if first < 0x80:
            yield first, ("uint", first, 0)
        elif first < 0x90:
            yield first, ("map", first & 0x0F, 0)
        elif first < 0xA0:
            yield first, ("array", first & 0x0F, 0)
        elif first < 0xC0:
            yield first, ("str", first & 0x1F, 0)
        elif first >= 0xE0:
            yield first, ("int", first - 0x100, 0)
        elif 0xD4 <= first <= 0xD8:
            yield first, ("ext", 1 << (first - 0xD4), 0)
    yield from ((0xC0, ("nil", 0, 0)), (0xC2, ("bool", 0, 0)), (0xC3, ("bool", 1, 0)))
    yield from ((first, (kind, 0, width)) for first, (kind, width) in _WIDE.items())


_FIRST = dict(_first_bytes())


class StoredArray(NamedTuple):
    """An array of the file: its bytes lie at `offset`. Whether they are as many as shape and dtype need is not known yet."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Number(NamedTuple):
    """A number of Python: its value, little-endian, as the dtype that numpy gives it."""

    dtype: str
    raw: bytes


Node: TypeAlias = "dict[str, Node] | StoredArray | Number | str | None"
"""A map or list with its entries by key or index, or a leaf; None for nil, bytes and long strings."""


class _Head(NamedTuple):
    """The beginning of an object: what it is, its length or value, the type of an extension, and where it goes on."""

    kind: str
    argument: int
    extension: int
    at: int


@dataclass
class _Open:
    """A map or a list that is being read."""

    is_map: bool
    left: int
    children: dict[str, Node] = field(default_factory=dict)
    key: str = ""


def read_tree(file: SourceFile) -> Node:
    """The tree of the one object that the file is.

    Raises DropError: `source-truncated` where the file ends within the object (more may be to come), `source-corrupt` where it
    goes on behind it or is not what flax writes, `source-header-too-large` for more structure than a tree of weights has,
    `name-clash` for a key that stands twice in one map.
    """
    tree, end = _Walk(file).tree()
    if end != file.size:
        raise DropError(
            "source-corrupt", f"{str(file.path)!r} has {file.size} bytes, but the object in it ends at byte {end}"
        )
    return tree


class _Walk:
    """One pass over the structure of a file."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._what = repr(str(file.path))
        self._window = b""
        self._window_start = 0
        self._objects = 0
        self._text_bytes = 0

    def tree(self) -> tuple[Node, int]:
        """The object at the start of the file, and where it ends."""
        node, at, opened = self._object(0)
        stack = [opened] if opened else []
        root = node
        while stack:
            innermost = stack[-1]
            if innermost.left == 0:
                stack.pop()
                continue
            innermost.left -= 1
            if innermost.is_map:
                innermost.key, at = self._key(at)
            else:
                innermost.key = str(len(innermost.children))
            if innermost.key in innermost.children:
                raise DropError("name-clash", f"the key {innermost.key!r} stands twice in a map of {self._what}")
            node, at, opened = self._object(at)
            innermost.children[innermost.key] = node
            if opened:
                if len(stack) == MAX_DEPTH:
                    raise self._corrupt(at, f"is nested more than {MAX_DEPTH} deep")
                stack.append(opened)
        return root, at

    def _object(self, at: int) -> tuple[Node, int, _Open | None]:
        """The object at a place, where it ends (for a map or list: where its entries begin), and the map or list itself."""
        head = self._head(at)
        if head.kind in {"map", "array"}:
            self._count(head.argument)
            opened = _Open(head.kind == "map", head.argument)
            return opened.children, head.at, opened
        if head.kind not in {"str", "bin", "ext"}:
            return (None if head.kind == "nil" else _number(head)), head.at, None
        end = head.at + head.argument
        self._reach(end)
        if head.kind == "ext":
            return self._extension(head.extension, head.at, end), end, None
        kept = head.kind == "str" and head.argument <= TEXT_BYTES
        return (self._text(head.at, head.argument) if kept else None), end, None

    def _key(self, at: int) -> tuple[str, int]:
        """The key at a place, and where it ends. Whole numbers are names too: flax restores them."""
        head = self._head(at)
        if head.kind in {"int", "uint"}:
            return str(head.argument), head.at
        if head.kind != "str":
            raise self._corrupt(at, f"has a key that is neither text nor a whole number, but {head.kind}")
        if head.argument > MAX_KEY_BYTES:
            raise DropError(
                "source-header-too-large", f"{self._what} has a key of {head.argument} bytes, over {MAX_KEY_BYTES}"
            )
        return self._text(head.at, head.argument), head.at + head.argument

    def _head(self, at: int) -> _Head:
        known = _FIRST.get(self._take(at, 1)[0])
        if known is None:
            raise self._corrupt(at, "has the byte 0xc1, which begins no object")
        kind, argument, width = known
        at += 1
        if width:
            argument = self._signed(at, width) if kind == "int" else int.from_bytes(self._take(at, width), "big")
            at += width
        if kind != "ext":
            return _Head(kind, argument, 0, at)
        return _Head(kind, argument, self._signed(at, 1), at + 1)

    def _extension(self, kind: int, at: int, end: int) -> StoredArray | Number:
        if kind in {_ARRAY, _SCALAR}:
            return self._array(at, end)
        if kind != _COMPLEX:
            raise self._corrupt(at, f"has an object of the extension type {kind}, which flax does not write")
        pair = self._expect(at, end, {"array"})
        if pair.argument != 2:
            raise self._corrupt(at, f"has a complex number of {pair.argument} parts")
        real = self._expect(pair.at, end, _NUMBERS)
        imaginary = self._expect(real.at, end, _NUMBERS)
        if imaginary.at != end:
            raise self._corrupt(at, "has a complex number that does not end with its extension")
        return Number("complex128", _float64(real) + _float64(imaginary))

    def _array(self, at: int, end: int) -> StoredArray:
        """The array that an extension from `at` to `end` holds."""
        outer = self._expect(at, end, {"array"})
        shape_head = self._expect(outer.at, end, {"array"})
        if outer.argument != 3 or shape_head.argument > MAX_RANK:
            raise self._corrupt(at, "has an array that is not shape, dtype and bytes")
        shape = []
        at = shape_head.at
        for _ in range(shape_head.argument):
            size = self._expect(at, end, {"uint"})
            if size.argument >= 1 << 63:
                raise self._corrupt(at, f"has an array of which a dimension is {size.argument}")
            shape.append(size.argument)
            at = size.at
        dtype = self._expect(at, end, {"str", "bin"})
        if dtype.at + min(dtype.argument, TEXT_BYTES + 1) > end or dtype.argument > TEXT_BYTES:
            raise self._corrupt(at, f"has an array whose dtype's name takes {dtype.argument} bytes")
        name = self._text(dtype.at, dtype.argument)
        data = self._expect(dtype.at + dtype.argument, end, {"bin", "str"})
        if data.at + data.argument != end:
            raise self._corrupt(
                at, f"has an array of {data.argument} bytes in an extension with room for {end - data.at}"
            )
        return StoredArray(name, tuple(shape), data.at, data.argument)

    def _expect(self, at: int, end: int, kinds: AbstractSet[str]) -> _Head:
        """The object at a place inside an extension that ends at `end`, which must be one of these kinds."""
        head = self._head(at) if at < end else None
        if head is None or head.at > end or head.kind not in kinds:
            raise self._corrupt(at, "has an extension that does not hold what flax puts there")
        return head

    def _take(self, at: int, nbytes: int) -> bytes:
        """Some bytes of the structure; never many."""
        begin = at - self._window_start
        if begin < 0 or begin + nbytes > len(self._window):
            self._reach(at + nbytes)
            self._window = self._file.read(at, min(max(nbytes, _WINDOW_BYTES), self._file.size - at))
            self._window_start = at
            begin = 0
        return self._window[begin : begin + nbytes]

    def _signed(self, at: int, width: int) -> int:
        return int.from_bytes(self._take(at, width), "big", signed=True)

    def _text(self, at: int, nbytes: int) -> str:
        self._text_bytes += nbytes
        if self._text_bytes > MAX_TEXT_BYTES:
            raise DropError(
                "source-header-too-large", f"{self._what} has keys and strings of more than {MAX_TEXT_BYTES} bytes"
            )
        try:
            return self._take(at, nbytes).decode()
        except UnicodeDecodeError as error:
            raise self._corrupt(at, f"has a string that is not UTF-8: {error.reason}") from None

    def _reach(self, end: int) -> None:
        """DropError `source-truncated` unless the file reaches so far."""
        if end > self._file.size:
            raise DropError(
                "source-truncated",
                f"{self._what} ends at byte {self._file.size}, but its content reaches to {end} at least",
            )

    def _count(self, entries: int) -> None:
        """One more map or list, of so many entries; refused before anything is made of a number that none has."""
        self._objects += 1 + entries
        if self._objects > MAX_OBJECTS:
            raise DropError(
                "source-header-too-large", f"{self._what} claims {self._objects} objects or more, over {MAX_OBJECTS}"
            )

    def _corrupt(self, at: int, fault: str) -> DropError:
        return DropError("source-corrupt", f"{self._what} is not what flax writes: at byte {at} it {fault}")


def _number(head: _Head) -> Number:
    """A number of Python, with the dtype that numpy gives it; floats keep their bits."""
    if head.kind == "bool":
        return Number("bool", bytes([head.argument]))
    if head.kind in {"float32", "float64"}:
        return Number("float64", _float64(head))
    if head.argument >= 1 << 63:
        return Number("uint64", head.argument.to_bytes(8, "little"))
    return Number("int64", head.argument.to_bytes(8, "little", signed=True))


def _float64(head: _Head) -> bytes:
    """A number as a float64, little-endian; what is one already keeps its bits, a NaN's too."""
    if head.kind == "float64":
        return head.argument.to_bytes(8, "little")
    if head.kind == "float32":
        return struct.pack("<d", *struct.unpack("<f", head.argument.to_bytes(4, "little")))
    return struct.pack("<d", head.argument)
