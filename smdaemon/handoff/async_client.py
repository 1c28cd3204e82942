"""The trainer's side for trio programs: the same Sidecar, its blocking calls in threads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from smdaemon.handoff.client import Handle, Outcome, Sidecar, attach


class AsyncSidecar:
    """A Sidecar for trio tasks; `sidecar` is the one that works."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar

    async def reserve(self, spec: Any, **options: Any) -> bool:
        """As `Sidecar.reserve`."""
        return await trio.to_thread.run_sync(partial(self.sidecar.reserve, spec, **options))

    async def save(self, step: int, tree: Any, **options: Any) -> Handle:
        """As `Sidecar.save`: cancelling it does not stop a copy under way.

        It runs in a thread of trio's, and with torch and cupy the current stream is a thread's: tensors on a GPU must be computed, and
        overwritten, on the device's default stream. Where they are not, call `sidecar.save`, which stays in the caller's thread for milliseconds.
        """
        return await trio.to_thread.run_sync(partial(self.sidecar.save, step, tree, **options))

    async def barrier(self, handle: Handle) -> None:
        """As `Handle.barrier`."""
        await trio.to_thread.run_sync(handle.barrier, abandon_on_cancel=True)

    async def staged(self, handle: Handle) -> bool:
        """As `Handle.staged`."""
        return await trio.to_thread.run_sync(handle.staged, abandon_on_cancel=True)

    async def result(self, handle: Handle) -> Outcome:
        """As `Handle.result`; a deadline is trio's to give."""
        return await trio.to_thread.run_sync(handle.result, abandon_on_cancel=True)


@asynccontextmanager
async def attach_async(socket: str | Path, **options: Any) -> AsyncIterator[AsyncSidecar]:
    """As `attach`, in an `async with` block."""
    sidecar = await trio.to_thread.run_sync(partial(attach, socket, **options))
    try:
        yield AsyncSidecar(sidecar)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
            await trio.to_thread.run_sync(sidecar.close, abandon_on_cancel=True)


_CLOSE_SECONDS = 60.0
