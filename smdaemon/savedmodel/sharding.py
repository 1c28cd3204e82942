"""Which values lie in which data file: the policies of `tf.train.experimental`, and what a callback of one's own gets and gives.

A callback takes the values in the order of the object tree and gives the data files, each a list of pieces; every value must be
there whole, in one piece or in several that fill it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, TypeAlias

from smdaemon.errors import DropError
from smdaemon.placement import parse_device
from smdaemon.tensorbundle.dtypes import STRING, DType
from smdaemon.tensorbundle.slices import PartitionedTensor, TensorSlice
from smdaemon.tensorbundle.tensors import Buffer, Tensor


@dataclass(frozen=True)
class ShardableTensor:
    """A value that is to be placed: its key in the bundle, its dtype and shape, its bytes, the device of its variable."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    device: str = ""


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` (exclusive) of the value of that key; None: the whole value."""

    key: str
    rows: tuple[int, int] | None = None


Shards: TypeAlias = Sequence[Sequence[Piece]]


class ShardingCallback(Protocol):
    """Says what lies in each data file."""

    def __call__(self, tensors: Sequence[ShardableTensor], /) -> Shards:
        """The data files."""
        ...


@dataclass(frozen=True)
class ShardByTaskPolicy:
    """One data file for each task that variables live on, in the order of their names."""

    def __call__(self, tensors: Sequence[ShardableTensor], /) -> Shards:
        """The data files."""
        shards: dict[str, list[Piece]] = {}
        for tensor in tensors:
            device = parse_device(tensor.device)
            task = f"{device.job or ''}/{device.replica or 0:09}/{device.task or 0:09}"
            shards.setdefault(task, []).append(Piece(tensor.key))
        return [shards[task] for task in sorted(shards)]


@dataclass(frozen=True)
class MaxShardSizePolicy:
    """No data file has more than `max_shard_size` bytes of values.

    What does not fit the rest of a file is cut between rows. A single row, a scalar, a string tensor or a tensor of a dtype that
    TensorFlow cannot join again may be larger than a file may be: it gets one of its own.
    """

    max_shard_size: int

    def __post_init__(self) -> None:
        if self.max_shard_size < 1:
            raise DropError("option-refused", f"a data file of at most {self.max_shard_size} bytes holds nothing")

    def __call__(self, tensors: Sequence[ShardableTensor], /) -> Shards:
        """The data files."""
        shards: list[list[Piece]] = [[]]
        oversized: list[list[Piece]] = []
        left = self.max_shard_size
        for tensor in tensors:
            for piece, size in self._pieces(tensor, left):
                if size > self.max_shard_size:
                    oversized.append([piece])
                    continue
                if size > left:
                    shards.append([])
                    left = self.max_shard_size
                shards[-1].append(piece)
                left -= size
        return [shard for shard in (*shards, *oversized) if shard]

    def _pieces(self, tensor: ShardableTensor, left: int) -> Iterator[tuple[Piece, int]]:
        """The pieces of a tensor and their bytes, where `left` bytes are free in the file that is being filled."""
        rows = tensor.shape[0] if tensor.shape else 0
        row_bytes = prod(tensor.shape[1:]) * tensor.dtype.itemsize
        if tensor.nbytes <= left or not (tensor.dtype.sliceable and rows and row_bytes):
            yield Piece(tensor.key), tensor.nbytes
            return
        start = 0
        while start < rows:
            count = left // row_bytes
            if not count:
                left = self.max_shard_size
                count = max(1, left // row_bytes)
            stop = min(rows, start + count)
            size = (stop - start) * row_bytes
            yield Piece(tensor.key, None if (start, stop) == (0, rows) else (start, stop)), size
            left = left - size if size <= left else self.max_shard_size
            start = stop


@dataclass(frozen=True)
class _Rows:
    """Some rows of a tensor. What lies before them is read and passed over: no tensor need be able to seek."""

    tensor: Tensor
    start: int
    stop: int

    @property
    def dtype(self) -> DType:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.tensor.shape[1:])

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def buffers(self) -> Iterator[Buffer]:
        row_bytes = prod(self.tensor.shape[1:]) * self.dtype.itemsize
        skip, rest = self.start * row_bytes, self.nbytes
        for buffer in self.tensor.buffers():
            if not rest:
                return
            part = memoryview(buffer)[skip : skip + rest]
            skip = max(0, skip - len(buffer))
            rest -= len(part)
            if part:
                yield part


def sharded(
    tensors: Mapping[str, Tensor | PartitionedTensor], callback: ShardingCallback, devices: Mapping[str, str]
) -> tuple[dict[str, Tensor | PartitionedTensor], list[list[str | tuple[str, TensorSlice]]]]:
    """The tensors, cut where the callback cuts them, and the content of each data file as `write_bundle` takes it.

    `devices` are those of the variables, by key. Raises DropError `option-refused` where the callback leaves out a value or gives
    one twice, or cuts what cannot be cut.
    """
    described = [
        ShardableTensor(key, tensor.dtype, tensor.shape, _nbytes(tensor), devices.get(key, ""))
        for key, tensor in tensors.items()
    ]
    shards = [list(shard) for shard in callback(described)]
    pieces: dict[str, list[Piece]] = {key: [] for key in tensors}
    for piece in (piece for shard in shards for piece in shard):
        if piece.key not in pieces:
            raise _refused(f"it places {piece.key!r}, which is no value of the model")
        pieces[piece.key].append(piece)
    cut = {key: _cut(key, tensors[key], found) for key, found in pieces.items()}
    if not shards:
        raise _refused("it makes no data file")
    return cut, [[_named(piece, tensors[piece.key]) for piece in shard] for shard in shards]


def _nbytes(tensor: Tensor | PartitionedTensor) -> int:
    if isinstance(tensor, PartitionedTensor):
        return sum(part.nbytes for _, part in tensor.parts)
    return tensor.nbytes


def _cut(key: str, tensor: Tensor | PartitionedTensor, pieces: list[Piece]) -> Tensor | PartitionedTensor:
    if len(pieces) == 1 and pieces[0].rows is None:
        return tensor
    if not pieces or any(piece.rows is None for piece in pieces):
        raise _refused(f"it places {key!r} {'twice' if pieces else 'nowhere'}")
    if isinstance(tensor, PartitionedTensor) or tensor.dtype is STRING or not tensor.shape:
        raise _refused(f"it cuts {key!r}, which cannot be cut into rows")
    parts: list[tuple[TensorSlice, Tensor]] = []
    for piece in pieces:
        assert piece.rows is not None
        parts.append((_slice(piece, tensor), _Rows(tensor, *piece.rows)))
    return PartitionedTensor(tensor.dtype, tensor.shape, parts)


def _slice(piece: Piece, tensor: Tensor | PartitionedTensor) -> TensorSlice:
    assert piece.rows is not None
    start, stop = piece.rows
    return TensorSlice(((start, stop - start), *((0, -1) for _ in tensor.shape[1:])))


def _named(piece: Piece, tensor: Tensor | PartitionedTensor) -> str | tuple[str, TensorSlice]:
    return piece.key if piece.rows is None else (piece.key, _slice(piece, tensor))


def _refused(why: str) -> DropError:
    return DropError("option-refused", f"experimental_sharding_callback cannot be followed: {why}")
