"""TensorFlow 1's export flow without TensorFlow: a checkpoint with its graph (`.meta`) becomes a SavedModel that serves.

The `.meta` file is a MetaGraphDef: graph, saver, collections, and the definitions of its ops. To it come tags, signatures, the op
to be run after loading, and the assets; the values come from the checkpoint as they are.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from smdaemon.confinement import read_regular, status_of
from smdaemon.errors import DropError, fault
from smdaemon.paths import is_file
from smdaemon.placement import KEEP, Policy, place
from smdaemon.placement import strip_default_attrs as without_default_attrs
from smdaemon.proto.tensorflow import MetaGraphDef, NodeDef, SavedModel, VariableDef
from smdaemon.savedmodel.asset_files import AssetFiles, list_assets, located
from smdaemon.savedmodel.consistency import check_graph
from smdaemon.savedmodel.constants import (
    ASSETS_KEY,
    INIT_OP_SIGNATURE_KEY,
    LEGACY_INIT_OP_KEY,
    MAIN_OP_KEY,
    SAVED_MODEL_SCHEMA_VERSION,
    SERVING,
)
from smdaemon.savedmodel.graph_names import operation
from smdaemon.savedmodel.prune import needed, prune
from smdaemon.savedmodel.savers import add_saver, graph_variables
from smdaemon.savedmodel.signatures import op_signature_def
from smdaemon.savedmodel.signatures_request import SignatureRequest, signature_defs
from smdaemon.savedmodel.weights import TENSORFLOW_VERSION
from smdaemon.savedmodel.writer import MESSAGE_BYTES_LIMIT, Contents
from smdaemon.tensorbundle.reader import BundleReader

META_SUFFIX = ".meta"

_TABLE_INITIALIZERS = "table_initializer"
_ASSET_FILEPATHS = "asset_filepaths"
_LOCAL_VARIABLES = "local_variables"
_INIT_NODE = "init_after_restore"


@dataclass(frozen=True)
class GraphOptions:
    """What becomes of a checkpoint's graph.

    `main_op` is run after loading; by default an op that initialises tables and local variables, where there are any.
    `prune` drops what the signatures do not need. `devices` is a policy of `placement`. Assets are looked for beneath the
    checkpoint's own directory and beneath `asset_dirs`, nowhere else.
    """

    tags: Sequence[str] = (SERVING,)
    signatures: Mapping[str, SignatureRequest] = field(default_factory=dict)
    main_op: str | None = None
    prune: bool = False
    devices: Policy = KEEP
    strip_default_attrs: bool = False
    asset_dirs: Sequence[Path] = ()


@contextmanager
def export_checkpoint_with_graph(
    prefix: Path, options: GraphOptions, *, meta: Path | None = None
) -> Iterator[Contents]:
    """The SavedModel of the checkpoint `prefix` with the graph of its `.meta` file, or of `meta`; write it within the block.

    Raises DropError: `checkpoint-graph-missing` and `checkpoint-graph-corrupt` for the `.meta` file, `signature-invalid`,
    `asset-invalid`, `savedmodel-inconsistent` where graph and checkpoint do not fit together, and what opening a bundle raises.
    """
    with BundleReader(prefix) as bundle:
        yield graph_contents(bundle, read_meta_graph(graph_path(prefix) if meta is None else meta), options)


def graph_path(prefix: Path) -> Path:
    """Where the graph of the checkpoint `prefix` is, if it has one."""
    return Path(f"{os.fspath(prefix)}{META_SUFFIX}")


def read_meta_graph(path: Path) -> MetaGraphDef:
    """The graph in a `.meta` file, which may be in text format too.

    Raises DropError `checkpoint-graph-missing` and `checkpoint-graph-corrupt`, EnvironmentFault where it may not be read.
    """
    if not is_file(path):
        raise DropError("checkpoint-graph-missing", f"there is no graph {str(path)!r}")
    try:
        if status_of(path).st_size > MESSAGE_BYTES_LIMIT:
            raise DropError("checkpoint-graph-corrupt", f"the graph {str(path)!r} is larger than a message can be")
        content = read_regular(path)
    except OSError as error:
        raise fault(error, "reading the graph") from error
    try:
        meta_graph = MetaGraphDef.FromString(content)
    except DecodeError as error:
        parsed = _parsed_text(content)
        if parsed is None:
            raise DropError("checkpoint-graph-corrupt", f"{str(path)!r} is no MetaGraphDef: {error}") from error
        meta_graph = parsed
    if not meta_graph.graph_def.node or any(not node.name or not node.op for node in meta_graph.graph_def.node):
        raise DropError("checkpoint-graph-corrupt", f"{str(path)!r} holds no graph")
    return meta_graph


def _parsed_text(content: bytes) -> MetaGraphDef | None:
    from google.protobuf import text_format

    from smdaemon.proto.pool import pool

    try:
        return text_format.Parse(content.decode(), MetaGraphDef(), descriptor_pool=pool())
    except (text_format.ParseError, UnicodeDecodeError, RecursionError):
        return None


def graph_contents(bundle: BundleReader, meta_graph: MetaGraphDef, options: GraphOptions) -> Contents:
    """The SavedModel of `meta_graph`, which is changed, with the values of `bundle`; the bundle must stay open until it is written."""
    assets = complete_meta_graph(meta_graph, options, Path(bundle.prefix).parent)
    entries = dict(bundle.entries())
    used = check_graph(meta_graph, entries)
    model = SavedModel(saved_model_schema_version=SAVED_MODEL_SCHEMA_VERSION, meta_graphs=[meta_graph])
    return Contents(
        model,
        {key: bundle.tensor(key) for key in entries if key in used},
        assets.files,
        # a loader runs the restore op whatever it restores, and fails without files
        keep_variables=meta_graph.HasField("saver_def"),
    )


def complete_meta_graph(
    meta_graph: MetaGraphDef, options: GraphOptions, directory: Path, assets: AssetFiles | None = None
) -> AssetFiles:
    """Makes a meta graph of a SavedModel, in place, of that of a checkpoint in `directory`; the assets that it needs.

    `assets` are those of meta graphs before it in the same SavedModel. Raises DropError as `export_checkpoint_with_graph` does.
    """
    try:
        return _completed(meta_graph, options, directory, AssetFiles() if assets is None else assets)
    except DecodeError as error:  # within a collection, whose values are messages of their own
        raise DropError(
            "checkpoint-graph-corrupt", f"a collection of the graph holds no sound message: {error}"
        ) from error


def _completed(meta_graph: MetaGraphDef, options: GraphOptions, directory: Path, assets: AssetFiles) -> AssetFiles:
    if not meta_graph.HasField("saver_def") and (variables := graph_variables(meta_graph)):
        add_saver(meta_graph, variables)
    signatures = signature_defs(options.signatures, meta_graph)
    main_op = _main_op(meta_graph, options)
    if options.prune:
        saver = meta_graph.saver_def
        roots = [saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name, main_op or ""]
        prune(meta_graph, [*roots, *_named(options)])
    meta_graph.signature_def.clear()
    for key, signature in signatures.items():
        meta_graph.signature_def[key].CopyFrom(signature)
    if main_op is not None:
        _set_main_op(meta_graph, main_op)
    _add_assets(meta_graph, assets, [directory, *options.asset_dirs])
    meta_info = meta_graph.meta_info_def
    del meta_info.tags[:]
    meta_info.tags.extend(sorted(set(options.tags)))
    meta_info.tensorflow_version = meta_info.tensorflow_version or TENSORFLOW_VERSION
    place(meta_graph, options.devices)
    if options.strip_default_attrs:
        without_default_attrs(meta_graph)
    return assets


def _named(options: GraphOptions) -> Iterator[str]:
    """The nodes that the signatures name."""
    for request in options.signatures.values():
        yield from request.operations()


def _main_op(meta_graph: MetaGraphDef, options: GraphOptions) -> str | None:
    """The op to be run after loading: the one asked for, the graph's own, or one made for its tables and local variables."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    if options.main_op is not None:
        if operation(options.main_op) not in nodes:
            raise DropError("savedmodel-inconsistent", f"the main op {options.main_op!r} is not in the graph")
        return operation(options.main_op)
    for key in (MAIN_OP_KEY, LEGACY_INIT_OP_KEY):
        if key in meta_graph.collection_def:
            for name in meta_graph.collection_def[key].node_list.value:
                return operation(name)
    served = needed(nodes, _named(options)) if options.prune else None
    initializers = [name for name in _initializers(meta_graph, nodes) if served is None or _fills(nodes[name], served)]
    if not initializers:
        return None
    name, count = _INIT_NODE, 0
    while name in nodes:
        count += 1
        name = f"{_INIT_NODE}_{count}"
    made = meta_graph.graph_def.node.add(name=name, op="NoOp")
    made.input.extend(f"^{initializer}" for initializer in initializers)
    if not any(op.name == "NoOp" for op in meta_graph.meta_info_def.stripped_op_list.op):
        meta_graph.meta_info_def.stripped_op_list.op.add(name="NoOp")
    return name


def _initializers(meta_graph: MetaGraphDef, nodes: Mapping[str, NodeDef]) -> list[str]:
    """The ops that fill tables and give local variables their values, which no checkpoint holds.

    Not those of input pipelines, which the collection of tables holds too: they would open the training data.
    """
    named = []
    if _LOCAL_VARIABLES in meta_graph.collection_def:
        for content in meta_graph.collection_def[_LOCAL_VARIABLES].bytes_list.value:
            named.append(VariableDef.FromString(content).initializer_name)  # noqa: PERF401 - read beside the loop below
    if _TABLE_INITIALIZERS in meta_graph.collection_def:
        named += meta_graph.collection_def[_TABLE_INITIALIZERS].node_list.value
    known = dict.fromkeys(operation(name) for name in named)
    return [name for name in known if name in nodes and nodes[name].op != "MakeIterator"]


def _fills(initializer: NodeDef, served: set[str]) -> bool:
    """Whether what an initialiser fills, its first input, is among the nodes that are served."""
    return not initializer.input or operation(initializer.input[0]) in served


def _set_main_op(meta_graph: MetaGraphDef, name: str) -> None:
    """Names the op where loaders look: in a signature those of today, in a collection the older."""
    for key in (MAIN_OP_KEY, LEGACY_INIT_OP_KEY):
        if key in meta_graph.collection_def:
            del meta_graph.collection_def[key]
    meta_graph.collection_def[MAIN_OP_KEY].node_list.value.append(name)
    meta_graph.signature_def[INIT_OP_SIGNATURE_KEY].CopyFrom(op_signature_def(name, INIT_OP_SIGNATURE_KEY))


def _add_assets(meta_graph: MetaGraphDef, assets: AssetFiles, directories: Sequence[Path]) -> None:
    """Finds the files that the graph names as assets and lists them."""
    if _ASSET_FILEPATHS not in meta_graph.collection_def:
        return
    if ASSETS_KEY in meta_graph.collection_def:
        del meta_graph.collection_def[ASSETS_KEY]
    del meta_graph.asset_file_def[:]
    named = []
    for listed in dict.fromkeys(meta_graph.collection_def[_ASSET_FILEPATHS].node_list.value):
        tensor, path = located(meta_graph, listed)
        named.append((tensor, assets.add(_found(path, tensor, directories))))
    for in_collection in (False, True):
        list_assets(meta_graph, named, in_collection=in_collection)


def _found(path: Path, tensor: str, directories: Sequence[Path]) -> Path:
    """The asset: at its own path, or by its name, beneath one of the directories; links are followed before that is judged."""
    roots = [os.path.realpath(directory) for directory in directories]
    for directory in directories:
        for candidate in (directory / path, directory / path.name, directory / "assets" / path.name):
            # what the graph names may be no path at all, or a circle of links: asked before it is followed
            if is_file(candidate):
                real = Path(os.path.realpath(candidate))
                if any(real.is_relative_to(root) for root in roots):
                    return real
    places = ", ".join(repr(str(directory)) for directory in directories)
    raise DropError(
        "asset-invalid",
        f"the asset {str(path)!r} of the tensor {tensor!r} is not beneath {places}",
        remedy="put the file beside the checkpoint, or name the directory it lies in",
    )
