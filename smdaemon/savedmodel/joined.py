"""One value out of the several tensors that a distributed job makes of it: partitions joined, replicas reduced. All lazy."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from smdaemon.errors import DropError
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, Buffer, Tensor


def joined_axis(shape: Sequence[int], parts: Sequence[Sequence[int]]) -> int | None:
    """The axis along which tensors of the shapes `parts` make one of `shape`; None where there is none. -1 fits any size."""
    if any(len(part) != len(shape) for part in parts):
        return None
    for axis, size in enumerate(shape):
        others = [other for other in range(len(shape)) if other != axis]
        total = sum(part[axis] for part in parts)
        if size in {-1, total} and all(
            len({part[other] for part in parts}) == 1 and shape[other] in {-1, parts[0][other]} for other in others
        ):
            return axis
    return None


class JoinedTensor:
    """The partitions of a variable as one Tensor, joined along `axis`; they are read side by side, a chunk at a time.

    Partitions of strings can be joined along the first axis only.
    """

    def __init__(self, parts: Sequence[Tensor], axis: int) -> None:
        first = parts[0]
        self.dtype = first.dtype
        self.shape = (*first.shape[:axis], sum(part.shape[axis] for part in parts), *first.shape[axis + 1 :])
        self._parts = parts
        self._axis = axis

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return sum(part.nbytes for part in self._parts)

    def buffers(self) -> Iterator[Buffer]:
        """The value."""
        rows = prod(self.shape[: self._axis])
        if rows == 1:
            for part in self._parts:
                yield from part.buffers()
            return
        if self.nbytes:
            yield from self._interleaved(rows)

    def _interleaved(self, rows: int) -> Iterator[Buffer]:
        """Of each row the bytes of every partition; as many rows at once as a chunk holds."""
        widths = [prod(part.shape[self._axis :]) * self.dtype.itemsize for part in self._parts]
        readers = [_Reader(part) for part in self._parts]
        step = CHUNK_BYTES // sum(widths)
        for start in range(0, rows, max(1, step)):
            if not step:  # a row is more than a chunk
                for reader, width in zip(readers, widths, strict=True):
                    for position in range(0, width, CHUNK_BYTES):
                        yield reader.take(min(CHUNK_BYTES, width - position))
                continue
            yield _side_by_side(readers, widths, min(step, rows - start))
        for reader in readers:
            reader.finish()


def _side_by_side(readers: Sequence["_Reader"], widths: Sequence[int], rows: int) -> Buffer:
    import numpy as np

    chunk = np.empty((rows, sum(widths)), np.uint8)
    column = 0
    for reader, width in zip(readers, widths, strict=True):
        chunk[:, column : column + width] = np.frombuffer(reader.take(rows * width), np.uint8).reshape(rows, width)
        column += width
    return memoryview(chunk.reshape(-1))  # type: ignore[arg-type] # numpy's stubs do not call an array a buffer


class _Reader:
    """The bytes of a tensor, as many at a time as are asked for."""

    def __init__(self, tensor: Tensor) -> None:
        self._buffers = iter(tensor.buffers())
        self._rest = bytearray()

    def take(self, size: int) -> bytes:
        while len(self._rest) < size:
            buffer = next(self._buffers, None)
            if buffer is None:
                raise DropError("source-changed", "a partition gives fewer bytes than its shape promises")
            self._rest += buffer
        taken = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return taken

    def finish(self) -> None:
        """Ask for the end: a source may compare its checksum there."""
        if self._rest or any(len(buffer) for buffer in self._buffers):
            raise DropError("source-changed", "a partition gives more bytes than its shape promises")


class ReducedTensor:
    """The sum or the mean of a variable's replicas, of one dtype and shape, as one Tensor.

    So TensorFlow reads a variable that every replica writes on its own, as the moving averages of a normalisation.
    """

    def __init__(self, replicas: Sequence[Tensor], *, mean: bool) -> None:
        self.dtype = replicas[0].dtype
        self.shape = replicas[0].shape
        self._replicas = replicas
        self._mean = mean

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return self._replicas[0].nbytes

    def buffers(self) -> Iterator[Buffer]:
        """The value."""
        readers = [_Reader(replica) for replica in self._replicas]
        size = self.nbytes
        for position in range(0, size, CHUNK_BYTES):
            yield self._reduced([reader.take(min(CHUNK_BYTES, size - position)) for reader in readers])
        for reader in readers:
            reader.finish()

    def _reduced(self, chunks: Sequence[bytes]) -> Buffer:
        import numpy as np

        total: np.ndarray[Any, Any] = np.frombuffer(chunks[0], self.dtype.numpy).copy()
        for chunk in chunks[1:]:
            total += np.frombuffer(chunk, self.dtype.numpy)
        if self._mean:
            # integers stay integers; a float64 between could not hold large ones
            total = total // len(chunks) if total.dtype.kind in "iu" else (total / len(chunks)).astype(self.dtype.numpy)
        return memoryview(total.view(np.uint8))  # type: ignore[arg-type] # numpy's stubs do not call an array a buffer
