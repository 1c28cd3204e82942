"""What the stagers of torch's tensors share."""

from typing import Any

from smdaemon.errors import DropError
from smdaemon.staging.base import SUB_BYTE, Spec, loaded, make_spec


def is_tensor_on(tensor: Any, device_type: str) -> bool:
    """Whether it is a tensor of torch on a device of that type."""
    tensor_type = loaded("torch", "Tensor")
    return tensor_type is not None and isinstance(tensor, tensor_type) and tensor.device.type == device_type


def spec_of(tensor: Any) -> Spec:
    """The Spec of a tensor, whatever its strides; see `Stager.spec`."""
    kind = type(tensor)
    if hasattr(kind, "__tensor_flatten__"):
        raise DropError(
            "handoff-tensor",
            f"a {kind.__module__}.{kind.__qualname__} is made of other tensors",
            remedy="hand over a plain tensor: of a DTensor, full_tensor() or to_local()",
        )
    if tensor.layout is not loaded("torch", "strided") or tensor.is_nested:
        raise DropError(
            "handoff-tensor",
            f"the layout {str(tensor.layout)!r} is not that of a plain array",
            remedy="hand over tensor.to_dense(); of a nested tensor, its parts",
        )
    name = str(tensor.dtype).removeprefix("torch.")
    if name in SUB_BYTE:
        raise DropError("dtype-unsupported", f"torch does not say how its elements of dtype {name!r} are packed")
    return make_spec(name, tuple(tensor.shape))


def contiguous(tensor: Any) -> Any:
    """The tensor with its elements one after the other, conjugated and negated as it says; itself if that is how it lies."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def pointer_of(tensor: Any) -> int:
    """Where the elements of a contiguous tensor lie; DropError `handoff-tensor` where it has none, as while torch traces."""
    try:
        pointer = int(tensor.data_ptr())
    except RuntimeError:
        pointer = 0
    if not pointer and tensor.numel():
        raise DropError(
            "handoff-tensor",
            f"a tensor of shape {list(tensor.shape)} has no memory",
            remedy="save outside of torch.compile, torch.func and FakeTensorMode",
        )
    return pointer
