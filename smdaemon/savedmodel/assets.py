"""The assets of a meta graph: files below `assets/` that its graph reads."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import ASSETS_DIRECTORY, ASSETS_KEY

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import AssetFileDef, MetaGraphDef


def asset_file_defs(meta_graph: "MetaGraphDef") -> "list[AssetFileDef]":
    """The assets as the meta graph lists them; those of TensorFlow 1 before 1.13 stand in a collection only.

    Raises DropError `savedmodel-corrupt` where the collection holds something else.
    """
    from google.protobuf.message import DecodeError

    from smdaemon.proto.tensorflow import AssetFileDef

    if meta_graph.asset_file_def:
        return list(meta_graph.asset_file_def)
    if ASSETS_KEY not in meta_graph.collection_def:
        return []
    try:
        return [
            AssetFileDef.FromString(packed.value) for packed in meta_graph.collection_def[ASSETS_KEY].any_list.value
        ]
    except DecodeError as error:
        raise DropError("savedmodel-corrupt", f"the collection {ASSETS_KEY!r} holds no asset: {error}") from error


def asset_paths(export_dir: Path, assets: "Iterable[AssetFileDef]") -> list[Path]:
    """Where the assets lie; DropError `asset-invalid` for a name that leads out of `assets/`."""
    return [export_dir / ASSETS_DIRECTORY / contained(asset.filename) for asset in assets]


def contained(name: str) -> str:
    """`name`, if it is a path below the folder that it is relative to; DropError `asset-invalid` otherwise."""
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise DropError("asset-invalid", f"the asset {name!r} leads out of its folder")
    return name
