"""Headers of safetensors with many tensors, decoded several times faster than by json. Imported only for those: msgspec takes a while."""

from typing import Annotated

import msgspec

_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_entry = msgspec.json.Decoder(_Entry).decode


def decoded(text: bytes) -> tuple[dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]], bytes] | None:
    """Dtype, shape and offsets of each tensor, and the JSON of the metadata, of a header as its writers write it; None for any other, sound or not."""
    if b"\\" in text:
        return None
    try:
        fields = _decode_fields(text)
        metadata = fields.pop("__metadata__", b"{}")
        entries = {name: _decode_entry(entry) for name, entry in fields.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # of a name that is given twice the decoder keeps the last; without escapes each entry's keys stand in the text as they are
    keys = (b'"dtype"', b'"shape"', b'"data_offsets"')
    if any(text.count(key) != len(entries) for key in keys) or text.count(b'"__metadata__"') > 1:
        return None
    return {name: (each.dtype, each.shape, each.data_offsets) for name, each in entries.items()}, bytes(metadata)
