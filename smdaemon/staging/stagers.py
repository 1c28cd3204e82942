"""All stagers, and which one takes a tensor."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from smdaemon.errors import DropError
from smdaemon.staging.base import Spec, Stager
from smdaemon.staging.cupy_cuda import CupyStager
from smdaemon.staging.host import HostStager
from smdaemon.staging.jax_cpu import JaxCpuStager
from smdaemon.staging.jax_gpu import JaxGpuStager
from smdaemon.staging.jax_tpu import JaxTpuStager
from smdaemon.staging.torch_cpu import TorchCpuStager
from smdaemon.staging.torch_cuda import TorchCudaStager

STAGERS: tuple[Stager, ...] = (
    JaxGpuStager(),
    JaxTpuStager(),
    JaxCpuStager(),
    TorchCudaStager(),
    TorchCpuStager(),
    CupyStager(),
    HostStager(),
)
"""The first that claims a tensor takes it; no two claim the same."""


def stager_of(name: str, tensor: Any) -> Stager:
    """The stager that takes `tensor`; DropError `handoff-tensor` where none does."""
    for stager in STAGERS:
        if stager.claims(tensor):
            return stager
    kind = type(tensor)
    raise DropError(
        "handoff-tensor",
        f"{name!r} is a {kind.__module__}.{kind.__qualname__}, which is no tensor that can be handed over",
        remedy="hand over arrays of numpy, JAX, torch or cupy; those of JAX outside of jit",
    )


def stagers_of(tensors: Mapping[str, Any]) -> dict[str, Stager]:
    """The stager of each tensor by its name."""
    return {name: stager_of(name, tensor) for name, tensor in tensors.items()}


def specs_of(tensors: Mapping[str, Any], stagers: Mapping[str, Stager]) -> dict[str, Spec]:
    """The Spec of each tensor by its name; errors as those of `Stager.spec`, with the name of the tensor before them."""
    specs = {}
    for name, tensor in tensors.items():
        with _named(name):
            specs[name] = stagers[name].spec(tensor)
    return specs


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except DropError as error:
        raise DropError(error.code, f"{name!r}: {error.message}", remedy=error.remedy) from error
