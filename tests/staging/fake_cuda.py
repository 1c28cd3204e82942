"""A CUDA runtime without a GPU: the devices' memory is the host's, and the rules of CUDA are held.

A copy happens when its stream is waited for, not before; a stream is of the device that was current when it was made; each thread has a
current device of its own; memory is pinned once. `fail` makes calls fail.
"""

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, Self

from smdaemon.staging.cuda import CudaError
from smdaemon.staging.shards import Rows

INVALID_VALUE = 1
NO_DEVICE = 100
ALREADY_REGISTERED = 712
NOT_REGISTERED = 713

PORTABLE = 1
NON_BLOCKING = 1
DEVICE_TO_HOST = 2


class FakeCuda:
    """A CudaRuntime."""

    def __init__(self, devices: int = 2) -> None:
        self.count = devices
        self.contexts: set[int] = set()
        self.pinned: dict[int, int] = {}
        self.streams: dict[int, tuple[int, list[Rows]]] = {}
        self.calls: Counter[str] = Counter()
        self.copied_from: Counter[int] = Counter()
        """Bytes, by device."""
        self.unpinned_bytes = 0
        self.before_wait: Callable[[], None] = lambda: None
        self._failures: dict[str, int] = {}
        self._thread = threading.local()
        self._next_stream = 1000

    def fail(self, call: str, status: int) -> None:
        """Have each later call of that method fail."""
        self._failures[call] = status

    def _called(self, call: str) -> None:
        self.calls[call] += 1
        if call in self._failures:
            raise CudaError(call, self._failures[call])

    def devices(self) -> int:
        """See `CudaRuntime`."""
        self._called("devices")
        return self.count

    def use_device(self, device: int) -> None:
        """See `CudaRuntime`."""
        self._called("use_device")
        if not 0 <= device < self.count:
            raise CudaError("use_device", INVALID_VALUE)
        self._thread.device = device
        self.contexts.add(device)

    def _current(self) -> int:
        device: int = getattr(self._thread, "device", 0)
        self.contexts.add(device)
        return device

    def register(self, address: int, nbytes: int) -> None:
        """See `CudaRuntime`."""
        self._called("register")
        self._current()
        if any(address < start + size and start < address + nbytes for start, size in self.pinned.items()):
            raise CudaError("register", ALREADY_REGISTERED)
        self.pinned[address] = nbytes

    def unregister(self, address: int) -> None:
        """See `CudaRuntime`."""
        self._called("unregister")
        self._current()
        if self.pinned.pop(address, None) is None:
            raise CudaError("unregister", NOT_REGISTERED)

    def new_stream(self) -> int:
        """See `CudaRuntime`."""
        self._called("new_stream")
        self._next_stream += 1
        self.streams[self._next_stream] = (self._current(), [])
        return self._next_stream

    def end_stream(self, stream: int) -> None:
        """See `CudaRuntime`."""
        self._called("end_stream")
        assert not self.streams.pop(stream)[1], "a stream was ended with copies on it"

    def copy(self, rows: Rows, stream: int) -> None:
        """See `CudaRuntime`."""
        self._called("copy")
        device, waiting = self.streams[stream]
        assert device == self._current()
        waiting.append(rows)

    def wait(self, stream: int) -> None:
        """See `CudaRuntime`."""
        self.before_wait()
        device, waiting = self.streams[stream]
        for each in waiting:
            self._move(each)
            self.copied_from[device] += each.width * each.rows
        waiting.clear()
        self._called("wait")

    def _move(self, rows: Rows) -> None:
        end = rows.target + (rows.rows - 1) * rows.target_pitch + rows.width
        if not any(start <= rows.target and end <= start + size for start, size in self.pinned.items()):
            self.unpinned_bytes += rows.width * rows.rows
        for row in range(rows.rows):
            ctypes.memmove(rows.target + row * rows.target_pitch, rows.source + row * rows.source_pitch, rows.width)


class FakeFunctions:
    """The runtime's functions by their numbers and flags, as every library has them: checks the flags, returns what is given out."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._functions: dict[str, Callable[..., int | None]] = {
            "GetDeviceCount": cuda.devices,
            "SetDevice": cuda.use_device,
            "HostRegister": lambda address, nbytes, flags: cuda.register(address, _only(nbytes, flags, PORTABLE)),
            "HostUnregister": cuda.unregister,
            "StreamCreateWithFlags": lambda flags: _only(cuda.new_stream(), flags, NON_BLOCKING),
            "StreamDestroy": cuda.end_stream,
            "StreamSynchronize": cuda.wait,
            "MemcpyAsync": lambda target, source, nbytes, kind, stream: cuda.copy(
                Rows(target, nbytes, source, nbytes, nbytes, 1), _only(stream, kind, DEVICE_TO_HOST)
            ),
            "Memcpy2DAsync": lambda target, pitch, source, source_pitch, width, rows, kind, stream: cuda.copy(
                Rows(target, pitch, source, source_pitch, width, rows), _only(stream, kind, DEVICE_TO_HOST)
            ),
        }

    def call(self, name: str, *arguments: Any) -> int | None:
        """Do what CUDA's function of that name does; CudaError with its status."""
        return self._functions[name](*arguments)


def _only(value: int, flag: int, wanted: int) -> int:
    """The value, if the flag beside it is the one that is wanted."""
    assert flag == wanted
    return value


class FakeCupyRuntime:
    """`cupy.cuda.runtime`: names without "cuda", integers, and an exception with the status."""

    class CUDARuntimeError(RuntimeError):
        """As cupy's."""

        def __init__(self, status: int) -> None:
            super().__init__(f"error {status}")
            self.status = status

    def __init__(self, cuda: FakeCuda) -> None:
        self._functions = FakeFunctions(cuda)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: int) -> int | None:
            assert all(type(argument) is int for argument in arguments)
            try:
                return self._functions.call(name[0].upper() + name[1:], *arguments)
            except CudaError as error:
                raise self.CUDARuntimeError(error.status) from error

        return call


class FakeBindings:
    """`cuda.bindings.runtime`: the status stands first in a tuple, and a copy's direction has a type of its own."""

    class cudaMemcpyKind:  # noqa: N801 - as NVIDIA calls it
        """As NVIDIA's."""

        def __init__(self, value: int) -> None:
            self.value = value

    _GIVING: ClassVar = {"GetDeviceCount", "StreamCreateWithFlags"}

    def __init__(self, cuda: FakeCuda) -> None:
        self._functions = FakeFunctions(cuda)

    def __getattr__(self, name: str) -> Any:
        function = name.removeprefix("cuda")

        def call(*arguments: Any) -> tuple[Any, ...]:
            if function.startswith("Memcpy"):
                assert isinstance(arguments[-2], self.cudaMemcpyKind)
                arguments = (*arguments[:-2], arguments[-2].value, arguments[-1])
            try:
                given = self._functions.call(function, *arguments)
            except CudaError as error:
                return (error.status, None) if function in self._GIVING else (error.status,)
            return (0, given) if function in self._GIVING else (0,)

        return call


class FakeLibrary:
    """`libcudart.so` under ctypes: the status is returned, and what is given out goes through the pointer that comes first."""

    _GIVING: ClassVar = {"GetDeviceCount", "StreamCreateWithFlags"}

    def __init__(self, cuda: FakeCuda) -> None:
        self._functions = FakeFunctions(cuda)

    def __getattr__(self, name: str) -> Any:
        function = name.removeprefix("cuda")

        def call(*arguments: Any) -> int:
            pointer, rest = (arguments[0], arguments[1:]) if function in self._GIVING else (None, arguments)
            try:
                given = self._functions.call(function, *(argument.value or 0 for argument in rest))
            except CudaError as error:
                return error.status
            if pointer is not None:
                pointer._obj.value = given
            return 0

        return call


class FakeDevice:
    """A device of an array library: what is set off on its one stream is done in order, when somebody waits for it."""

    type = "cuda"

    def __init__(self, number: int) -> None:
        self.id = self.index = number
        self._waiting: list[Callable[[], None]] = []
        self.done = 0
        self.free_bytes = 1 << 40

    def set_off(self, act: Callable[[], None]) -> None:
        """Do it later, after all before it."""
        self._waiting.append(act)

    @property
    def position(self) -> int:
        """How much has been set off, from the beginning."""
        return self.done + len(self._waiting)

    def run(self, until: int) -> None:
        """Do what was set off before that position."""
        while self.done < until:
            act = self._waiting.pop(0)
            self.done += 1
            act()

    def synchronize(self) -> None:
        """Do all of it."""
        self.run(self.position)

    def __enter__(self) -> Self:
        FAKE_THREAD.devices.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        FAKE_THREAD.devices.pop()


FAKE_THREAD = SimpleNamespace(devices=[])
"""The devices that are current, the innermost last."""


class FakeEvent:
    """An event, recorded on a stream; a device has one stream, itself."""

    def __init__(self, **_: Any) -> None:
        self._device: FakeDevice | None = None
        self._position = 0

    def record(self, stream: FakeDevice) -> None:
        """Remember how far the stream's work goes."""
        self._device = stream
        self._position = self._device.position

    def synchronize(self) -> None:
        """Wait for that work."""
        assert self._device is not None
        self._device.run(self._position)
