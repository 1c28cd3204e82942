"""Assets on their way into a SavedModel: files that a graph reads, copied to `assets/` under their base names.

The graph names each by a constant, which a loader feeds with the path of the copy. The list stands in `asset_file_def` (TensorFlow
2) or in the collection `saved_model_assets` (TensorFlow 1), where each AssetFileDef is packed into an Any.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import AssetFileDef, MetaGraphDef
from smdaemon.savedmodel.constants import ASSETS_KEY
from smdaemon.savedmodel.graph_names import operation
from smdaemon.savedmodel.writer import open_asset
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.tensors import CHUNK_BYTES

MODEL_DESCRIPTION = "saved_model.json"
"""Where Keras kept a model's configuration beside its SavedModel."""


@dataclass(frozen=True)
class Asset:
    """A file that the tensor `tensor` of the graph names. Without a `source` the tensor's constant value is its path."""

    tensor: str
    source: Path | None = None


class AssetFiles:
    """The files of one export, by their names below `assets/`; `files` are there already."""

    def __init__(self, files: Mapping[str, Path | bytes] | None = None) -> None:
        self.files: dict[str, Path | bytes] = dict(files or {})

    def add(self, source: Path) -> str:
        """The name of `source` below `assets/`: its base name, unless a file of other content has that."""
        name = self._same(source)
        if name in self.files:
            return name
        with open_asset(source):
            pass  # it is there and may be copied
        self.files[name] = source
        return name

    def find(self, source: Path) -> str:
        """The name of `source` among the files that there are: one of the same content, else the first of the same base name.

        Raises DropError `asset-invalid` where there is none: a further meta graph adds no assets.
        """
        name = self._same(source)
        if name in self.files:
            return name
        if source.name not in self.files:
            raise DropError("asset-invalid", f"the asset {source.name!r} is not among those of the first meta graph")
        return source.name

    def _same(self, source: Path) -> str:
        """The name of a file of the same base name and content; without one, the name that it would get."""
        stem = name = source.name
        count = 0
        while name in self.files and not _is_same(self.files[name], source):
            count += 1
            name = f"{stem}_{count}"
        return name


def _is_same(known: Path | bytes, source: Path) -> bool:
    """Whether both files have the same content."""
    if known == source:
        return True
    with open_asset(source) as second:
        if isinstance(known, bytes):
            return os.fstat(second).st_size == len(known) and os.pread(second, len(known), 0) == known
        with open_asset(known) as first:
            while chunk := os.read(first, CHUNK_BYTES):
                if chunk != os.read(second, len(chunk)):
                    return False
            return not os.read(second, 1)


def located(meta_graph: MetaGraphDef, asset: Asset | str) -> tuple[str, Path]:
    """The tensor that names an asset, with its output number, and where the file is.

    Raises DropError `asset-invalid` unless the tensor is a constant string of the graph with one element.
    """
    if isinstance(asset, str):
        asset = Asset(asset)
    tensor = asset.tensor if ":" in asset.tensor else f"{asset.tensor}:0"
    node = next((node for node in meta_graph.graph_def.node if node.name == operation(tensor)), None)
    if node is None:
        raise DropError("asset-invalid", f"the asset tensor {tensor!r} is not in the graph")
    if asset.source is not None:
        return tensor, asset.source
    if node.op != "Const" or node.attr["dtype"].type != STRING.enum:
        raise DropError("asset-invalid", f"the asset tensor {tensor!r} is a {node.op}, not a constant string")
    values = node.attr["value"].tensor.string_val
    if len(values) != 1 or not values[0]:
        raise DropError("asset-invalid", f"the asset tensor {tensor!r} does not hold one path")
    return tensor, Path(os.fsdecode(values[0]))


def list_assets(meta_graph: MetaGraphDef, named: Iterable[tuple[str, str]], *, in_collection: bool) -> None:
    """Lists the assets, as pairs of tensor and file name, in the meta graph: in `asset_file_def`, or in the collection."""
    for tensor, filename in named:
        definition = AssetFileDef(filename=filename)
        definition.tensor_info.name = tensor
        if not in_collection:
            meta_graph.asset_file_def.append(definition)
            continue
        listed = meta_graph.collection_def[ASSETS_KEY].any_list.value.add()
        listed.type_url = _TYPE_URL
        listed.value = definition.SerializeToString(deterministic=True)


_TYPE_URL = "type.googleapis.com/tensorflow.AssetFileDef"
