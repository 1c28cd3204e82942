"""The real torch on the CPU; skipped where it is not installed: it is no dependency, and its packages are gigabytes."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from staging_kit import same, segment_for, stage

from smdaemon.errors import DropError
from smdaemon.staging.stagers import STAGERS, stagers_of
from smdaemon.staging.torch_cpu import TorchCpuStager
from smdaemon.staging.trees import named_tensors

torch = pytest.importorskip("torch")

NAMES = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NAMES += ["bool", "complex64", "complex128", "bfloat16", "float8_e5m2", "float8_e4m3fn"]


def stager_for(tensor: Any) -> TorchCpuStager:
    """The stager that claims it, which must be the one for torch on the CPU."""
    [stager] = [each for each in STAGERS if each.claims(tensor)]
    assert isinstance(stager, TorchCpuStager)
    return stager


@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_is_staged_bit_by_bit(name: str) -> None:
    """Under numpy's name of it."""
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, name))
    [got] = stage(stager_for(tensor), [tensor])
    dtype = getattr(ml_dtypes, name) if name.startswith(("bfloat", "float8")) else name
    same(got, np.arange(24).reshape(2, 3, 4).astype(dtype))


def test_tensors_that_do_not_lie_in_order_are_staged() -> None:
    """Transposed, strided, expanded, conjugated and negated lazily, empty, of no dimensions, inside of others."""
    base = torch.arange(24.0).reshape(4, 6)
    conjugated = torch.tensor([1 + 2j, 3j]).conj()
    tensors = [base.T, base[::2, 1:4], base[0].expand(3, 6), torch.zeros(0, 3), torch.tensor(5), base[1:]]
    tensors += [conjugated, conjugated.imag]
    assert conjugated.imag.is_neg()
    for got, tensor in zip(stage(TorchCpuStager(), tensors), tensors, strict=True):
        same(got, tensor.resolve_conj().resolve_neg().numpy())


def test_a_module_is_staged_with_its_gradients_left_alone() -> None:
    """Parameters that require a gradient, and buffers, by the names of the state dict."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    tensors = named_tensors(dict(module.named_parameters()) | dict(module.named_buffers()))
    stagers = stagers_of(tensors)
    assert {stager.name for stager in stagers.values()} == {"torch-cpu"}
    got = stage(TorchCpuStager(), list(tensors.values()))
    for each, tensor in zip(got, tensors.values(), strict=True):
        same(each, tensor.detach().numpy())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


def test_a_state_dict_has_a_trainers_tensors() -> None:
    """Those of a module, and of an optimizer with its numbers; `params` are named by their places."""
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tensors = named_tensors({"model": module.state_dict(), "optimizer": optimizer.state_dict()["state"]})
    assert "optimizer/0/exp_avg" in tensors
    for stager, tensor in zip(stagers_of(tensors).values(), tensors.values(), strict=True):
        same(stage(stager, [tensor])[0], tensor.numpy())


def test_a_tensor_may_be_overwritten_once_save_has_returned() -> None:
    """The bytes are copied before."""
    tensor = torch.ones(1000)
    [got] = stage(TorchCpuStager(), [tensor], after_save=lambda: tensor.fill_(-1))
    assert np.all(got == 1)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: torch.ones(3).to_sparse(), "handoff-tensor"),
        (lambda: torch.zeros(3).to(torch.float8_e4m3fnuz), "dtype-unsupported"),
        (lambda: torch.zeros(3).to(torch.float8_e8m0fnu), "dtype-unsupported"),
        (lambda: torch.zeros(3, dtype=torch.complex32), "dtype-unsupported"),
    ],
    ids=["sparse", "fnuz", "e8m0", "complex32"],
)
@pytest.mark.filterwarnings("ignore:.*ComplexHalf.*:UserWarning")
def test_tensors_that_are_no_arrays_are_refused(make: Any, code: str) -> None:
    """By what they are."""
    with pytest.raises(DropError) as caught:
        TorchCpuStager().spec(make())
    assert caught.value.code == code


def test_a_tensor_of_the_meta_device_has_no_stager() -> None:
    """It has no values."""
    with pytest.raises(DropError) as caught:
        stagers_of({"w": torch.ones(2, device="meta")})
    assert caught.value.code == "handoff-tensor"


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")
def test_a_tensor_while_torch_traces_is_refused() -> None:
    """There is no memory behind it; reading it would end the process."""
    fake_mode = pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode
    with fake_mode():
        tensor = torch.ones(4)
    _, into = segment_for([16])
    with pytest.raises(DropError) as caught:
        TorchCpuStager().copy([tensor], into, 1)
    assert caught.value.code == "handoff-tensor"


def test_a_tensor_inside_of_vmap_is_refused() -> None:
    """It stands for many, and has no memory of its own."""
    _, into = segment_for([8])

    def inside(tensor: Any) -> Any:
        with pytest.raises(DropError, match="no memory"):
            TorchCpuStager().copy([tensor], into, 1)
        return tensor

    torch.func.vmap(inside)(torch.ones(3, 2))
