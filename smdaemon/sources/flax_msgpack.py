"""What `flax.serialization.to_bytes` and `msgpack_serialize` write: a tree of arrays in one msgpack object.

A tensor's name is the path of its keys, joined with "/". Lists count as maps whose keys are their indices. Of the other leaves

- ints, floats, bools and complex numbers of Python are scalars, with the dtype that numpy gives them: int64 (uint64 from 2**63
  on), float64, bool, complex128,
- strings of at most 1024 bytes are metadata, under the same name,
- None, bytes, longer strings and empty maps are left out.

A whole number named `step` or `global_step` is metadata too, so that it tells the step. flax splits an array of more than 2**30
bytes into a map of pieces; it is read as the one array that it was. The dtype of an array is a name without byte order: flax reads
and writes the machine's own, which is little-endian wherever smdaemon runs.

Source of the format: `flax/serialization.py`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

from smdaemon.errors import DropError
from smdaemon.sources.extents import StoredExtent
from smdaemon.sources.files import SourceFile
from smdaemon.sources.msgpack_tree import MAX_TEXT_BYTES, Node, Number, StoredArray, read_tree
from smdaemon.sources.opened import FileSource, check_any, check_name
from smdaemon.sources.values import NumberTensor
from smdaemon.tensorbundle.dtypes import dtype_named
from smdaemon.tensorbundle.tensors import Tensor

_SUFFIX = ".msgpack"
_SHARD_NAME = re.compile(r"-\d{5}-of-\d{5}\.msgpack$")
_SPLIT = "__msgpack_chunked_array__"
_STEPS = ("step", "global_step")


class FlaxMsgpackFormat:
    """One `.msgpack` file, such as Hugging Face's `flax_model.msgpack`; a shard of a larger model is no drop."""

    name = "flax-msgpack"
    suffix = _SUFFIX
    self_judging = True

    def claims(self, path: Path) -> bool:
        """See `Format`."""
        return path.name.endswith(_SUFFIX) and not _SHARD_NAME.search(path.name) and not os.path.isdir(path)  # noqa: PTH112 - this one never raises

    def is_complete(self, path: Path) -> bool:
        """Whether the object that begins the file ends with it."""
        file = SourceFile(path)
        try:
            read_tree(file)
        except DropError as error:
            if error.code != "source-truncated":
                raise
            return False
        finally:
            file.close()
        return True

    def open(self, path: Path) -> FileSource:
        """See `Format`."""
        file = SourceFile(path)
        try:
            tensors, metadata = open_tree(file)
            check_any(tensors, path)
        except BaseException:
            file.close()
            raise
        return FileSource(self.name, path, tensors, metadata, [file])


def open_tree(file: SourceFile) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a whole file; DropError where it is cut short or unsound."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name, leaf in _leaves(read_tree(file), file):
        if name in tensors or name in metadata:
            raise DropError("name-clash", f"two values of {str(file.path)!r} are named {name!r}")
        if isinstance(leaf, str):
            metadata[name] = leaf
            continue
        check_name(name)
        tensors[name] = _tensor(leaf, name, file)
    return tensors, _steps(tensors) | metadata


class InlineExtent:
    """A few bytes that were read with the structure around them."""

    working_bytes = 0

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.nbytes = len(content)

    def chunks(self, unit: int) -> Iterator[memoryview]:  # noqa: ARG002 - the signature is the protocol's
        """See `Extent`."""
        yield memoryview(self._content)


class JoinedExtent:
    """Runs of bytes one after the other, each of whole elements."""

    working_bytes = 0

    def __init__(self, parts: list[StoredExtent]) -> None:
        self._parts = parts
        self.nbytes = sum(part.nbytes for part in parts)

    def chunks(self, unit: int) -> Iterator[memoryview]:
        """See `Extent`."""
        for part in self._parts:
            yield from part.chunks(unit)


class _Split(NamedTuple):
    """An array that flax split: its pieces, in order."""

    dtype: str
    shape: tuple[int, ...]
    pieces: list[StoredArray]


_Leaf = StoredArray | Number | _Split


def _leaves(root: Node, file: SourceFile) -> Iterator[tuple[str, _Leaf | str]]:
    """Every value of the tree with its name, in the order of the file."""
    named_bytes = 0
    waiting: list[tuple[str, Node]] = [("", root)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, dict) and _SPLIT in node:
            yield name, _split(node, name)
        elif isinstance(node, dict):
            below = f"{name}/" if node is not root else ""
            named_bytes += len(below) * len(node)  # a long key costs anew with each value beneath it
            if named_bytes > MAX_TEXT_BYTES:
                raise DropError(
                    "source-header-too-large", f"the names in {str(file.path)!r} take more than {MAX_TEXT_BYTES} bytes"
                )
            waiting.extend((below + key, child) for key, child in reversed(node.items()))
        elif node is not None:
            yield name, node


def _split(node: Mapping[str, Node], name: str) -> _Split:
    sizes = _entries(node.get("shape"), name)
    shape = [int.from_bytes(size.raw, "little") for size in sizes if isinstance(size, Number) and size.dtype == "int64"]
    entries = _entries(node.get("chunks"), name)
    pieces = [piece for piece in entries if isinstance(piece, StoredArray)]
    if len(shape) != len(sizes) or any(size >= 1 << 63 for size in shape):
        raise DropError("source-corrupt", f"{name!r} was split, but its shape is not made of sizes")
    if len(pieces) != len(entries) or len({piece.dtype for piece in pieces}) != 1:
        raise DropError("source-corrupt", f"{name!r} was split, but its pieces are not arrays of one dtype")
    for piece in pieces:
        _check_size(piece.dtype, piece.shape, piece.nbytes, name)
    return _Split(pieces[0].dtype, tuple(shape), pieces)


def _entries(node: Node, name: str) -> list[Node]:
    """The entries of a map whose keys are "0", "1", ..., in that order: how flax writes a tuple."""
    if not isinstance(node, dict) or any(str(index) not in node for index in range(len(node))):
        raise DropError("source-corrupt", f"{name!r} was split, but its shape or its pieces are not counted from 0")
    return [node[str(index)] for index in range(len(node))]


def _tensor(leaf: _Leaf, name: str, file: SourceFile) -> Tensor:
    if isinstance(leaf, Number):
        return NumberTensor(dtype_named(leaf.dtype), (), InlineExtent(leaf.raw))
    pieces = leaf.pieces if isinstance(leaf, _Split) else [leaf]
    extents = [StoredExtent(file, piece.offset, piece.nbytes) for piece in pieces]
    extent = extents[0] if len(extents) == 1 else JoinedExtent(extents)
    _check_size(leaf.dtype, leaf.shape, extent.nbytes, name)
    return NumberTensor(dtype_named(leaf.dtype), leaf.shape, extent)


def _check_size(dtype: str, shape: tuple[int, ...], nbytes: int, name: str) -> None:
    """DropError unless the bytes are as many as dtype and shape say."""
    try:
        itemsize = dtype_named(dtype).itemsize
    except DropError:
        itemsize = 0
    if not itemsize:  # "string" is TensorFlow's own, no numpy array has it
        raise DropError("dtype-unsupported", f"the tensor {name!r} has the dtype {dtype!r}")
    wanted = prod(shape) * itemsize
    if wanted != nbytes:
        raise DropError(
            "source-corrupt",
            f"{name!r} of dtype {dtype!r}, shape {shape!r} has {wanted} bytes, but {nbytes} are stored",
        )


def _steps(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What the state says about its step."""
    return {name: str(step) for name in _STEPS if (step := whole_number(tensors.get(name))) is not None}


def whole_number(tensor: Tensor | None) -> int | None:
    """The value of a scalar that counts something; None for any other tensor, and for what is negative."""
    if tensor is None or tensor.shape != () or tensor.dtype.name not in {"int32", "int64", "uint32", "uint64"}:
        return None
    raw = b"".join(bytes(buffer) for buffer in tensor.buffers())
    number = int.from_bytes(raw, "little", signed=tensor.dtype.name.startswith("i"))
    return number if number >= 0 else None
