"""Fixtures of the staging tests: libraries that are not installed here, as small working stand-ins."""

import sys
from types import ModuleType

import pytest
from fake_cuda import FakeCuda
from fake_libraries import fake_cupy, fake_torch

from smdaemon.staging import cuda_copy


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A CUDA runtime of two devices, in a process that has not warned of anything."""
    monkeypatch.setattr(cuda_copy, "_warned", type(cuda_copy._warned)())
    return FakeCuda()


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Cupy as if it were imported."""
    module = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Torch as if it were imported."""
    module = fake_torch()
    monkeypatch.setitem(sys.modules, "torch", module)
    return module
