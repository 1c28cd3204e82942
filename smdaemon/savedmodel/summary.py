"""What is in a SavedModel, as plain values: for people, and as JSON by `dataclasses.asdict`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smdaemon.placement.place import count_colocations, count_devices
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY, VARIABLE_VALUE
from smdaemon.savedmodel.functions_summary import FunctionSummary, callable_functions, used_ops
from smdaemon.savedmodel.graph_names import legal_name
from smdaemon.savedmodel.name_map import object_names
from smdaemon.savedmodel.reader import (
    read_fingerprint,
    read_index,
    read_saved_model,
    read_trackable_graph,
    stored_bytes,
    variables_prefix,
)
from smdaemon.tensorbundle.reader import BundleReader

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import MetaGraphDef, TensorInfo


@dataclass(frozen=True)
class TensorSummary:
    """An input or output of a signature: the graph's tensor, its dtype, its shape (None: any rank; a dim of None: any size)."""

    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class SignatureSummary:
    """What a signature takes and gives, by name."""

    method: str
    inputs: dict[str, TensorSummary]
    outputs: dict[str, TensorSummary]


@dataclass(frozen=True)
class MetaGraphSummary:
    """One meta graph. `devices` counts device names by place (see `smdaemon.placement.places`).

    `colocations` counts the nodes that must be placed beside others, in graph and functions.
    """

    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: dict[str, SignatureSummary]
    nodes: int
    functions: int
    devices: dict[str, dict[str, int]]
    colocations: int
    ops: tuple[str, ...]
    concrete_functions: tuple[FunctionSummary, ...]


@dataclass(frozen=True)
class VariableSummary:
    """A tensor of the bundle: the variable's name, its key, dtype, shape, and bytes in the data files.

    The name is that in the program, or the path where the program has no other; the key for what is no variable.
    """

    name: str
    key: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class FingerprintSummary:
    """`fingerprint.pb`; numbers as text, for JSON readers round numbers of 64 bits."""

    saved_model_checksum: str
    graph_def_program_hash: str
    signature_def_hash: str
    saved_object_graph_hash: str
    checkpoint_hash: str
    uuid: str
    producer: int


@dataclass(frozen=True)
class Summary:
    """A SavedModel: its meta graphs, variables by name, bytes of every file by path, and fingerprint."""

    meta_graphs: tuple[MetaGraphSummary, ...]
    variables: tuple[VariableSummary, ...]
    variable_bytes: int
    files: dict[str, int]
    total_bytes: int
    fingerprint: FingerprintSummary | None


def summarize(export_dir: Path) -> Summary:
    """What is in the SavedModel `export_dir`; no tensor is read.

    Raises DropError `savedmodel-missing`, `savedmodel-corrupt`, and what opening the bundle raises.
    """
    _, model = read_saved_model(export_dir)
    variables = tuple(sorted(_variables(export_dir), key=lambda variable: variable.name))
    files = {
        path.relative_to(export_dir).as_posix(): path.stat().st_size
        for path in sorted(export_dir.rglob("*"))
        if path.is_file()
    }
    return Summary(
        meta_graphs=tuple(_meta_graph(meta_graph) for meta_graph in model.meta_graphs),
        variables=variables,
        variable_bytes=sum(variable.bytes for variable in variables),
        files=files,
        total_bytes=sum(files.values()),
        fingerprint=_fingerprint(export_dir),
    )


def _variables(export_dir: Path) -> Iterator[VariableSummary]:
    """Every tensor of the bundle but the object graph."""
    if read_index(export_dir) is None:
        return
    with BundleReader(variables_prefix(export_dir)) as bundle:
        trackable = read_trackable_graph(bundle)
        names = {
            attribute.checkpoint_key: attribute.full_name
            for node in ([] if trackable is None else trackable.nodes)
            for attribute in node.attributes
            if attribute.name == VARIABLE_VALUE
        }
        for key, entry in bundle.entries():
            if key != OBJECT_GRAPH_KEY:
                name = _variable_name(key, names.get(key))
                yield VariableSummary(name, key, str(entry.dtype), entry.shape, stored_bytes(entry))


def _variable_name(key: str, full_name: str | None) -> str:
    """The variable's name in the program; its path where the program only has that, made legal: `a=b` for `a_b`."""
    if not full_name:
        return key
    path, *_ = object_names(key)
    return path if full_name == legal_name(path) else full_name


def _meta_graph(meta_graph: "MetaGraphDef") -> MetaGraphSummary:
    graph_def = meta_graph.graph_def
    return MetaGraphSummary(
        tags=tuple(meta_graph.meta_info_def.tags),
        tensorflow_version=meta_graph.meta_info_def.tensorflow_version,
        signatures=signatures_of(meta_graph),
        nodes=len(graph_def.node),
        functions=len(graph_def.library.function),
        devices=count_devices(meta_graph),
        colocations=count_colocations(meta_graph),
        ops=used_ops(graph_def),
        concrete_functions=callable_functions(meta_graph),
    )


def signatures_of(meta_graph: "MetaGraphDef") -> dict[str, SignatureSummary]:
    """The signatures of a meta graph by key."""
    signatures = meta_graph.signature_def
    return {
        key: SignatureSummary(
            signatures[key].method_name, _tensors(signatures[key].inputs), _tensors(signatures[key].outputs)
        )
        for key in sorted(signatures)
    }


def _tensors(infos: "Mapping[str, TensorInfo]") -> dict[str, TensorSummary]:
    return {name: _tensor(infos[name]) for name in sorted(infos)}


def _tensor(info: "TensorInfo") -> TensorSummary:
    from smdaemon.savedmodel.tensor_info import dtype_name  # loads the messages, which importing this module must not

    shape = info.tensor_shape
    dims = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    return TensorSummary(_names(info), dtype_name(info.dtype), dims)


def _names(info: "TensorInfo") -> str:
    """The name of the graph's tensor; the names of its parts for a sparse or another composite tensor."""
    if info.HasField("coo_sparse"):
        sparse = info.coo_sparse
        return f"{sparse.values_tensor_name}, {sparse.indices_tensor_name}, {sparse.dense_shape_tensor_name}"
    return ", ".join(component.name for component in info.composite_tensor.components) or info.name


def _fingerprint(export_dir: Path) -> FingerprintSummary | None:
    stored = read_fingerprint(export_dir)
    if stored is None:
        return None
    return FingerprintSummary(
        str(stored.saved_model_checksum),
        str(stored.graph_def_program_hash),
        str(stored.signature_def_hash),
        str(stored.saved_object_graph_hash),
        str(stored.checkpoint_hash),
        stored.uuid,
        stored.version.producer,
    )
