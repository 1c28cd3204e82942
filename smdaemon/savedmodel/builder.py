"""Builder: meta graphs, variables, signatures and assets as one SavedModel, by the rules of `tf.compat.v1.saved_model.Builder`.

Where TensorFlow takes a session, this takes a graph and the variables' values. Nothing is written before `save`: a builder that is
given up leaves nothing behind, and values are streamed from their source into the export.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.message import Message

from smdaemon.errors import DropError
from smdaemon.placement import STRIP, place, strip_default_attrs
from smdaemon.proto.tensorflow import (
    FunctionDefLibrary,
    GraphDebugInfo,
    MetaGraphDef,
    SavedModel,
    SaverDef,
    SignatureDef,
    TensorInfo,
)
from smdaemon.savedmodel.asset_files import MODEL_DESCRIPTION, Asset, AssetFiles, list_assets, located
from smdaemon.savedmodel.consistency import check_graph
from smdaemon.savedmodel.constants import (
    EXTRA_ASSETS_DIRECTORY,
    INIT_OP_SIGNATURE_KEY,
    LEGACY_INIT_OP_KEY,
    MAIN_OP_KEY,
    OBJECT_GRAPH_KEY,
    SAVED_MODEL_FILENAME_PB,
    SAVED_MODEL_FILENAME_PBTXT,
    TRAIN_OP_SIGNATURE_KEY,
    WARMUP_FILENAME,
)
from smdaemon.savedmodel.graph_input import GraphLike, meta_graph_of, saved_model_of
from smdaemon.savedmodel.graph_names import operation
from smdaemon.savedmodel.object_graph import object_graphs
from smdaemon.savedmodel.restore_graph import restore_graph
from smdaemon.savedmodel.savers import add_saver, graph_variables, joined_pieces
from smdaemon.savedmodel.signatures import op_signature_def
from smdaemon.savedmodel.tree import nest
from smdaemon.savedmodel.values import StringScalar, tensors_of
from smdaemon.savedmodel.weights import TENSORFLOW_VERSION
from smdaemon.savedmodel.writer import Contents, WrittenModel, destination, write_saved_model
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import Tensor
from smdaemon.tensorbundle.writer import ShardItem

Variables: TypeAlias = Any
"""Values by name: a mapping to arrays or Tensors, or a source, whose `tensors` are such a mapping."""


class Builder:
    """Collects meta graphs and writes them as the SavedModel `export_dir`, which must not exist or be empty.

    The first meta graph comes with the variables (`add_meta_graph_and_variables`), all others without (`add_meta_graph`).
    """

    def __init__(self, export_dir: str | Path) -> None:
        self._path = Path(export_dir)
        if self._path.exists() and not (self._path.is_dir() and not any(self._path.iterdir())):
            raise DropError("export-dir-exists", f"{str(self._path)!r} exists already and is not an empty directory")
        self._meta_graphs: list[MetaGraphDef] = []
        self._tensors: dict[str, Tensor | PartitionedTensor] = {}
        self._entries: dict[str, BundleEntry] = {}
        self._used = {OBJECT_GRAPH_KEY}
        self._source: Any = None
        self._assets = AssetFiles()
        self._extra: dict[str, Path | bytes] = {}
        self._debug_info: GraphDebugInfo | None = None
        self._is_saved = False
        self.written: WrittenModel | None = None

    def add_meta_graph_and_variables(
        self,
        graph: GraphLike,
        variables: Variables,
        tags: Iterable[str],
        signature_def_map: Mapping[str, SignatureDef | Message] | None = None,
        *,
        assets_list: Sequence[Asset | str] | None = None,
        clear_devices: bool = False,
        init_op: str | None = None,
        train_op: str | None = None,
        strip_default_attrs: bool = False,
        saver: SaverDef | Message | None = None,
        assets_collection: Sequence[Asset | str] | None = None,
        main_op: str | None = None,
        legacy_init_op: str | None = None,
    ) -> None:
        """Add the first meta graph, and the values of the variables.

        `graph` is a GraphDef, a MetaGraphDef, a FunctionDefLibrary (ours or TensorFlow's), any of them serialised, or a
        RestoreGraph. `variables` are read in `save`, so a source must stay open until then; they go by the keys that the graph's
        saver restores, or, without a saver, by the names of the graph's variables. A graph without nodes (a library) gets a
        variable for each value. `saver` names ops that are in the graph; without one, and without one in the MetaGraphDef,
        such ops are added.

        Ops and tensors are given by name. `assets_list` goes into `asset_file_def` and `init_op` into a signature, as
        TensorFlow 2 has them; `assets_collection` and `main_op` (or `legacy_init_op`, its old name) into collections, as
        TensorFlow 1 has them. `train_op` goes into a signature. `clear_devices` clears them wherever they stand, in functions too.

        Raises DropError: `builder-order` for a second call, twice the same tags, a second main op; `signature-invalid`;
        `asset-invalid`; `savedmodel-inconsistent` where graph and values do not fit together.
        """
        if self._meta_graphs:
            raise DropError(
                "builder-order",
                "the variables have been added already",
                remedy="add further meta graphs with add_meta_graph",
            )
        meta_graph = meta_graph_of(graph)
        signatures = _signatures(signature_def_map, init_op, train_op)
        tensors = tensors_of(variables)
        self._source = variables
        if saver is not None:
            meta_graph.saver_def.ParseFromString(saver.SerializeToString())
        elif not meta_graph.HasField("saver_def"):
            tensors = _with_saver(meta_graph, tensors)
        _check_has_object_graph(meta_graph, tensors)
        self._tensors = tensors
        self._entries = {key: BundleEntry(tensor.dtype, tensor.shape) for key, tensor in tensors.items()}
        _add_main_op(meta_graph, main_op or legacy_init_op)
        files = AssetFiles(self._assets.files)
        for assets, in_collection in ((assets_list, False), (assets_collection, True)):
            pairs = [located(meta_graph, asset) for asset in assets or ()]
            named = [(tensor, files.add(source)) for tensor, source in pairs]
            list_assets(meta_graph, named, in_collection=in_collection)
        self._add(meta_graph, tags, signatures, clear_devices=clear_devices, strip=strip_default_attrs)
        self._assets = files

    def add_meta_graph(
        self,
        graph: GraphLike,
        tags: Iterable[str],
        signature_def_map: Mapping[str, SignatureDef | Message] | None = None,
        *,
        assets_list: Sequence[Asset | str] | None = None,
        clear_devices: bool = False,
        init_op: str | None = None,
        train_op: str | None = None,
        saver: SaverDef | Message | None = None,
        strip_default_attrs: bool = False,
        assets_collection: Sequence[Asset | str] | None = None,
        main_op: str | None = None,
        legacy_init_op: str | None = None,
    ) -> None:
        """Add a further meta graph, which uses the variables and the assets of the first, or some of them.

        The arguments are those of `add_meta_graph_and_variables`, and so are the errors.
        """
        if not self._meta_graphs:
            raise DropError(
                "builder-order",
                "the variables have not been added yet",
                remedy="add the first meta graph with add_meta_graph_and_variables",
            )
        meta_graph = meta_graph_of(graph)
        signatures = _signatures(signature_def_map, init_op, train_op)
        if saver is not None:
            meta_graph.saver_def.ParseFromString(saver.SerializeToString())
        elif not meta_graph.HasField("saver_def") and (found := graph_variables(meta_graph)):
            add_saver(meta_graph, found)
        _add_main_op(meta_graph, main_op or legacy_init_op)
        for assets, in_collection in ((assets_list, False), (assets_collection, True)):
            pairs = [located(meta_graph, asset) for asset in assets or ()]
            named = [(tensor, self._assets.find(source)) for tensor, source in pairs]
            list_assets(meta_graph, named, in_collection=in_collection)
        self._add(meta_graph, tags, signatures, clear_devices=clear_devices, strip=strip_default_attrs)

    def add_extra_asset(self, name: str, source: str | Path | bytes) -> None:
        """Have a file below `assets.extra/` at the path `name`, a copy of the file `source` or of that content.

        Raises DropError `asset-invalid` for a name that leads out of the folder or is taken.
        """
        key = str(destination(name))
        if key in self._extra:
            raise DropError("asset-invalid", f"there are two files for {EXTRA_ASSETS_DIRECTORY}/{key}")
        self._extra[key] = Path(source) if isinstance(source, str) else source

    def add_warmup_requests(self, requests: bytes) -> None:
        """Have TensorFlow Serving run these requests before it serves; they are made by `warmup.warmup_requests`."""
        self.add_extra_asset(WARMUP_FILENAME, requests)

    def add_model_description(self, description: str) -> None:
        """Have Keras' configuration of the model, a JSON text, as `assets/saved_model.json`."""
        self._assets.files[MODEL_DESCRIPTION] = description.encode()

    def set_debug_info(self, debug_info: "GraphDebugInfo | None") -> None:
        """Have `debug/saved_model_debug_info.pb`, without what concerns nodes that are in none of the graphs."""
        self._debug_info = debug_info

    def save(
        self,
        as_text: bool = False,
        *,
        shards: int | Sequence[Sequence[ShardItem]] = 1,
        on_bytes: Callable[[int], None] | None = None,
        sync: bool = True,
    ) -> Path:
        """Write everything; the path of `saved_model.pb`, or with `as_text` of `saved_model.pbtxt`.

        `shards`, `on_bytes` and `sync` are those of `write_saved_model`, and so are the errors; DropError `builder-order` without
        a meta graph or when called again, `savedmodel-inconsistent` where a value is used by no graph.
        """
        if self._is_saved:
            raise DropError("builder-order", "the model has been saved already")
        contents = self.contents()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.written = write_saved_model(
            self._path,
            contents,
            shards=shards,
            on_bytes=on_bytes,
            sync=sync,
            as_text=as_text,
            into_empty=True,
            before_model=getattr(self._source, "check_unchanged", None),
        )
        self._is_saved = True
        return self._path / (SAVED_MODEL_FILENAME_PBTXT if as_text else SAVED_MODEL_FILENAME_PB)

    def contents(self) -> Contents:
        """What `save` writes. Raises DropError `builder-order` without a meta graph, `savedmodel-inconsistent` as `save`."""
        if not self._meta_graphs:
            raise DropError("builder-order", "there is no meta graph to save")
        unused = sorted(self._tensors.keys() - self._used)
        if unused:
            raise DropError(
                "savedmodel-inconsistent",
                f"no graph restores {len(unused)} of the values, the first is {unused[0]!r}",
                remedy="leave them out of the variables",
            )
        model = saved_model_of(self._meta_graphs)
        return Contents(model, self._tensors, self._assets.files, self._extra, self._pruned(model))

    def _pruned(self, model: SavedModel) -> GraphDebugInfo | None:
        if self._debug_info is None:
            return None
        from smdaemon.savedmodel.debug_info import prune_debug_info

        return prune_debug_info(self._debug_info, model)

    def _add(
        self,
        meta_graph: MetaGraphDef,
        tags: Iterable[str],
        signatures: Mapping[str, SignatureDef],
        *,
        clear_devices: bool,
        strip: bool,
    ) -> None:
        """Check a meta graph that is complete but for tags and signatures, and keep it."""
        for key, signature in signatures.items():
            meta_graph.signature_def[key].CopyFrom(signature)
        self._tag(meta_graph, tags)
        if clear_devices:
            place(meta_graph, STRIP)
        if strip:
            strip_default_attrs(meta_graph)
            meta_graph.meta_info_def.stripped_default_attrs = True
        self._used |= check_graph(meta_graph, self._entries)
        self._meta_graphs.append(meta_graph)

    def _tag(self, meta_graph: MetaGraphDef, tags: Iterable[str]) -> None:
        wanted = [tags] if isinstance(tags, str) else list(dict.fromkeys(tags))
        if any(set(known.meta_info_def.tags) == set(wanted) for known in self._meta_graphs):
            raise DropError("builder-order", f"there is a meta graph with the tags {sorted(wanted)} already")
        del meta_graph.meta_info_def.tags[:]
        meta_graph.meta_info_def.tags.extend(wanted)
        if not meta_graph.meta_info_def.tensorflow_version:
            meta_graph.meta_info_def.tensorflow_version = TENSORFLOW_VERSION


def _with_saver(
    meta_graph: MetaGraphDef, tensors: dict[str, Tensor | PartitionedTensor]
) -> dict[str, Tensor | PartitionedTensor]:
    """Adds a saver for the graph's variables; the values by the keys that it restores."""
    variables = graph_variables(meta_graph)
    if variables:
        joined = joined_pieces(variables, tensors)
        missing = [variable.name for variable in variables if variable.key not in joined]
        if missing:
            raise DropError(
                "savedmodel-inconsistent",
                f"{len(missing)} variables of the graph have no value, the first is {missing[0]!r}",
            )
        add_saver(meta_graph, variables)
        return joined
    if meta_graph.graph_def.node or not tensors:
        return tensors
    return _with_variables(meta_graph, tensors)


def _with_variables(
    meta_graph: MetaGraphDef, tensors: dict[str, Tensor | PartitionedTensor]
) -> dict[str, Tensor | PartitionedTensor]:
    """Makes a variable of each value in a graph that has no nodes yet, and the object tree that `tf.saved_model.load` builds."""
    wholes: Any = tensors  # of a partitioned tensor, too, only type and shape are asked for
    tree = nest(wholes)
    objects = object_graphs(tree, wholes)
    made = meta_graph_of(restore_graph(tree, wholes, objects.keys))
    library = FunctionDefLibrary()
    library.CopyFrom(meta_graph.graph_def.library)
    meta_graph.MergeFrom(made)
    meta_graph.graph_def.library.CopyFrom(library)
    meta_graph.object_graph_def.ParseFromString(objects.saved)
    keyed = {objects.keys[name]: tensor for name, tensor in tensors.items()}
    return {**keyed, OBJECT_GRAPH_KEY: StringScalar(objects.trackable)}


def _check_has_object_graph(meta_graph: MetaGraphDef, tensors: Mapping[str, object]) -> None:
    has_variables = any(node.HasField("variable") for node in meta_graph.object_graph_def.nodes)
    if has_variables and OBJECT_GRAPH_KEY not in tensors:
        raise DropError(
            "savedmodel-inconsistent",
            f"the graph has an object tree with variables, but the values have no {OBJECT_GRAPH_KEY} to restore them by",
        )


def _signatures(
    given: Mapping[str, SignatureDef | Message] | None, init_op: str | None, train_op: str | None
) -> dict[str, SignatureDef]:
    """The checked signatures, and those that stand for ops."""
    signatures = {}
    for key, signature in (given or {}).items():
        if key in {INIT_OP_SIGNATURE_KEY, TRAIN_OP_SIGNATURE_KEY}:
            raise DropError("signature-invalid", f"the signature key {key!r} is reserved for an op")
        made = SignatureDef.FromString(signature.SerializeToString())
        for name, info in (*made.inputs.items(), *made.outputs.items()):
            _check_tensor_info(f"{name!r} of signature {key!r}", info)
        signatures[key] = made
    for key, op in ((INIT_OP_SIGNATURE_KEY, init_op), (TRAIN_OP_SIGNATURE_KEY, train_op)):
        if op is not None:
            signatures[key] = op_signature_def(op, key)
    return signatures


def _check_tensor_info(where: str, info: TensorInfo) -> None:
    encoding = info.WhichOneof("encoding")
    if encoding is None:
        raise DropError("signature-invalid", f"{where} has neither a name nor sparse nor composite parts")
    if encoding == "composite_tensor":
        for component in info.composite_tensor.components:
            _check_tensor_info(f"a component of {where}", component)
    elif not info.dtype:
        raise DropError("signature-invalid", f"{where} has no dtype")


def _add_main_op(meta_graph: MetaGraphDef, op: str | None) -> None:
    """Puts the op to be run after loading into the collection where TensorFlow 1 has it."""
    if op is None:
        return
    for key in (MAIN_OP_KEY, LEGACY_INIT_OP_KEY):
        if key in meta_graph.collection_def:
            raise DropError("builder-order", f"the graph has a main op already, in its collection {key!r}")
    if all(node.name != operation(op) for node in meta_graph.graph_def.node):
        raise DropError("savedmodel-inconsistent", f"the main op {op!r} is not in the graph")
    meta_graph.collection_def[MAIN_OP_KEY].node_list.value.append(op)
