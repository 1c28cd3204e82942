"""The few calls of the CUDA runtime that are needed, from whichever library the process has.

Raw addresses and plain integers, no library's own types. Every call acts on the current device of its thread, as CUDA has it.
"""

import ctypes
import importlib.util
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from smdaemon.staging.base import loaded
from smdaemon.staging.shards import Rows

HOST_REGISTER_PORTABLE = 1
STREAM_NON_BLOCKING = 1
DEVICE_TO_HOST = 2


class CudaError(Exception):
    """A call of the runtime failed; `status` is the number of a cudaError_t."""

    def __init__(self, call: str, status: int) -> None:
        super().__init__(f"{call} failed with CUDA error {status}")
        self.call = call
        self.status = status


class CudaRuntime(Protocol):
    """What is asked of the runtime; CudaError from each call."""

    def devices(self) -> int:
        """How many devices there are."""
        ...

    def use_device(self, device: int) -> None:
        """Make it the current device of this thread. Opens a context on it if there is none yet."""
        ...

    def register(self, address: int, nbytes: int) -> None:
        """Pin host memory, for all devices."""
        ...

    def unregister(self, address: int) -> None:
        """Undo `register`."""
        ...

    def new_stream(self) -> int:
        """A stream on the current device that waits for no other."""
        ...

    def end_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def copy(self, rows: Rows, stream: int) -> None:
        """Set off a copy from the device to the host; the addresses are those of `rows`."""
        ...

    def wait(self, stream: int) -> None:
        """Wait until all that was set off on a stream is done; other threads run meanwhile."""
        ...


class _CalledRuntime:
    """CudaRuntime over a library: subclasses say how a function of the runtime is called."""

    def call(self, function: str, *arguments: int) -> int:
        """Call a function by its name without "cuda"; the value it gives out, or 0. CudaError where it fails."""
        raise NotImplementedError

    def devices(self) -> int:
        return self.call("GetDeviceCount")

    def use_device(self, device: int) -> None:
        self.call("SetDevice", device)

    def register(self, address: int, nbytes: int) -> None:
        self.call("HostRegister", address, nbytes, HOST_REGISTER_PORTABLE)

    def unregister(self, address: int) -> None:
        self.call("HostUnregister", address)

    def new_stream(self) -> int:
        return self.call("StreamCreateWithFlags", STREAM_NON_BLOCKING)

    def end_stream(self, stream: int) -> None:
        self.call("StreamDestroy", stream)

    def copy(self, rows: Rows, stream: int) -> None:
        if rows.rows == 1 or rows.target_pitch == rows.source_pitch == rows.width:
            self.call("MemcpyAsync", rows.target, rows.source, rows.width * rows.rows, DEVICE_TO_HOST, stream)
            return
        where = (rows.target, rows.target_pitch, rows.source, rows.source_pitch)
        self.call("Memcpy2DAsync", *where, rows.width, rows.rows, DEVICE_TO_HOST, stream)

    def wait(self, stream: int) -> None:
        self.call("StreamSynchronize", stream)


class CupyRuntime(_CalledRuntime):
    """The runtime of cupy: `cupy.cuda.runtime`, which raises."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def call(self, function: str, *arguments: int) -> int:
        """See `_CalledRuntime`."""
        try:
            given = getattr(self._module, function[0].lower() + function[1:])(*arguments)
        except self._module.CUDARuntimeError as error:
            raise CudaError(function, int(error.status)) from error
        return int(given or 0)


class BindingsRuntime(_CalledRuntime):
    """The runtime of NVIDIA's own package: `cuda.bindings.runtime`, which returns the status first."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def call(self, function: str, *arguments: int) -> int:
        """See `_CalledRuntime`."""
        last: tuple[Any, ...] = ()
        if function.startswith("Memcpy"):
            # it takes its own types for the direction of a copy
            *arguments_before, kind, stream = arguments
            arguments, last = tuple(arguments_before), (self._module.cudaMemcpyKind(kind), stream)
        status, *given = getattr(self._module, f"cuda{function}")(*arguments, *last)
        if int(status):
            raise CudaError(function, int(status))
        return int(given[0]) if given else 0


class LibraryRuntime(_CalledRuntime):
    """The runtime as a C library, `libcudart.so`, which returns the status and gives values out through pointers."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, function: str, *arguments: int) -> int:
        """See `_CalledRuntime`."""
        types, gives_out = _SIGNATURES[function]
        values: list[Any] = [kind(argument) for kind, argument in zip(types, arguments, strict=True)]
        given = gives_out() if gives_out is not None else None
        if given is not None:
            values.insert(0, ctypes.byref(given))
        status = int(getattr(self._library, f"cuda{function}")(*values))
        if status:
            raise CudaError(function, status)
        return int(given.value or 0) if given is not None else 0


_SIGNATURES: dict[str, tuple[tuple[Any, ...], Any]] = {
    # the types of the arguments, and of what is given out through a pointer before them
    "GetDeviceCount": ((), ctypes.c_int),
    "SetDevice": ((ctypes.c_int,), None),
    "HostRegister": ((ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint), None),
    "HostUnregister": ((ctypes.c_void_p,), None),
    "StreamCreateWithFlags": ((ctypes.c_uint,), ctypes.c_void_p),
    "StreamDestroy": ((ctypes.c_void_p,), None),
    "StreamSynchronize": ((ctypes.c_void_p,), None),
    "MemcpyAsync": (
        (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
        None,
    ),
    "Memcpy2DAsync": (
        (
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t),
            *(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
        ),
        None,
    ),
}

_found: list[CudaRuntime] = []
_finding = threading.Lock()


def find_runtime() -> CudaRuntime | None:
    """The runtime by which this process copies, the same each time; None where none has a device.

    cupy's if cupy is imported, else that of `cuda.bindings` if it is installed, else the library that the process has loaded, or
    could load. Only to be asked for where tensors of a CUDA device are.
    """
    with _finding:
        if not _found:
            _found.extend(runtime for runtime in _first_with_devices(candidates()))
        return _found[0] if _found else None


def _first_with_devices(runtimes: Iterator[CudaRuntime]) -> Iterator[CudaRuntime]:
    for runtime in runtimes:
        try:
            usable = runtime.devices() > 0
        except CudaError:
            continue
        if usable:
            yield runtime
            return


def candidates() -> Iterator[CudaRuntime]:
    """All runtimes that could be found, best first."""
    # under its own name it is no module
    if (module := getattr(loaded("cupy", "cuda"), "runtime", None)) is not None:
        yield CupyRuntime(module)
    try:
        from cuda.bindings import runtime as bindings
    except ImportError:
        pass
    else:
        yield BindingsRuntime(bindings)
    for name in _library_names():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        yield LibraryRuntime(library)


def _library_names() -> Iterator[str]:
    """Where libcudart may be: what this process has mapped first, so that no second one is loaded."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        yield from dict.fromkeys(re.findall(r"/\S*/libcudart[-\w]*\.so\S*", maps.read_text()))
    yield from ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
    # NVIDIA's wheels, which jax[cuda] and torch bring along
    nvidia = importlib.util.find_spec("nvidia")
    for folder in (nvidia.submodule_search_locations or ()) if nvidia is not None else ():
        yield from sorted((str(path) for path in Path(folder).glob("*/lib/libcudart.so.*")), reverse=True)
