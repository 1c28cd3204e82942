"""Loads SavedModels of TensorFlow 1 and 2 without TensorFlow: what is in them as Python objects, values when they are asked for.

    with load(export_dir, ["serve"]) as model:
        model.signatures["serving_default"].inputs["x"].shape
        model.variables["layers/0/kernel"].read()      # the others are not read
        model.root.layers[0].kernel                    # the same by the model's objects

Nothing is executed, and nothing in the files is trusted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from smdaemon.errors import DropError
from smdaemon.savedmodel.assets import asset_file_defs, asset_paths
from smdaemon.savedmodel.constants import (
    INIT_OP_SIGNATURE_KEY,
    LEGACY_INIT_OP_KEY,
    MAIN_OP_KEY,
    SAVED_MODEL_FILENAME_CPB,
    SAVED_MODEL_FILENAME_PB,
    SAVED_MODEL_FILENAME_PBTXT,
    TRAIN_OP_KEY,
    TRAIN_OP_SIGNATURE_KEY,
)
from smdaemon.savedmodel.lazy import LazyArray
from smdaemon.savedmodel.loaded_tree import LoadedObject, revive
from smdaemon.savedmodel.reader import (
    read_debug_info,
    read_fingerprint,
    read_index,
    read_saved_model,
    read_trackable_graph,
    variables_prefix,
)
from smdaemon.savedmodel.tensor_info import CompositeTensor, GraphTensor, SparseTensor, describe_tensor_info
from smdaemon.savedmodel.variable_names import NamedVariable, by_graph, by_object_graph
from smdaemon.tensorbundle.reader import BundleReader

if TYPE_CHECKING:
    import numpy as np

    from smdaemon.proto.tensorflow import FingerprintDef, GraphDebugInfo, MetaGraphDef, SavedModel, SignatureDef

Described = GraphTensor | SparseTensor | CompositeTensor


@dataclass(frozen=True)
class LoadedSignature:
    """What a signature takes and gives, by name; `defaults` are the values of inputs that a request may leave out."""

    method_name: str
    inputs: dict[str, Described]
    outputs: dict[str, Described]
    defaults: "dict[str, np.ndarray[Any, Any]]"


class LoadedModel:
    """A meta graph with what belongs to it, open until its `with` block ends.

    `meta_graph` is the MetaGraphDef, `tags` its tags. `bundle` gives the tensors by their keys; None where the model has none.
    Everything else is made when it is first asked for, and raises DropError then where the files are bad: `savedmodel-corrupt`,
    `savedmodel-inconsistent`, `asset-invalid`, or what the bundle's reader raises.
    """

    def __init__(self, export_dir: Path, model: "SavedModel", meta_graph: "MetaGraphDef", content: bytes) -> None:
        self.export_dir = export_dir
        self.meta_graph = meta_graph
        self.tags = tuple(meta_graph.meta_info_def.tags)
        self._model = model
        self._content = content
        self._index = read_index(export_dir)
        self.bundle = None if self._index is None else _ClosingReader(variables_prefix(export_dir))

    def __enter__(self) -> Self:
        """The model itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close the data files."""
        self.close()

    def close(self) -> None:
        """Close the data files; variables cannot be read any more."""
        if self.bundle is not None:
            self.bundle.close()

    @cached_property
    def signatures(self) -> dict[str, LoadedSignature]:
        """The signatures by key, without those that stand for the init and train ops."""
        ops = {INIT_OP_SIGNATURE_KEY, TRAIN_OP_SIGNATURE_KEY}
        return {
            key: _signature(self.meta_graph.signature_def[key])
            for key in sorted(self.meta_graph.signature_def)
            if key not in ops
        }

    @cached_property
    def variables(self) -> "Variables":
        """The variables by name, in the order of the object graph or of the graph."""
        return self._named[0]

    @cached_property
    def root(self) -> Any:
        """The model's objects; a model of TensorFlow 1, which has none, gives one object with its variables."""
        variables, by_node = self._named
        if self.meta_graph.object_graph_def.nodes:
            return revive(self.meta_graph, by_node, self.asset_paths)
        return LoadedObject.of({name: variables[name] for name in variables})

    @cached_property
    def _named(self) -> "tuple[Variables, dict[int, LazyArray]]":
        """The variables by name, and those of the object graph by the numbers of their nodes."""
        if self.bundle is None:
            return Variables([]), {}
        trackable = read_trackable_graph(self.bundle)
        saved = self.meta_graph.object_graph_def
        if trackable is None or not saved.nodes:
            return Variables([self._lazy(variable) for variable in by_graph(self.meta_graph, self.bundle)]), {}
        named, reached = by_object_graph(saved, trackable, self.bundle)
        lazy = {variable.key: self._lazy(variable) for variable in named}
        return Variables(lazy.values()), {number: lazy[variable.key] for number, variable in reached.items()}

    def _lazy(self, variable: NamedVariable) -> LazyArray:
        assert self.bundle is not None
        return LazyArray(
            self.bundle, variable.key, variable.name, full_name=variable.full_name, trainable=variable.trainable
        )

    @cached_property
    def assets(self) -> dict[str, Path]:
        """The files below `assets/` by the names of the graph's tensors that hold their paths."""
        defs = asset_file_defs(self.meta_graph)
        return {asset.tensor_info.name: path for asset, path in zip(defs, self.asset_paths, strict=True)}

    @cached_property
    def asset_paths(self) -> list[Path]:
        """The same in the order of the meta graph."""
        return asset_paths(self.export_dir, asset_file_defs(self.meta_graph))

    @property
    def init_op(self) -> str | None:
        """The name of the op that readies a session; None without one."""
        return self._op(INIT_OP_SIGNATURE_KEY, MAIN_OP_KEY, LEGACY_INIT_OP_KEY)

    @property
    def train_op(self) -> str | None:
        """The name of the op that trains; None without one."""
        return self._op(TRAIN_OP_SIGNATURE_KEY, TRAIN_OP_KEY)

    def _op(self, signature: str, *collections: str) -> str | None:
        if signature in self.meta_graph.signature_def:
            outputs = self.meta_graph.signature_def[signature].outputs
            if signature in outputs:
                return outputs[signature].name
        for collection in collections:
            if collection in self.meta_graph.collection_def:
                names = self.meta_graph.collection_def[collection].node_list.value
                if len(names) != 1:
                    raise DropError(
                        "savedmodel-corrupt", f"the collection {collection!r} names {len(names)} ops, not one"
                    )
                return names[0]
        return None

    @cached_property
    def debug_info(self) -> "GraphDebugInfo | None":
        """Where the nodes were made; None without the file."""
        return read_debug_info(self.export_dir)

    @cached_property
    def fingerprint(self) -> "FingerprintDef | None":
        """The content of fingerprint.pb; None without the file."""
        return read_fingerprint(self.export_dir)

    def check_fingerprint(self) -> str:
        """Whether the fingerprint is this model's: "matches", "absent" or "unchecked" (of a version computed in another way).

        Raises DropError `savedmodel-inconsistent` for another model's.
        """
        from smdaemon.savedmodel.verify import check_fingerprint

        return check_fingerprint(self.export_dir, self._content, self._model, self._index)


class Variables(Mapping[str, LazyArray]):
    """Variables by name. Asked for by a name that is none, they also know bundle keys, and names they were made with that are unique."""

    def __init__(self, variables: Iterable[LazyArray]) -> None:
        self._by_name = {variable.name: variable for variable in variables}

    def __getitem__(self, name: str) -> LazyArray:
        return self._by_name[name] if name in self._by_name else self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"

    @cached_property
    def _others(self) -> dict[str, LazyArray]:
        others: dict[str, LazyArray] = {}
        twice = set()
        for variable in self._by_name.values():
            if others.setdefault(variable.full_name, variable) is not variable:
                twice.add(variable.full_name)
        for name in twice:
            del others[name]
        return others | {variable.key: variable for variable in self._by_name.values()}


class _ClosingReader(BundleReader):
    """A reader that closes its files when nothing refers to it any more: lazy variables may outlive the model."""

    def __del__(self) -> None:
        self.close()


def load(export_dir: str | Path, tags: str | Iterable[str]) -> LoadedModel:
    """The meta graph whose tags are exactly `tags`.

    Raises DropError `tags-not-found` with the tag-sets that there are, and what reading the files raises:
    `savedmodel-missing`, `savedmodel-corrupt`, `bundle-corrupt`.
    """
    return _load(Path(export_dir), {tags} if isinstance(tags, str) else set(tags))


def load_v2(export_dir: str | Path, tags: str | Iterable[str] | None = None) -> LoadedModel:
    """The same; `tags` may be left out where there is only one meta graph."""
    if tags is not None:
        return load(export_dir, tags)
    return _load(Path(export_dir), None)


def _load(export_dir: Path, tags: set[str] | None) -> LoadedModel:
    content, model = read_saved_model(export_dir)
    return LoadedModel(export_dir, model, meta_graph_of(model, tags), content)


def meta_graph_of(model: "SavedModel", tags: Iterable[str] | None) -> "MetaGraphDef":
    """The first meta graph of exactly these tags, or the only one for None; DropError `tags-not-found`."""
    if tags is None:
        if len(model.meta_graphs) == 1:
            return model.meta_graphs[0]
        raise DropError(
            "tags-not-found", f"the model has several meta graphs and no tags were given; there are {_tag_sets(model)}"
        )
    wanted = set(tags)
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == wanted:
            return meta_graph
    raise DropError("tags-not-found", f"there is no meta graph tagged {sorted(wanted)}; there are {_tag_sets(model)}")


def _tag_sets(model: "SavedModel") -> str:
    return ", ".join(str(sorted(meta_graph.meta_info_def.tags)) for meta_graph in model.meta_graphs[:_LISTED])


_LISTED = 50


def _signature(signature: "SignatureDef") -> LoadedSignature:
    defaults = {}
    if signature.defaults:
        from smdaemon.savedmodel.tensor_values import array_of

        defaults = {key: array_of(signature.defaults[key]) for key in sorted(signature.defaults)}
    return LoadedSignature(
        signature.method_name,
        {key: describe_tensor_info(signature.inputs[key]) for key in sorted(signature.inputs)},
        {key: describe_tensor_info(signature.outputs[key]) for key in sorted(signature.outputs)},
        defaults,
    )


def contains_saved_model(export_dir: str | Path) -> bool:
    """Whether a SavedModel may lie there: one of the files that every one has is there; whether it can be read is not looked at."""
    names: Sequence[str] = (SAVED_MODEL_FILENAME_PBTXT, SAVED_MODEL_FILENAME_PB, SAVED_MODEL_FILENAME_CPB)
    return any((Path(export_dir) / name).exists() for name in names)


maybe_saved_model_directory = contains_saved_model
