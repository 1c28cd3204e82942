"""Writes a bundle: the data files, several at once, then the index.

    PREFIX.data-00000-of-00002   bytes of the first tensors, end to end, in the order of their names
    PREFIX.data-00001-of-00002   bytes of the rest
    PREFIX.index                 table of entries, written last

With one data file the bytes are those that TensorFlow's SaveV2 writes, but for tensors that are written as the image that they lie in.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.tensorbundle.checksum import crc_of, mask
from smdaemon.tensorbundle.dtypes import STRING, DType
from smdaemon.tensorbundle.entries import RANK_LIMIT, encode_header, encode_kind, encode_place, encode_slices
from smdaemon.tensorbundle.files import OutputFile, Progress, data_path, index_path
from smdaemon.tensorbundle.image import MappedTensor, common_image
from smdaemon.tensorbundle.slices import PartitionedTensor, TensorSlice, slice_key
from smdaemon.tensorbundle.strings import encode_lengths
from smdaemon.tensorbundle.table import data_blocks, write_table
from smdaemon.tensorbundle.tensors import Tensor

SHARDS_LIMIT = 99_999
"""The names of data files have five digits."""


@dataclass(frozen=True)
class BundleFiles:
    """What was written: the files (data files first), their bytes together, and the content of the index."""

    paths: tuple[Path, ...]
    bytes_written: int
    index: bytes


# Handlers of signals run in the main thread, and nothing wakes it for one that another thread received, or that came just before it slept.
_SIGNALS_SECONDS = 0.1

Piece = tuple[str, bytes, Tensor]
"""One run of bytes in a data file, a tensor or a slice of one: its name, its key in the index, its value."""

ShardItem = str | tuple[str, TensorSlice]
"""A tensor by its name, or one slice of a partitioned one."""


def write_bundle(
    prefix: str | Path,
    tensors: Mapping[str, Tensor | PartitionedTensor],
    *,
    shards: int | Sequence[Sequence[ShardItem]] = 1,
    on_bytes: Callable[[int], None] | None = None,
    sync: bool = True,
) -> BundleFiles:
    """Write `tensors` as `prefix`.index and `shards` data files, and read the index back.

    `shards` may also say what lies in each data file: names of tensors, and slices of partitioned ones. Several
    shards are written by `writing_threads`; a tensor lies in one shard whole. `on_bytes(n)` is called
    after each write of n bytes to a data file, by the thread that wrote; what it raises stops all threads and is raised here.
    With `sync` the files are on the disk when this returns; the directory's own entry is the caller's to sync. If anything
    fails, the files made so far are removed.

    Raises DropError `bundle-invalid` or `name-invalid` for tensors that do not make a bundle, `source-changed` for a tensor
    that gives more or fewer bytes than its shape promises; OSError as it comes, FileExistsError where a file exists already.
    """
    count = shards if isinstance(shards, int) else len(shards)
    if not 1 <= count <= SHARDS_LIMIT:
        raise ValueError(f"shards must be from 1 to {SHARDS_LIMIT}, not {count}")
    pieces, items = _plan(tensors)
    divided = _divide(pieces, shards) if isinstance(shards, int) else _assigned(pieces, shards)
    progress = Progress(on_bytes)
    paths = [data_path(prefix, shard, count) for shard in range(count)]
    files: list[OutputFile] = []
    try:
        for path in paths:
            files.append(OutputFile(path, progress, sync=sync))  # noqa: PERF401 - what was made before a failure is undone
        items += _write_shards(files, divided, progress)
        index = write_table(_sorted_unique(items, encode_header(count)))
        files.append(OutputFile(index_path(prefix), Progress(None), sync=sync))
        _write_index(files[-1], index)
    except BaseException:
        for file in files:
            file.discard()
        raise
    return BundleFiles(tuple(file.path for file in files), sum(file.size for file in files), index)


def writing_threads(shards: int) -> int:
    """How many threads write so many data files: one for each, as far as there are processors."""
    return min(shards, os.cpu_count() or 1)


def _plan(tensors: Mapping[str, Tensor | PartitionedTensor]) -> tuple[list[Piece], list[tuple[bytes, bytes]]]:
    """The pieces in the order of the data files (by name), and the entries that have no data of their own."""
    pieces: list[Piece] = []
    wholes: list[tuple[bytes, bytes]] = []
    names = {encode_name(name): name for name in tensors}
    if len(names) != len(tensors):
        raise DropError("bundle-invalid", "two names are the same in UTF-8")
    for key in sorted(names):
        name = names[key]
        tensor = tensors[name]
        if not isinstance(tensor, PartitionedTensor):
            pieces.append((name, key, tensor))
            continue
        if len(tensor.parts) == 1:
            # as in TensorFlow, a single slice that is the whole is no partition
            pieces.append((name, key, tensor.parts[0][1]))
            continue
        slices = [part for part, _ in tensor.parts]
        wholes.append((key, encode_kind(tensor.dtype, tensor.shape) + encode_slices(slices)))
        pieces += ((name, slice_key(key, part), piece) for part, piece in tensor.parts)
    return pieces, wholes


def encode_name(name: str) -> bytes:
    """The key of a tensor of that name; DropError `name-invalid` where it can be none."""
    # the empty key is the header's, and keys that begin with NUL are those of slices
    if not name or name[0] == "\0":
        raise DropError("name-invalid", f"a tensor cannot be called {name!r}")
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise DropError("name-invalid", f"the name {name!r} is no text that UTF-8 can hold") from None


def _divide(pieces: list[Piece], shards: int) -> list[list[Piece]]:
    """The pieces of each shard: runs of the list, of nearly the same number of bytes."""
    if shards == 1:
        return [pieces]
    sizes = [max(1, tensor.nbytes) for _, _, tensor in pieces]
    total = sum(sizes)
    divided: list[list[Piece]] = [[] for _ in range(shards)]
    before = 0
    for piece, size in zip(pieces, sizes, strict=True):
        # the shard in whose share the middle of the piece lies
        divided[(2 * before + size) * shards // (2 * total)].append(piece)
        before += size
    return divided


def _assigned(pieces: list[Piece], shards: Sequence[Sequence[ShardItem]]) -> list[list[Piece]]:
    """The pieces of each shard, whose tensors and slices are named."""
    numbers: dict[bytes | str, int] = {}
    for number, items in enumerate(shards):
        for item in items:
            name: bytes | str = item if isinstance(item, str) else slice_key(encode_name(item[0]), item[1])
            if name in numbers:
                raise ValueError(f"{item!r} is in two shards")
            numbers[name] = number
    divided: list[list[Piece]] = [[] for _ in shards]
    named = set()
    for piece in pieces:
        name = piece[1] if piece[1] in numbers else piece[0]
        if name not in numbers:
            raise ValueError(f"{piece[0]!r} is in no shard")
        named.add(name)
        divided[numbers[name]].append(piece)
    if len(named) < len(numbers):
        raise ValueError("a shard is to hold what is not there")
    return divided


def _write_shards(
    files: Sequence[OutputFile], divided: Sequence[list[Piece]], progress: Progress
) -> list[tuple[bytes, bytes]]:
    """Write every shard; the entries of all pieces."""
    if len(files) == 1:
        return _write_shard(files[0], 0, divided[0])
    from concurrent.futures import ThreadPoolExecutor, wait

    with ThreadPoolExecutor(writing_threads(len(files)), thread_name_prefix="bundle-shard") as pool:
        try:
            running = [
                # in a copy of this context each: what confines reading here confines it there
                pool.submit(copy_context().run, progress.guard, _write_shard, file, shard, divided[shard])
                for shard, file in enumerate(files)
            ]
            while wait(running, _SIGNALS_SECONDS).not_done:
                pass
            written = [future.result() for future in running]
        except BaseException as error:  # noqa: BLE001 - an interrupt too must stop the threads
            raise progress.fail(error) from None
    return [item for items in written for item in items]


def _write_shard(file: OutputFile, shard: int, pieces: Iterable[Piece]) -> list[tuple[bytes, bytes]]:
    """Write the pieces of one data file, and finish it; key and entry of each."""
    items = []
    kinds: dict[tuple[DType, tuple[int, ...]], tuple[int, bytes]] = {}
    append = file.append
    pieces = list(pieces)
    image = common_image([tensor for _, _, tensor in pieces])
    if image is not None:
        file.append_image(image.buffer)
    for name, key, tensor in pieces:
        dtype, shape = tensor.dtype, tensor.shape
        known = kinds.get((dtype, shape))
        if known is None:
            known = kinds[dtype, shape] = (_elements(name, shape), encode_kind(dtype, shape, shard))
        elements, kind = known
        offset = file.size
        if image is not None and isinstance(tensor, MappedTensor) and tensor.image is image:
            # its bytes are in the file already, at their place in the image
            offset, size = tensor.offset, elements * dtype.itemsize
            crc = crc_of(tensor.buffers())
        elif dtype is STRING:
            crc = _append_strings(file, name, tensor, elements)
            size = file.size - offset
        else:
            promised = elements * dtype.itemsize
            crc = size = 0
            for buffer in tensor.buffers():
                size += len(buffer)
                if size > promised:
                    break
                crc = append(buffer, crc)
            if size != promised:
                more = "at least " if size > promised else ""
                raise DropError("source-changed", f"tensor {name!r} promises {promised} bytes and gives {more}{size}")
        items.append((key, kind + encode_place(offset, size, mask(crc))))
    file.finish()
    return items


def _append_strings(file: OutputFile, name: str, tensor: Tensor, elements: int) -> int:
    """Write a string tensor; its checksum. The elements are asked for twice: their lengths stand before them."""
    lengths = [len(element) for element in tensor.buffers()]
    if len(lengths) != elements:
        raise DropError("source-changed", f"tensor {name!r} promises {elements} strings and gives {len(lengths)}")
    head, crc = encode_lengths(lengths)
    file.append(head)
    given = 0
    for element in tensor.buffers():
        if given == elements or len(element) != lengths[given]:
            raise DropError("source-changed", f"string {given} of tensor {name!r} changed while it was written")
        crc = file.append(element, crc)
        given += 1
    if given != elements:
        raise DropError("source-changed", f"tensor {name!r} promises {elements} strings and gives {given}")
    return crc


def _elements(name: str, shape: tuple[int, ...]) -> int:
    """The number of elements of a tensor of that shape."""
    if any(dim < 0 for dim in shape) or len(shape) > RANK_LIMIT:
        raise DropError("bundle-invalid", f"tensor {name!r} has the shape {shape}, which TensorFlow cannot have")
    return prod(shape)


def _sorted_unique(items: list[tuple[bytes, bytes]], header: bytes) -> list[tuple[bytes, bytes]]:
    """All items of the index in the order of their keys, the header first."""
    items.sort()
    for (key, _), (following, _) in pairwise(items):
        if key == following:
            raise DropError("bundle-invalid", f"the key {key!r} is there twice")
    return [(b"", header), *items]


def _write_index(file: OutputFile, index: bytes) -> None:
    """Write the index and read it back: a reader that finds the file whole finds the bundle whole."""
    file.append(index)
    written = file.finish(read_back=True)
    if written != index:
        raise OSError(5, "the index reads back with other bytes than were written", os.fspath(file.path))
    for _ in data_blocks(written):
        pass
