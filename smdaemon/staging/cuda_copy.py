"""Copying from CUDA devices into shared memory: pinned buffers, and one thread for each device."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from smdaemon.errors import EnvironmentFault
from smdaemon.staging.base import Stager
from smdaemon.staging.cuda import CudaError, CudaRuntime, find_runtime
from smdaemon.staging.shards import Rows

_log = logging.getLogger("smdaemon.handoff")

ALREADY_REGISTERED = 712
"""cudaErrorHostMemoryAlreadyRegistered."""


class CudaStager(Stager):
    """What the stagers of CUDA's devices share: `prepare` pins a buffer, so that a device writes to it without the host's help."""

    def __init__(self, find: Callable[[], CudaRuntime | None] = find_runtime) -> None:
        self.find = find
        # the device that tensors were last seen on, for which memory is pinned: another would be opened only for this
        self._device: int | None = None
        # by address, whether CUDA pinned the buffer for us
        self._prepared: dict[int, bool] = {}

    def saw_device(self, device: int) -> None:
        """A tensor is on that device."""
        self._device = device

    def prepare(self, buffer: memoryview) -> None:
        """Pin the buffer; where that is refused copies are slower, which is logged once in a process."""
        address = address_of(buffer)
        if self._device is None or address in self._prepared or (runtime := self.find()) is None:
            return
        try:
            _in_thread(self._device, runtime, lambda: runtime.register(address, len(buffer)))
        except CudaError as error:
            self._prepared[address] = False
            if error.status != ALREADY_REGISTERED:
                _warn_unpinned(error)
        else:
            self._prepared[address] = True

    def release(self, buffer: memoryview) -> None:
        """Undo `prepare`."""
        address = address_of(buffer)
        if self._device is None or not self._prepared.pop(address, False) or (runtime := self.find()) is None:
            return
        try:
            _in_thread(self._device, runtime, lambda: runtime.unregister(address))
        except CudaError as error:
            _log.warning("CUDA does not let go of a piece of shared memory: %s", error)


def address_of(buffer: memoryview) -> int:
    """Where the buffer lies in this process."""
    import numpy as np

    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def contiguous_rows(buffer: memoryview, source: int) -> Rows:
    """The copy that fills the whole buffer from the address `source`."""
    return Rows(address_of(buffer), len(buffer), source, len(buffer), len(buffer), 1)


def copy_out(runtime: CudaRuntime, work: Mapping[int, Callable[[], Iterable[Rows]]]) -> None:
    """Copy from each device what its callable names, by addresses, and wait for it; what it names must live until then.

    One thread for each device, because threads of the trainer must keep the current device they have. EnvironmentFault
    `handoff-tensor` where a device fails; no device writes any more then.
    """
    if not work:
        return
    with ThreadPoolExecutor(len(work), thread_name_prefix="handoff-cuda") as pool:
        running = {device: pool.submit(_copy_from, runtime, device, rows) for device, rows in work.items()}
    for device, done in running.items():
        try:
            done.result()
        except CudaError as error:
            raise EnvironmentFault(
                "handoff-tensor",
                f"CUDA device {device} did not give its tensors: {error}",
                remedy="look for the error of CUDA in the trainer's own output; save again once it is mended",
            ) from error


def _copy_from(runtime: CudaRuntime, device: int, rows: Callable[[], Iterable[Rows]]) -> None:
    runtime.use_device(device)
    stream = runtime.new_stream()
    try:
        try:
            for each in rows():
                runtime.copy(each, stream)
        finally:
            # also after an error: what was set off before it still writes
            runtime.wait(stream)
    finally:
        runtime.end_stream(stream)


def _in_thread(device: int, runtime: CudaRuntime, act: Callable[[], None]) -> None:
    def run() -> None:
        runtime.use_device(device)
        act()

    with ThreadPoolExecutor(1, thread_name_prefix="handoff-cuda") as pool:
        pool.submit(run).result()


_warned = threading.Event()


def _warn_unpinned(error: CudaError) -> None:
    if not _warned.is_set():
        _warned.set()
        _log.warning("CUDA cannot pin the shared memory, so that copies are slower: %s", error)
