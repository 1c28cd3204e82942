"""Reads a bundle: the index at once, tensors when they are asked for.

Nothing in the files is trusted: every offset, size and count is compared with what is there before it is used, and no more
memory is taken than the index has bytes (its keys up to KEYS_LIMIT_BYTES) and one chunk of a tensor.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from smdaemon.errors import DropError
from smdaemon.tensorbundle.assembly import SlicedTensor, StoredSlice
from smdaemon.tensorbundle.coding import corrupt
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.entries import BundleEntry, BundleHeader, decode_entry, decode_header
from smdaemon.tensorbundle.files import data_path, index_path
from smdaemon.tensorbundle.slices import check_partition, slice_key
from smdaemon.tensorbundle.stored import DirectShard, Shard, StoredTensor, open_sized
from smdaemon.tensorbundle.table import read_table
from smdaemon.tensorbundle.tensors import Tensor, array_of

if TYPE_CHECKING:
    import numpy as np

INDEX_LIMIT_BYTES = 1 << 30
"""A larger index is no sound one: this holds some ten million tensors."""

NUMPY_RANK_LIMIT = 32
"""Dimensions that an array of every numpy version can have."""


class BundleReader:
    """The bundle of that prefix (`.../variables/variables`), open until its `with` block ends.

    With `past_cache` its data files are read past the page cache, which is worth it for those that were written past it.
    Raises DropError: `source-missing` without an index, `bundle-missing-shard` without a data file that a tensor needs,
    `bundle-corrupt` for what contradicts the format, `dtype-unsupported` when a tensor of an unknown type is asked for.
    """

    def __init__(self, prefix: str | Path, *, past_cache: bool = False) -> None:
        self.prefix = prefix
        self._open = DirectShard if past_cache else Shard
        self._shards: dict[int, Shard] = {}
        self._values = dict(read_table(_read_index(index_path(prefix))))
        header = self._values.pop(b"", None)
        if header is None:
            raise corrupt(f"the index of {os.fspath(prefix)!r} has no header")
        self.header: BundleHeader = decode_header(header)

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close the data files."""
        self.close()

    def close(self) -> None:
        """Close the data files; tensors cannot be read any more."""
        for shard in self._shards.values():
            shard.close()

    def keys(self) -> list[str]:
        """The names of all tensors, sorted as bytes. Slices stand under the name of the whole."""
        return [_text(key) for key in self._values if key[0]]

    def __contains__(self, key: str) -> bool:
        """Whether there is a tensor of that name."""
        return _key(key) in self._values

    def entry(self, key: str) -> BundleEntry:
        """The entry of that tensor, checked against its data file; KeyError where there is none."""
        raw = _key(key)
        entry = self._entry(raw)
        if not entry.slices:
            self._stored(raw, entry)
        return entry

    def entries(self) -> Iterator[tuple[str, BundleEntry]]:
        """Name and entry of every tensor, in the order of `keys`; entries are not checked against the data files."""
        for key in self._values:
            if key[0]:
                yield _text(key), self._entry(key)

    def reach(self) -> dict[int, int]:
        """The bytes that each data file must have for the entries that lie in it, by the file's number; no file is opened.

        Entries of types that no tensor of ours has are not counted.
        """
        ends: dict[int, int] = {}
        for key in self._values:
            try:
                entry = self._entry(key)
            except DropError as error:
                if error.code == "dtype-unsupported":
                    continue
                raise
            if entry.slices:
                continue
            if entry.shard >= self.header.shards:
                raise corrupt(f"tensor {_text(key)!r} lies in data file {entry.shard} of {self.header.shards}")
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)
        return ends

    def tensor(self, key: str) -> Tensor:
        """The tensor of that name, whose value is read when it is asked for; KeyError where there is none.

        Slices are put together on the way, a chunk at a time.
        """
        raw = _key(key)
        entry = self._entry(raw)
        return self._assembled(raw, entry) if entry.slices else self._stored(raw, entry)

    def array(self, key: str) -> "np.ndarray[Any, Any]":
        """A copy of the tensor as a numpy array: ml_dtypes for what numpy lacks, objects of bytes for strings."""
        tensor = self.tensor(key)
        if len(tensor.shape) > NUMPY_RANK_LIMIT:
            raise DropError("bundle-invalid", f"tensor {key!r} of rank {len(tensor.shape)} does not fit a numpy array")
        # its nbytes have been compared with the data file
        if not isinstance(tensor, StoredTensor) or tensor.dtype is STRING:
            return array_of(tensor)
        import numpy as np

        content = np.empty(tensor.nbytes, dtype=np.uint8)
        tensor.fill(memoryview(content))  # type: ignore[arg-type]
        return content.view(tensor.dtype.numpy).reshape(tensor.shape)

    def string_elements(self, key: str) -> list[bytes]:
        """The elements of a string tensor in row-major order; DropError `bundle-corrupt` for any other tensor."""
        tensor = self.tensor(key)
        if tensor.dtype is not STRING:
            raise corrupt(f"tensor {key!r} holds {tensor.dtype}, not strings")
        return [bytes(element) for element in tensor.buffers()]

    def verify(self, on_bytes: Callable[[int], None] | None = None) -> None:
        """Compare every checksum of every tensor and slice; `on_bytes(n)` is called after each n bytes.

        Raises DropError with the tensor's name in its message. (The index was checked when it was opened.)
        """
        for key in self._values:
            entry = self._entry(key)
            if entry.slices:
                self._assembled(key, entry)
                continue
            for buffer in self._stored(key, entry).buffers():
                if on_bytes is not None:
                    on_bytes(len(buffer))

    def _entry(self, key: bytes) -> BundleEntry:
        try:
            return decode_entry(self._values[key])
        except DropError as error:
            raise DropError(error.code, f"tensor {_text(key)!r}: {error}") from error
        except KeyError:
            raise KeyError(_text(key)) from None

    def _stored(self, key: bytes, entry: BundleEntry) -> StoredTensor:
        """The tensor of an entry that has data of its own, once it is known to lie in its data file."""
        name = _text(key)
        promised = prod(entry.shape) * entry.dtype.itemsize
        if entry.dtype is not STRING and entry.size != promised:
            raise corrupt(f"tensor {name!r} of shape {entry.shape} has {entry.size} bytes instead of {promised}")
        if entry.shard >= self.header.shards:
            raise corrupt(f"tensor {name!r} lies in data file {entry.shard} of {self.header.shards}")
        shard = self._shard(entry.shard)
        end = entry.offset + entry.size
        if end > shard.size:
            raise corrupt(f"tensor {name!r} ends at byte {end} of a data file of {shard.size}")
        return StoredTensor(entry, shard, name)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = self._open(data_path(self.prefix, number, self.header.shards))
        return self._shards[number]

    def _assembled(self, key: bytes, whole: BundleEntry) -> SlicedTensor:
        """The tensor of an entry that stands for slices."""
        name = _text(key)
        if len(whole.shape) >= NUMPY_RANK_LIMIT:
            raise corrupt(f"tensor {name!r} of rank {len(whole.shape)} is partitioned")
        try:
            boxes = check_partition(whole.shape, whole.slices)
        except DropError as error:
            raise corrupt(f"tensor {name!r}: {error}") from error
        stored: list[StoredSlice] = []
        for part, box in zip(whole.slices, boxes, strict=True):
            part_key = slice_key(key, part)
            if part_key not in self._values:
                raise corrupt(f"slice {str(part)!r} of tensor {name!r} is not in the index")
            entry = self._entry(part_key)
            if entry.slices or entry.dtype is not whole.dtype or entry.shape != part.shape(whole.shape):
                raise corrupt(f"slice {str(part)!r} of tensor {name!r} is of another dtype or shape")
            stored.append(StoredSlice(box, self._stored(part_key, entry)))
        self._refuse_shared_bytes(name, stored)
        return SlicedTensor(whole.dtype, whole.shape, stored)

    def _refuse_shared_bytes(self, name: str, stored: Iterable[StoredSlice]) -> None:
        """Slices that all point to the same bytes would let a small file unfold into a huge tensor."""
        ends: dict[int, int] = {}
        for entry in sorted((part.tensor.entry for part in stored), key=lambda entry: (entry.shard, entry.offset)):
            if entry.size and entry.offset < ends.get(entry.shard, 0):
                raise corrupt(f"two slices of tensor {name!r} share bytes of a data file")
            ends[entry.shard] = max(ends.get(entry.shard, 0), entry.offset + entry.size)


def _read_index(path: Path) -> bytes:
    """The content of the index."""
    try:
        descriptor, size = open_sized(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DropError("source-missing", f"there is no index {os.fspath(path)!r}") from None
    with os.fdopen(descriptor, "rb") as file:
        if size > INDEX_LIMIT_BYTES:
            raise corrupt(f"an index of {size} bytes is larger than {INDEX_LIMIT_BYTES}")
        return file.read(size)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
