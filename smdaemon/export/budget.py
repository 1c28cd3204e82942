"""The byte budget: how much host memory all running exports may hold together, page cache aside."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from smdaemon.errors import EnvironmentFault
from smdaemon.tensorbundle.tensors import CHUNK_BYTES

_PER_TENSOR = 4096  # graph nodes, index entry and object graph of one tensor, measured with 20,000 of them


def needed(tensors: int, threads: int) -> int:
    """Bytes that an export of so many tensors by so many threads holds: its chunks and its graph, never its values.

    What a source takes to be read comes on top: its `working_bytes` for each thread.
    """
    return threads * 2 * CHUNK_BYTES + tensors * _PER_TENSOR


class ByteBudget:
    """Bytes that are reserved and given back; who waits is served in order, so a large export is not starved.

    `total` may be set at any time; what is held stays held.
    """

    def __init__(self, total: int) -> None:
        self.used = 0
        self._total = total
        self._turn = trio.StrictFIFOLock()
        self._changed = trio.Event()

    @property
    def total(self) -> int:
        """Bytes that all together may hold."""
        return self._total

    @total.setter
    def total(self, nbytes: int) -> None:
        self._total = nbytes
        self._changed.set()

    @asynccontextmanager
    async def reserved(self, nbytes: int, working_bytes: int = 0) -> AsyncIterator[None]:
        """Hold `nbytes` of the budget; EnvironmentFault `memory-budget` where it can never be had.

        `working_bytes` come on top, as far as there are any: who takes more than there is in all runs alone.
        """
        self._check(nbytes)
        async with self._turn:  # whoever waits here waits behind the one who waits for bytes
            self._check(nbytes)
            while self.used + (held := min(nbytes + working_bytes, self.total)) > self.total:
                self._changed = trio.Event()
                await self._changed.wait()
                self._check(nbytes)
            self.used += held
        try:
            yield
        finally:
            self.used -= held
            self._changed.set()

    def _check(self, nbytes: int) -> None:
        if nbytes > self.total:
            message = f"the export needs {nbytes} bytes of host memory, the budget is {self.total}"
            raise EnvironmentFault("memory-budget", message)
