"""The arrays of an Orbax checkpoint as tensors, read with tensorstore.

Orbax cuts an array into chunks, most often one for each device that held a part of it, and compresses each as a whole. A value
streams out of the band of chunks (see chunks.py) in which its next bytes lie, and each chunk is decoded once: so reading takes the
memory of one band, beside the compressed bytes of what is being decoded. Bands of several chunks that exceed BAND_BYTES are put
together in a temporary file instead; then it is one chunk at a time. Chunks over CHUNK_LIMIT_BYTES are refused: tensorstore
allocates what the metadata claims before it reads, and where the machine has no such memory it ends the process.

tensorstore is an extra of smdaemon. It is imported here only, when a checkpoint is opened.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smdaemon.errors import ConfigError, DropError, EnvironmentFault, SmdaemonError, fault
from smdaemon.paths import exists
from smdaemon.sources.chunks import Grid, boxes
from smdaemon.sources.files import READ_BYTES
from smdaemon.sources.orbax_layout import MANIFEST
from smdaemon.sources.orbax_tree import Stored, Tree, directory_of
from smdaemon.tensorbundle.dtypes import STRING, DType, dtype_named
from smdaemon.tensorbundle.tensors import Buffer

if TYPE_CHECKING:
    import numpy as np

BAND_BYTES = 256 << 20
"""What several chunks together may take of host memory."""
CHUNK_LIMIT_BYTES = 4 << 30
"""Twice what Orbax makes of its own accord."""

_INDEX_LIMIT_BYTES = 64 << 20  # of the places of the chunks inside one shard of zarr 3
_INDEX_ENTRY_BYTES = 16
_NODE_CACHE_BYTES = 64 << 20  # of OCDBT's tree: without, each read would descend it anew
_THREADS = 4
_WORDS = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}  # numpy moves whole words fastest

# tensorstore has no exceptions of its own
_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, OSError, MemoryError)
# what the operating system said, and where the notes begin that tensorstore puts behind a message
_OS_ERROR = re.compile(r"\[(?:OS error |os_error_code=')([0-9]+)")
_NOTES = re.compile(r" \[[\w ]+[=:]")


def tensorstore() -> Any:
    """The module; ConfigError `extra-missing` where it is not installed."""
    try:
        import tensorstore as module
    except ImportError as error:
        raise ConfigError(
            "extra-missing",
            "an Orbax checkpoint is read with tensorstore, which is not installed",
            remedy="install the extra 'orbax', where smdaemon is: pip install 'smdaemon[orbax]'",
        ) from error
    return module


class _Opened(NamedTuple):
    """An array that was opened."""

    name: str
    spec: dict[str, Any]
    store: Any
    dtype: DType
    grid: Grid


class OrbaxTensor:
    """An array of a checkpoint."""

    def __init__(self, opened: _Opened, arrays: "Arrays") -> None:
        self.dtype = opened.dtype
        self.shape = opened.grid.shape
        self.nbytes = prod(self.shape) * self.dtype.itemsize
        grid = opened.grid
        self._band_bytes = grid.band_chunks * grid.chunk_bytes
        self._spools = grid.band_chunks > 1 and self._band_bytes > BAND_BYTES
        self._is_cached = self.nbytes > READ_BYTES
        if self._spools:
            self.working_bytes = grid.chunk_bytes
        elif self._is_cached:
            self.working_bytes = _cache_bytes(self._band_bytes)
        else:
            self.working_bytes = self._band_bytes
        self._opened = opened
        self._arrays = arrays

    def buffers(self) -> Iterator[Buffer]:
        """The value in buffers of at most READ_BYTES."""
        if self.nbytes == 0:
            return
        if self._spools:
            yield from self._spooled()
            return
        with self._arrays.failing(self._opened.name):
            _check_allocatable(self._band_bytes)
            store = self._opened.store
            if self._is_cached:
                store = self._arrays.cached(self._opened.spec, self._band_bytes)
        for box in boxes(self.shape, READ_BYTES // self.dtype.itemsize):
            with self._arrays.failing(self._opened.name):
                part = store[box].read(order="C").result()
            yield memoryview(part.reshape(-1).view("u1"))

    def _spooled(self) -> Iterator[Buffer]:
        """The value band by band, each put together in a temporary file."""
        import tempfile

        grid = self._opened.grid
        for band in grid.bands():
            lengths = tuple(part.stop - part.start for part in band)
            with tempfile.TemporaryFile() as spool:
                whole = _mapped(spool.fileno(), lengths, grid.itemsize)
                for chunk in grid.chunks_in(band):
                    with self._arrays.failing(self._opened.name):
                        _check_allocatable(grid.chunk_bytes)
                        part = self._opened.store[chunk].read(order="C").result()
                    place = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(chunk, band, strict=True))
                    whole[place] = part.view(whole.dtype)
                content = memoryview(whole.reshape(-1).view("u1"))  # type: ignore[arg-type]  # numpy arrays are buffers
                for start in range(0, len(content), READ_BYTES):
                    yield content[start : start + READ_BYTES]


class Arrays:
    """The arrays of one item. `check_unchanged` raises where a file of it changed: then that is why a read failed."""

    def __init__(self, item: Path, tree: Tree, check_unchanged: Callable[[], None]) -> None:
        self._tensorstore = tensorstore()
        self._item = item
        self._tree = tree
        self._check_unchanged = check_unchanged
        self._directory = os.path.realpath(item)
        self._ocdbt = exists(item / MANIFEST)
        self._context = self._tensorstore.Context(
            {
                "cache_pool": {"total_bytes_limit": 0},
                "cache_pool#ocdbt": {"total_bytes_limit": _NODE_CACHE_BYTES},
                "file_io_concurrency": {"limit": _THREADS},
                "data_copy_concurrency": {"limit": _THREADS},
            }
        )

    def tensors(self) -> dict[str, OrbaxTensor]:
        """Every array by its name, opened; DropError where one is unsound."""
        pending = [(stored.name, spec, self._open(spec, stored.name)) for stored, spec in self._specs()]
        return {name: OrbaxTensor(self._finished(name, spec, future), self) for name, spec, future in pending}

    def cached(self, spec: dict[str, Any], nbytes: int) -> Any:
        """An array that keeps so many bytes of decoded chunks."""
        pool = {"cache_pool": {"total_bytes_limit": _cache_bytes(nbytes)}}
        context = self._tensorstore.Context(pool, self._context)
        return self._tensorstore.open(self._tensorstore.Spec(spec), open=True, read=True, context=context).result()

    @contextmanager
    def failing(self, name: str) -> Iterator[None]:
        """Turns what tensorstore raises about an array into an error that says who must act."""
        try:
            yield
        except SmdaemonError:
            raise
        except _FAILURES as error:
            self._check_unchanged()
            raise _failure(error, f"{name!r} of {str(self._item)!r}") from error

    def _specs(self) -> Iterator[tuple[Stored, dict[str, Any]]]:
        try:
            self._directory.encode()
        except UnicodeEncodeError:
            raise DropError(
                "name-invalid", f"the path {self._directory!r} is not Unicode, as tensorstore needs it"
            ) from None
        for stored in self._tree.arrays:
            store: dict[str, Any] = {"driver": "file", "path": f"{self._directory}/"}
            if self._ocdbt:
                path = f"{stored.path}/"
                store = {"driver": "ocdbt", "base": store, "path": path, "cache_pool": "cache_pool#ocdbt"}
            else:
                directory_of(self._item, stored)
                store["path"] += f"{stored.path}/"
            yield (
                stored,
                {
                    "driver": "zarr3" if self._tree.zarr3 else "zarr",
                    "kvstore": store,
                    "recheck_cached_data": "open",
                    "recheck_cached_metadata": "open",
                    "fill_missing_data_reads": not self._tree.complete_data,
                },
            )

    def _open(self, spec: dict[str, Any], name: str) -> Any:
        with self.failing(name):
            return self._tensorstore.open(self._tensorstore.Spec(spec), open=True, read=True, context=self._context)

    def _finished(self, name: str, spec: dict[str, Any], future: Any) -> _Opened:
        with self.failing(name):
            store = future.result()
            shape, kind = tuple(store.shape), store.dtype.name
            layout = store.chunk_layout
            chunk = tuple(max(size, 1) for size in layout.read_chunk.shape or shape)
            shard = tuple(layout.write_chunk.shape or chunk)
        try:
            dtype = dtype_named(kind)
        except DropError:
            dtype = STRING
        if dtype is STRING:  # it is never an array's
            raise DropError("dtype-unsupported", f"the tensor {name!r} has the dtype {kind!r}")
        grid = Grid(shape, chunk, dtype.itemsize)
        in_shard = prod(-(-outer // inner) for outer, inner in zip(shard, chunk, strict=True))
        if grid.chunk_bytes > CHUNK_LIMIT_BYTES or in_shard * _INDEX_ENTRY_BYTES > _INDEX_LIMIT_BYTES:
            raise DropError(
                "source-header-too-large",
                f"{name!r} is stored in chunks of {grid.chunk_bytes} bytes, {in_shard} in a file; "
                f"no more than {CHUNK_LIMIT_BYTES} are taken, and {_INDEX_LIMIT_BYTES // _INDEX_ENTRY_BYTES} in a file",
                remedy="save it in smaller chunks, with orbax.checkpoint.SaveArgs(chunk_byte_size=...)",
            )
        return _Opened(name, spec, store, dtype, grid)


def _failure(error: Exception, what: str) -> SmdaemonError:
    """What a failure of tensorstore means, by who must act."""
    if isinstance(error, MemoryError):
        return EnvironmentFault("memory-short", f"reading {what} needs more memory than there is", retryable=True)
    number = _OS_ERROR.search(str(error))
    if number is not None and int(number[1]) != errno.ENOENT:
        return fault(OSError(int(number[1]), os.strerror(int(number[1]))), f"reading {what}")
    text = _NOTES.split(str(error), maxsplit=1)[0]
    return DropError("source-corrupt", f"{what} cannot be read: {text}")


def _cache_bytes(nbytes: int) -> int:
    """The cache that keeps so many bytes of decoded chunks: more than that tensorstore needs to tell them."""
    return nbytes + nbytes // 4 + (16 << 20)


def _check_allocatable(nbytes: int) -> None:
    """MemoryError where the system would not even promise so much memory; tensorstore would end the process instead."""
    import numpy as np

    np.empty(nbytes, "u1")


def _mapped(descriptor: int, shape: tuple[int, ...], itemsize: int) -> "np.ndarray[Any, Any]":
    """An array that lies in an empty temporary file. Its space is reserved first: a full disk is an error then, not a signal."""
    import mmap

    import numpy as np

    nbytes = prod(shape) * itemsize
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
        return np.frombuffer(mmap.mmap(descriptor, nbytes), _WORDS[itemsize]).reshape(shape)
    except OSError as error:
        raise fault(error, "putting the chunks of an array together in a temporary file") from error
