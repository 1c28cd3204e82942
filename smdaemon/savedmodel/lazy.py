"""A variable of a SavedModel that is read when it is asked for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from smdaemon.tensorbundle.dtypes import DType
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.reader import BundleReader
from smdaemon.tensorbundle.tensors import Buffer

if TYPE_CHECKING:
    import numpy as np


class LazyArray:
    """A variable: its name, its key in the bundle, and its value, which is read anew whenever it is asked for.

    It is a Tensor (see tensorbundle/tensors.py), so that it can be written again without holding it whole, and numpy takes it
    for an array. Slices are put together. `trainable` is None where the model does not say. Whatever looks at the bundle raises
    DropError `bundle-corrupt`, `bundle-missing-shard` or `dtype-unsupported`.
    """

    __slots__ = ("_bundle", "_entry", "full_name", "key", "name", "trainable")

    def __init__(
        self, bundle: BundleReader, key: str, name: str, *, full_name: str = "", trainable: bool | None = None
    ) -> None:
        self.name = name
        self.full_name = full_name or name
        self.key = key
        self.trainable = trainable
        self._bundle = bundle
        self._entry: BundleEntry | None = None

    @property
    def entry(self) -> BundleEntry:
        """Where the value lies; only the index is looked at."""
        if self._entry is None:
            self._entry = self._bundle.entry(self.key)
        return self._entry

    @property
    def dtype(self) -> DType:
        """The element type; `dtype.numpy` is numpy's."""
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self.entry.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return self._bundle.tensor(self.key).nbytes

    def buffers(self) -> Iterator[Buffer]:
        """The value in small buffers (see Tensor)."""
        return self._bundle.tensor(self.key).buffers()

    def read(self) -> "np.ndarray[Any, Any]":
        """The value as a numpy array of the caller's own, its checksum compared."""
        return self._bundle.array(self.key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "np.ndarray[Any, Any]":
        """The value for numpy; it is always a copy, so that `copy=False` raises ValueError."""
        if copy is False:
            raise ValueError("a variable that lies in a file cannot be an array without a copy")
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<LazyArray {self.name!r} {self.dtype} {self.shape}>"
