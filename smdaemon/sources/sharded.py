"""A checkpoint of several safetensors files, named by an index: `model.safetensors.index.json`.

The index is a JSON object with `weight_map`, from each tensor's name to the file beside the index that holds it, and
optionally `metadata`. This is what Hugging Face's `save_torch_state_dict` and its kin write.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from smdaemon.errors import DropError
from smdaemon.paths import can_name_a_file
from smdaemon.sources.files import SourceFile
from smdaemon.sources.opened import FileSource, check_any
from smdaemon.sources.safetensors import (
    MAX_HEADER_BYTES,
    SafetensorsFormat,
    open_tensors,
    parse_object,
)
from smdaemon.tensorbundle.tensors import Tensor

_KEPT_OPEN = 64
"""With more shards than these, each is opened when it is read: descriptors are few."""


class ShardedSafetensorsFormat:
    """The index of a sharded checkpoint, and the shards beside it."""

    name = "safetensors-sharded"
    suffix = ".safetensors.index.json"
    self_judging = True

    def claims(self, path: Path) -> bool:
        """See `Format`."""
        return path.name.endswith(self.suffix) and not os.path.isdir(path)  # noqa: PTH112 - this one never raises

    def is_complete(self, path: Path) -> bool:
        """Whether the index is whole, and every shard that it names is there and whole."""
        file = SourceFile(path)
        try:
            text = _index_text(file)
        finally:
            file.close()
        if not text.rstrip().endswith(b"}"):
            return False
        single = SafetensorsFormat()
        for shard in _parse(text, path).shards:
            shard_path = path.parent / shard
            if not os.path.lexists(shard_path) or not single.is_complete(shard_path, follow=False):
                return False
        return True

    def parts(self, path: Path) -> list[str]:
        """The index and the shards that it names: none while it cannot be understood."""
        return [os.fspath(path), *(os.fspath(path.parent / shard) for shard in _shards(path))]

    def open(self, path: Path) -> FileSource:
        """See `Format`."""
        files = [SourceFile(path)]
        try:
            index = _parse(_index_text(files[0]), path)
            metadata = index.metadata
            tensors: dict[str, Tensor] = {}
            for shard in index.shards:
                file = SourceFile(path.parent / shard, follow=False, transient=len(index.shards) > _KEPT_OPEN)
                files.append(file)
                held, shard_metadata = open_tensors(file)
                _check_held(shard, held, index.weight_map)
                tensors.update(held)
                metadata = {**shard_metadata, **metadata}
            _check_all_found(index.weight_map, tensors)
            check_any(tensors, path)
        except BaseException:
            for file in files:
                file.close()
            raise
        return FileSource(self.name, path, tensors, metadata, files)


class _Index(NamedTuple):
    """What an index says: the shard of each tensor, the shards, and the plain values of its metadata as text."""

    weight_map: Mapping[str, str]
    shards: list[str]
    metadata: dict[str, str]


def _shards(path: Path) -> list[str]:
    """The shards that the index names; none while it cannot be understood."""
    try:
        file = SourceFile(path)
        try:
            return _parse(_index_text(file), path).shards
        finally:
            file.close()
    except DropError:
        return []


def _index_text(file: SourceFile) -> bytes:
    if file.size > MAX_HEADER_BYTES:
        raise DropError(
            "source-header-too-large", f"the index {str(file.path)!r} has {file.size} bytes, over {MAX_HEADER_BYTES}"
        )
    return file.read(0, file.size)


def _parse(text: bytes, path: Path) -> _Index:
    """The index from its JSON; DropError `name-invalid` where it names a shard that is not beside it."""
    fields = parse_object(text, str(path))
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise DropError("source-corrupt", f"the weight_map of {str(path)!r} is not a map of file names")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not can_name_a_file(shard):
            raise DropError(
                "name-invalid",
                f"{str(path)!r} names the shard {shard!r}, which is not a file beside it",
                remedy="put every shard into the directory of the index",
            )
    metadata = fields.get("metadata", {})
    if not isinstance(metadata, dict):
        raise DropError("source-corrupt", f"the metadata of {str(path)!r} is not an object")
    scalars = {key: str(value) for key, value in metadata.items() if isinstance(value, str | int | float)}
    return _Index(weight_map, shards, scalars)


def _check_held(shard: str, held: Mapping[str, Tensor], weight_map: Mapping[str, str]) -> None:
    for name in held:
        if weight_map.get(name) != shard:
            raise DropError(
                "source-corrupt",
                f"the shard {shard!r} holds {name!r}, which the index puts into {weight_map.get(name)!r}",
            )


def _check_all_found(weight_map: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    for name, shard in weight_map.items():
        if name not in tensors:
            raise DropError("source-corrupt", f"the index puts {name!r} into {shard!r}, which does not hold it")
