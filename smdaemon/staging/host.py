"""Arrays in host memory: numpy's, and whatever numpy reads in place. Copied by several threads at once."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from smdaemon.staging.base import Spec, Stager, make_spec, name_of
from smdaemon.tensorbundle.dtypes import dtype_named

PIECE_BYTES = 16 << 20
"""One copy of one thread. Large enough to go without the interpreter for milliseconds, small enough that threads end together."""

THREAD_BYTES = 4 << 20
"""What a thread more must have to copy: below this it takes longer to start it."""

Piece = tuple[Any, Any]
"""Two numpy arrays of one shape, of one dtype but for the order of its bytes: where to copy to, and from."""


class HostStager(Stager):
    """Arrays that the trainer may overwrite at once: they are copied before a save returns."""

    name = "host"
    guarantee = "the bytes are copied before save returns, unless the mode is direct"
    snapshots = False

    def claims(self, tensor: Any) -> bool:
        """Whether it is a numpy array, or a number."""
        import numpy as np

        return isinstance(tensor, np.ndarray | np.generic | bool | int | float | complex)

    def spec(self, tensor: Any) -> Spec:
        """See `Stager`. Numbers of Python are int64, float64, complex128 or bool."""
        import numpy as np

        array = np.asarray(tensor)
        return make_spec(name_of(array.dtype), array.shape)

    def snapshot(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Not cheap here."""
        raise NotImplementedError

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:
        """See `Stager`."""
        import numpy as np

        arrays = [np.asarray(tensor) for tensor in tensors]
        copy_pieces(
            (
                piece
                for array, buffer in zip(arrays, into, strict=True)
                for piece in pieces(as_array(buffer, name_of(array.dtype), array.shape), array)
            ),
            threads,
        )


def as_array(buffer: memoryview, dtype_name: str, shape: tuple[int, ...]) -> Any:
    """The buffer as a little-endian, row-major numpy array over the same memory."""
    import numpy as np

    dtype = dtype_named(dtype_name).numpy
    if not len(buffer):
        return np.empty(shape, dtype)
    return np.frombuffer(buffer, dtype).reshape(shape)


def bytes_at(address: int, nbytes: int) -> Any:
    """Host memory as a numpy array of bytes; its owner must outlive the array. `nbytes` is not 0."""
    import ctypes

    import numpy as np

    return np.frombuffer(memoryview((ctypes.c_ubyte * nbytes).from_address(address)), np.uint8)


def pieces(target: Any, source: Any) -> Iterator[Piece]:
    """The copies that make the array `target` equal to the array `source`: of `PIECE_BYTES` each, where they can be cut so."""
    import numpy as np

    if not source.size:
        return
    if target.flags.c_contiguous and source.flags.c_contiguous and source.dtype.isnative and target.dtype.isnative:
        # as plain bytes: the fastest copy there is, which knows no dtype
        target, source = target.reshape(-1).view(np.uint8), source.reshape(-1).view(np.uint8)
    if not source.ndim:
        yield target, source
        return
    rows = max(1, PIECE_BYTES * len(source) // source.nbytes)
    for start in range(0, len(source), rows):
        yield target[start : start + rows], source[start : start + rows]


def copy_pieces(work: Iterable[Piece], threads: int) -> None:
    """Copy all pieces, by at most so many threads at once, one of which is the caller's."""
    listed = list(work)
    helpers = min(threads - 1, sum(target.nbytes for target, _ in listed) // THREAD_BYTES)
    pending = iter(listed)
    turn = threading.Lock()

    def copy_some() -> None:
        import numpy as np

        while True:
            with turn:
                piece = next(pending, None)
            if piece is None:
                return
            np.copyto(*piece, casting="equiv")

    if helpers <= 0:
        copy_some()
        return
    with ThreadPoolExecutor(helpers, thread_name_prefix="handoff-copy") as pool:
        started = [pool.submit(copy_some) for _ in range(helpers)]
        copy_some()
        for done in started:
            done.result()
