"""JAX's arrays on CPUs. Their memory is the host's: numpy reads it in place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from smdaemon.staging.base import SUB_BYTE, name_of
from smdaemon.staging.host import as_array, copy_pieces, pieces
from smdaemon.staging.jax_arrays import JaxStager, apart, copies, jax_errors, pieces_of, plain, refuse_deleted


class Held(NamedTuple):
    """The values that an array had: its parts' places, and numpy's views of them. While a view is there, its memory is not given away."""

    dtype: str
    shape: tuple[int, ...]
    views: list[tuple[tuple[slice, ...], Any]]


class JaxCpuStager(JaxStager):
    """Snapshots that copy nothing, where the values have been computed: they are views.

    A step that donates an array of which there is a view takes a copy of it: JAX sees the view. Of what is still being computed there
    is no view yet, so a copy is launched. (A copy of what is there already would not be launched but made at once: JAX thinks copies
    cheap, and takes a tenth of a second for 100 MB.)
    """

    name = "jax-cpu"
    views = True
    guarantee = "save returns at once, with the values that the arrays have then; a step that donates one while it is copied out takes a copy"

    def claims_platform(self, platform: str) -> bool:
        """See `JaxStager`."""
        return platform == "cpu"

    def snapshot(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """See `Stager`."""
        return apart(lambda: _snapshot(tensors))

    def copy(self, tensors: Sequence[Any], into: Sequence[memoryview], threads: int) -> None:
        """See `Stager`."""
        with jax_errors():
            held = [tensor if isinstance(tensor, Held) else _hold(plain(tensor)) for tensor in tensors]
        copy_pieces(
            (
                piece
                for each, buffer in zip(held, into, strict=True)
                for index, view in each.views
                for piece in pieces(as_array(buffer, each.dtype, each.shape)[(*index, ...)], view)
            ),
            threads,
        )


def _snapshot(tensors: Sequence[Any]) -> list[Any]:
    with jax_errors():
        for tensor in tensors:
            refuse_deleted(tensor)
        arrays = [plain(tensor) for tensor in tensors]
        computed = _computed(arrays)
        launched = iter(copies([array for array, ready in zip(arrays, computed, strict=True) if not ready]))
        return [_hold(array) if ready else next(launched) for array, ready in zip(arrays, computed, strict=True)]


def _computed(arrays: Sequence[Any]) -> list[bool]:
    """Which arrays have been computed. The results of one step all have or have not, so that what is launched is always the same list."""
    computed = [array.is_ready() for array in arrays]
    if any(computed) and not all(computed):
        # perhaps they were while we asked: for each other list JAX would compile anew
        computed = [array.is_ready() for array in arrays]
    return computed


def _hold(array: Any) -> Held:
    """Views of all parts; waits until they have been computed. RuntimeError of JAX where the array was deleted."""
    import numpy as np

    name = name_of(array.dtype)
    if array.is_fully_replicated and name not in SUB_BYTE:
        # the usual case, which thousands of tensors should not make slow: a view, of which JAX keeps nothing
        return Held(name, array.shape, [((), np.asarray(array))])
    return Held(name, array.shape, [(index, np.asarray(values)) for index, values in pieces_of(array)])
