"""cupy and torch without a GPU: their arrays' values lie in numpy's arrays, what changes them is set off on a device's stream."""

import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FAKE_THREAD, FakeDevice, FakeEvent

GARBAGE = 0x5A


class FakeArray:
    """What cupy's arrays and torch's tensors have in common here."""

    out_of_memory: type[Exception] = MemoryError

    def __init__(self, values: Any, device: Any) -> None:
        self.values = np.asarray(values)
        self.device = device

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy's."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """As numpy's."""
        return self.values.nbytes

    def overwrite(self, value: float) -> None:
        """What a training step does: set off on the stream."""
        self.device.set_off(lambda: self.values.fill(value))

    def compute(self, values: Any) -> "FakeArray":
        """The values come from something that is set off, and are not there before."""
        given = np.array(values)
        self.device.set_off(lambda: np.copyto(self.values, given))
        return self

    def _copied(self) -> Any:
        """A contiguous copy, once the device has got there; garbage before.

        A thread has a stream of its own. That of the main thread is the device's; another may be ahead of it, and here it is.
        """
        if self.nbytes > self.device.free_bytes:
            raise self.out_of_memory("no memory left")
        self.device.free_bytes -= self.nbytes
        made = type(self)(np.full(self.shape, GARBAGE, np.uint8).astype(self.values.dtype), self.device)

        def copy_values() -> None:
            np.copyto(made.values, self.values)

        if threading.current_thread() is threading.main_thread():
            self.device.set_off(copy_values)
        else:
            copy_values()
        return made


class FakeCupyArray(FakeArray):
    """`cupy.ndarray`."""

    @property
    def dtype(self) -> np.dtype:
        """As numpy has it."""
        return self.values.dtype

    @property
    def data(self) -> SimpleNamespace:
        """Where the values lie."""
        return SimpleNamespace(ptr=self.values.ctypes.data)

    def copy(self, order: str) -> "FakeCupyArray":
        """On the current device, as cupy does it."""
        assert order == "C"
        assert FAKE_THREAD.devices[-1] is self.device
        return self._copied()


def fake_cupy() -> ModuleType:
    """The module `cupy`."""
    module = ModuleType("cupy")
    module.ndarray = FakeCupyArray
    module.cuda = SimpleNamespace(Event=FakeEvent, get_current_stream=lambda: FAKE_THREAD.devices[-1])
    module.ascontiguousarray = lambda array: array if array.values.flags.c_contiguous else array._copied()
    return module


class FakeDtype:
    """`torch.dtype`: only its text is of use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return f"torch.{self._name}"


STRIDED = "torch.strided"
CPU = SimpleNamespace(type="cpu", index=None)


class FakeOutOfMemoryError(RuntimeError):
    """`torch.cuda.OutOfMemoryError`."""


class FakeTensor(FakeArray):
    """`torch.Tensor`, on the CPU or on a CUDA device."""

    out_of_memory = FakeOutOfMemoryError
    requires_grad = True
    is_nested = False

    def __init__(self, values: Any, device: Any = CPU, *, layout: str = STRIDED, dtype: str | None = None) -> None:
        super().__init__(values, device)
        self.layout = layout
        self.dtype = FakeDtype(dtype or self.values.dtype.name)
        self.conjugate = False
        self.memory = True

    def detach(self) -> "FakeTensor":
        """The same memory without a gradient, without which nothing else may be asked for here."""
        made = type(self)(self.values, self.device, layout=self.layout)
        made.conjugate, made.memory, made.requires_grad = self.conjugate, self.memory, False
        return made

    def resolve_conj(self) -> "FakeTensor":
        """Conjugated now, if that was put off."""
        assert not self.requires_grad
        if not self.conjugate:
            return self
        made = type(self)(np.conj(self.values), self.device)
        made.requires_grad = False
        return made

    def resolve_neg(self) -> "FakeTensor":
        """Nothing is negated lazily here."""
        return self

    def contiguous(self) -> "FakeTensor":
        """Itself, or a copy."""
        assert not self.requires_grad
        if self.values.flags.c_contiguous:
            return self
        if self.device is CPU:
            return type(self)(np.ascontiguousarray(self.values))
        return self._copied()

    def clone(self, memory_format: str) -> "FakeTensor":
        """A copy on the same device."""
        assert memory_format == "contiguous"
        assert not self.requires_grad
        return self._copied()

    def numel(self) -> int:
        """How many elements there are."""
        return self.values.size

    def data_ptr(self) -> int:
        """Where they lie; 0 where they do not."""
        return self.values.ctypes.data if self.memory and self.values.size else 0

    def view(self, shape: tuple[int, ...]) -> "FakeTensor":
        """The same memory in another shape."""
        return type(self)(self.values.reshape(shape))

    def copy_(self, other: "FakeTensor") -> None:
        """Overwrite the values."""
        np.copyto(self.values, other.values)


class FakeDTensor(FakeTensor):
    """A tensor made of others."""

    def __tensor_flatten__(self) -> None: ...


def fake_torch() -> ModuleType:
    """The module `torch`."""
    module = ModuleType("torch")
    module.Tensor = FakeTensor
    module.strided = STRIDED
    module.contiguous_format = "contiguous"
    module.frombuffer = lambda buffer, dtype: FakeTensor(np.frombuffer(buffer, str(dtype).removeprefix("torch.")))
    module.cuda = SimpleNamespace(
        Event=FakeEvent,
        OutOfMemoryError=FakeOutOfMemoryError,
        current_stream=lambda device: device,
        synchronize=FakeDevice.synchronize,
    )
    return module
