"""Warm-up requests: sample inputs that TensorFlow Serving runs through a model before it serves it.

They lie in `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages. A record of TFRecord:

    u64le   bytes of the payload
    u32le   masked CRC-32C of these eight bytes
    payload
    u32le   masked CRC-32C of the payload
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from smdaemon.errors import DropError
from smdaemon.proto.pool import deterministic
from smdaemon.proto.serving import PredictionLog
from smdaemon.proto.tensorflow import SignatureDef, TensorProto
from smdaemon.savedmodel.constants import DEFAULT_SERVING_SIGNATURE_DEF_KEY
from smdaemon.savedmodel.tensor_info import shape_of
from smdaemon.savedmodel.tensor_values import tensor_proto
from smdaemon.tensorbundle.checksum import crc32c, mask

REQUESTS_LIMIT = 1000
"""TensorFlow Serving takes no more."""


def warmup_requests(
    model: str,
    samples: Iterable[Mapping[str, Any]],
    *,
    signature_name: str = DEFAULT_SERVING_SIGNATURE_DEF_KEY,
    signature: SignatureDef | None = None,
) -> bytes:
    """The file of warm-up requests: one for each of `samples`, the inputs by name (arrays, numbers, strings, lists of these).

    `model` is the name under which the model is served. With `signature` the samples are checked against it, and numbers without
    a dtype of their own take that of the input. Raises DropError `signature-invalid` for samples that do not fit or are too many.
    """
    records = []
    for number, sample in enumerate(samples):
        if number == REQUESTS_LIMIT:
            raise DropError("signature-invalid", f"there are more than {REQUESTS_LIMIT} warm-up requests")
        log = PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
        if signature is not None and signature.inputs.keys() != sample.keys():
            raise DropError(
                "signature-invalid",
                f"warm-up request {number} has the inputs {sorted(sample)}, the signature {sorted(signature.inputs)}",
            )
        for name, value in sample.items():
            proto = tensor_proto(value) if signature is None else _fitting(name, value, signature)
            request.inputs[name].CopyFrom(proto)
        records.append(tf_record(deterministic(log)))
    return b"".join(records)


def _fitting(name: str, value: Any, signature: SignatureDef) -> TensorProto:
    """The value of an input; DropError where the signature has another dtype or shape."""
    import numpy as np

    from smdaemon.tensorbundle.dtypes import STRING, dtype_numbered

    info = signature.inputs[name]
    dtype = dtype_numbered(info.dtype)
    array = np.asarray(value)
    if dtype is not STRING and not isinstance(value, np.ndarray | np.generic) and array.dtype.kind in "biufc":
        array = array.astype(dtype.numpy)
    proto = tensor_proto(array)
    if proto.dtype != info.dtype:
        raise DropError("signature-invalid", f"input {name!r} is {dtype} in the signature, the sample is {array.dtype}")
    shape = shape_of(info.tensor_shape)
    if shape is not None and (
        len(shape) != array.ndim
        or any(size not in {None, found} for size, found in zip(shape, array.shape, strict=True))
    ):
        raise DropError("signature-invalid", f"input {name!r} is {shape} in the signature, the sample is {array.shape}")
    return proto


def tf_record(payload: bytes) -> bytes:
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    return b"".join(
        (length, struct.pack("<I", mask(crc32c(length))), payload, struct.pack("<I", mask(crc32c(payload))))
    )
