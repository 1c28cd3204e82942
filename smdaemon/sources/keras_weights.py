"""Keras weights, `.weights.h5`: what `model.save_weights` writes, one HDF5 file.

Each tensor has the path that Keras laid it out under, such as `layers/dense/vars/0` or `optimizer/vars/1`; Keras numbers the
variables of a layer in the order in which it made them. A compiled model's optimizer counts its steps in `optimizer/vars/0`,
which is the metadata `step`.

HDF5's structure is read with h5py, an extra of smdaemon that is imported when the first file is opened; the values, which Keras
stores in one piece each, are read from their place in the file. So no value passes through HDF5, and nothing that it may hold
beside them is followed: links, values in other files, virtual and compressed ones are refused. The superblock follows
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html.

The parts of weights that were saved in several files (`max_shard_size`) are drops of their own: save them in one.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from smdaemon.errors import ConfigError, DropError, SmdaemonError
from smdaemon.sources.extents import StoredExtent
from smdaemon.sources.files import SourceFile
from smdaemon.sources.flax_msgpack import whole_number
from smdaemon.sources.opened import FileSource, check_any, check_name
from smdaemon.sources.values import NumberTensor
from smdaemon.tensorbundle.dtypes import STRING, DType, dtype_named
from smdaemon.tensorbundle.tensors import Tensor

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 52  # of the longest version, up to the end that it tells of
_WIDE_OFFSETS = 8
_STEPS = "optimizer/vars/0"

# what h5py raises about a file that contradicts itself
_FAILURES = (OSError, ValueError, TypeError, LookupError, RuntimeError, ArithmeticError, NotImplementedError)


class KerasWeightsFormat:
    """One `.weights.h5` file."""

    name = "keras-weights"
    suffix = ".weights.h5"
    self_judging = True

    def claims(self, path: Path) -> bool:
        """See `Format`."""
        return path.name.endswith(self.suffix) and not os.path.isdir(path)  # noqa: PTH112 - this one never raises

    def is_complete(self, path: Path) -> bool:
        """Whether the writer closed the file: HDF5 then notes the file's end, and that nobody writes any more."""
        file = SourceFile(path)
        try:
            superblock = _superblock(file)
        finally:
            file.close()
        return superblock is not None and superblock.closed and superblock.end == file.size

    def open(self, path: Path) -> FileSource:
        """See `Format`; ConfigError `extra-missing` without h5py."""
        file = SourceFile(path)
        try:
            _check_whole(file)
            tensors = _tensors(file)
            check_any(tensors, path)
            step = whole_number(tensors.get(_STEPS))
        except BaseException:
            file.close()
            raise
        return FileSource(self.name, path, tensors, {} if step is None else {"step": str(step)}, [file])


class _Superblock(NamedTuple):
    """What the first bytes of a file say: where it ends, and whether its last writer closed it."""

    end: int
    closed: bool


def _superblock(file: SourceFile) -> _Superblock | None:
    """The superblock, of version 0 to 3; None while it is not written yet, DropError where it is none."""
    head = file.read(0, min(file.size, _SUPERBLOCK_BYTES))
    if not any(head[:8]) or (_SIGNATURE.startswith(head[:8]) and len(head) < 9):
        return None
    if not head.startswith(_SIGNATURE):
        raise DropError("source-corrupt", f"{str(file.path)!r} does not begin like an HDF5 file: {head[:8]!r}")
    if len(head) < _SUPERBLOCK_BYTES:
        return None
    # version: where the width of offsets stands, the flags that say who writes, and the base address
    layouts = {0: (13, 20, 24), 1: (13, 20, 28), 2: (9, 11, 12), 3: (9, 11, 12)}
    version = head[8]
    if version not in layouts:
        raise DropError("source-corrupt", f"{str(file.path)!r} has an HDF5 superblock of version {version}, not 0 to 3")
    width, flags, base = layouts[version]
    if head[width] != _WIDE_OFFSETS or any(head[base : base + 8]):
        raise DropError(
            "source-corrupt",
            f"{str(file.path)!r} has offsets of {head[width]} bytes from {head[base : base + 8].hex()}, not of 8 from 0",
        )
    return _Superblock(int.from_bytes(head[base + 16 : base + 24], "little"), head[flags] == 0)


def _check_whole(file: SourceFile) -> None:
    superblock = _superblock(file)
    if superblock is None or superblock.end > file.size:
        told = "52" if superblock is None else str(superblock.end)
        raise DropError("source-truncated", f"{str(file.path)!r} has {file.size} bytes of at least {told}")
    if not superblock.closed:
        raise DropError("source-truncated", f"{str(file.path)!r} was not closed by who wrote it")
    if superblock.end < file.size:
        raise DropError(
            "source-corrupt", f"{str(file.path)!r} has {file.size} bytes, but its superblock tells of {superblock.end}"
        )


class _Reading(io.RawIOBase):
    """A source's file as HDF5 reads it: nothing is opened by a path."""

    def __init__(self, file: SourceFile) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As any file does it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As much as there is up to the file's end."""
        count = max(min(len(buffer), self._file.size - self._position), 0)
        self._file.read_into(self._position, memoryview(buffer).cast("B")[:count])
        self._position += count
        return count


def _tensors(file: SourceFile) -> dict[str, Tensor]:
    h5py = _h5py()
    tensors: dict[str, Tensor] = {}
    with _failing(file), h5py.File(_Reading(file), "r") as root:
        seen = set()
        groups = [("", root)]
        while groups:
            prefix, group = groups.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:
                raise DropError("source-corrupt", f"the group {prefix!r} of {str(file.path)!r} is there twice")
            seen.add(address)
            for key in group:
                name = f"{prefix}{key}"
                check_name(name)
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    raise DropError("source-corrupt", f"{name!r} of {str(file.path)!r} is a link to something else")
                held = group[key]
                if isinstance(held, h5py.Group):
                    groups.append((f"{name}/", held))
                else:
                    tensors[name] = _tensor(file, name, held)
    return dict(sorted(tensors.items()))


def _tensor(file: SourceFile, name: str, held: Any) -> NumberTensor:
    import h5py

    if not isinstance(held, h5py.Dataset):
        raise DropError("source-corrupt", f"{name!r} of {str(file.path)!r} is no array")
    dtype, swap_bytes = _dtype(name, held)
    if held.shape is None:
        raise DropError("source-corrupt", f"{name!r} of {str(file.path)!r} has no value")
    nbytes = prod(held.shape) * dtype.itemsize
    offset = held.id.get_offset()
    if nbytes and offset is None:
        raise DropError(
            "source-corrupt",
            f"the value of {name!r} does not lie in {str(file.path)!r} in one piece",
            remedy="save it with model.save_weights, which neither compresses nor chunks",
        )
    if nbytes and offset + nbytes > file.size:
        raise DropError(
            "source-corrupt",
            f"the value of {name!r} takes {nbytes} bytes from {offset}, but {str(file.path)!r} has {file.size}",
        )
    return NumberTensor(dtype, held.shape, StoredExtent(file, offset or 0, nbytes), swap_bytes)


def _dtype(name: str, held: Any) -> tuple[DType, int]:
    """The dtype of an array, and the width of big-endian words in it; DropError where its bytes are not as numpy has them."""
    import h5py

    found = held.dtype
    said = held.attrs.get("dtype")  # bfloat16 is opaque to HDF5: Keras writes its name beside it
    if found.kind == "V" and found.itemsize == 2 and said == "bfloat16":
        return dtype_named("bfloat16"), 0
    try:
        dtype = STRING if found.kind not in "biufc" else dtype_named(found.newbyteorder("=").name)
    except DropError:
        dtype = STRING
    if dtype is STRING or not held.id.get_type().equal(h5py.h5t.py_create(found, logical=True)):
        raise DropError("dtype-unsupported", f"the tensor {name!r} has the dtype {found.str!r} in its HDF5 file")
    words = found.itemsize // 2 if found.kind == "c" else found.itemsize
    return dtype, words if found.byteorder == ">" else 0


def _h5py() -> Any:
    """The module; ConfigError `extra-missing` where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(
            "extra-missing",
            "the weights of Keras are read with h5py, which is not installed",
            remedy="install the extra 'keras', where smdaemon is: pip install 'smdaemon[keras]'",
        ) from error
    return h5py


@contextmanager
def _failing(file: SourceFile) -> Iterator[None]:
    """Turns what h5py raises about a file into an error that says who must act."""
    try:
        yield
    except SmdaemonError:
        raise
    except _FAILURES as error:
        raise DropError("source-corrupt", f"{str(file.path)!r} cannot be read: {error}") from error
