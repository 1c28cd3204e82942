"""Proves a SavedModel sound without TensorFlow: every checksum, and that graph, variables and fingerprint fit together."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smdaemon.errors import DropError
from smdaemon.savedmodel.assets import asset_file_defs, asset_paths
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.reader import (
    read_fingerprint,
    read_index,
    read_saved_model,
    read_trackable_graph,
    stored_bytes,
    variables_prefix,
)
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.reader import BundleReader

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import MetaGraphDef, SavedModel


@dataclass(frozen=True)
class Verified:
    """What was found sound: how many tensors, their bytes, and the fingerprint.

    `fingerprint` is "matches", "absent", or "unchecked" where it is of a version that is computed in another way.
    """

    tensors: int
    bytes: int
    fingerprint: str


def verify(export_dir: Path, on_bytes: Callable[[int], None] | None = None, *, past_cache: bool = False) -> Verified:
    """Check the SavedModel in `export_dir` as a whole; `on_bytes(n)` is called after each n bytes of tensors that were read.

    `past_cache`: as of `BundleReader`.

    Raises DropError: `savedmodel-missing` or `savedmodel-corrupt` as the reader does, `savedmodel-inconsistent` where the files
    contradict each other, `bundle-corrupt` or `bundle-missing-shard` for the variables' files.
    """
    content, model = read_saved_model(export_dir)
    index = read_index(export_dir)
    entries: dict[str, BundleEntry] = {}
    with (
        BundleReader(variables_prefix(export_dir), past_cache=past_cache)
        if index is not None
        else nullcontext() as bundle
    ):
        if bundle is not None:
            entries = dict(bundle.entries())
        _check_keys(model, bundle, entries)
        if bundle is not None:
            bundle.verify(on_bytes)
    for meta_graph in model.meta_graphs:
        _check_assets(export_dir, meta_graph)
    values = [entry for key, entry in entries.items() if key != OBJECT_GRAPH_KEY]
    return Verified(
        tensors=len(values),
        bytes=sum(stored_bytes(entry) for entry in values),
        fingerprint=check_fingerprint(export_dir, content, model, index),
    )


def _check_keys(model: "SavedModel", bundle: BundleReader | None, entries: dict[str, BundleEntry]) -> None:
    """Every key that a graph names is in the bundle, with its type and shape, and every key of the bundle is named."""
    from smdaemon.savedmodel.consistency import check_graph, check_object_graph, inconsistent

    trackable = None if bundle is None else read_trackable_graph(bundle)
    used = {OBJECT_GRAPH_KEY}
    for meta_graph in model.meta_graphs:
        used |= check_graph(meta_graph, entries)
        if trackable is not None:
            used |= check_object_graph(meta_graph.object_graph_def, trackable, entries)
        elif any(node.HasField("variable") for node in meta_graph.object_graph_def.nodes):
            raise inconsistent(
                f"the model has variables, but there is no {OBJECT_GRAPH_KEY} in a bundle to load them by"
            )
    unused = sorted(entries.keys() - used)
    if unused:
        raise inconsistent(f"the bundle holds {unused[0]!r}, which nothing in the model restores")


def _check_assets(export_dir: Path, meta_graph: "MetaGraphDef") -> None:
    from smdaemon.savedmodel.consistency import inconsistent

    for path in asset_paths(export_dir, asset_file_defs(meta_graph)):
        if not path.is_file():
            raise inconsistent(f"the asset {path.name!r} is missing")


def check_fingerprint(export_dir: Path, content: bytes, model: "SavedModel", index: bytes | None) -> str:
    """The state of the fingerprint; DropError where it is another model's."""
    from smdaemon.savedmodel.fingerprint import PRODUCER, differences

    stored = read_fingerprint(export_dir)
    if stored is None:
        return "absent"
    if stored.version.producer != PRODUCER:
        return "unchecked"
    different = differences(stored, content, model, index)
    if different:
        raise DropError("savedmodel-inconsistent", f"the fingerprint has another {different[0]} than the model")
    return "matches"
