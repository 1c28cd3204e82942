"""What two SavedModels have in common and what not: variables, signatures, graphs, devices, assets."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from smdaemon.placement import count_devices
from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel.assets import asset_file_defs, asset_paths
from smdaemon.savedmodel.lazy import LazyArray
from smdaemon.savedmodel.loader import LoadedModel, load
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.summary import SignatureSummary, TensorSummary, signatures_of
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.tensors import Tensor

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import GraphDef, MetaGraphDef, NodeDef

Value = TypeVar("Value")


@dataclass(frozen=True)
class Change:
    """Something of one name that is not the same in both: what of it (`dtype`, `shape`, `values`, ...), and both sides."""

    name: str
    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Part:
    """Names that only the second model has, only the first has, and that both have but not alike."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class MetaGraphDifference:
    """The meta graphs of the same tags in both models.

    Variables whose values differ have `values` with the largest absolute difference as `b` (None where that has no meaning: strings,
    signs of zeros), and "infinite" beside a NaN or an infinity. `devices` counts each device, over all places.
    """

    tags: tuple[str, ...]
    variables: Part
    signatures: Part
    nodes: Part
    functions: Part
    devices: Part
    assets: Part

    def __bool__(self) -> bool:
        return any((self.variables, self.signatures, self.nodes, self.functions, self.devices, self.assets))


@dataclass(frozen=True)
class Difference:
    """What differs; false where nothing does. `tag_sets` are those of meta graphs that only one model has."""

    tag_sets: Part
    meta_graphs: tuple[MetaGraphDifference, ...]

    def __bool__(self) -> bool:
        return bool(self.tag_sets) or any(self.meta_graphs)


def diff(a: Path, b: Path, *, values: bool = True) -> Difference:
    """Compare two SavedModels meta graph by meta graph; with `values` every byte of the variables that both have is read.

    Values are compared in small pieces. Raises DropError as loading does.
    """
    sets = [_tag_sets(export_dir) for export_dir in (a, b)]
    tag_sets = _part({_text(tags): () for tags in sets[0]}, {_text(tags): () for tags in sets[1]}, _same)
    compared = []
    for tags in sets[0]:
        if tags in sets[1]:
            with load(a, tags) as first, load(b, tags) as second:
                compared.append(_meta_graphs(first, second, values=values))
    return Difference(tag_sets, tuple(compared))


def _tag_sets(export_dir: Path) -> list[frozenset[str]]:
    _, model = read_saved_model(export_dir)
    return list(dict.fromkeys(frozenset(meta_graph.meta_info_def.tags) for meta_graph in model.meta_graphs))


def _text(tags: Iterable[str]) -> str:
    return ", ".join(sorted(tags)) or "(no tags)"


def _meta_graphs(a: LoadedModel, b: LoadedModel, *, values: bool) -> MetaGraphDifference:
    def variable(name: str, first: LazyArray, second: LazyArray) -> Iterator[Change]:
        return _variable(name, first, second, values=values)

    first, second = a.meta_graph, b.meta_graph
    return MetaGraphDifference(
        tags=tuple(sorted(a.tags)),
        variables=_part(a.variables, b.variables, variable),
        signatures=_part(signatures_of(first), signatures_of(second), _signature),
        nodes=_part(_nodes(first.graph_def), _nodes(second.graph_def), _node),
        functions=_part(_functions(first.graph_def), _functions(second.graph_def), _hidden),
        devices=_part(_devices(first), _devices(second), _whole),
        assets=_part(_assets(a), _assets(b), _hidden),
    )


def _part(
    a: Mapping[str, Value], b: Mapping[str, Value], compare: Callable[[str, Value, Value], Iterable[Change]]
) -> Part:
    return Part(
        tuple(sorted(b.keys() - a.keys())),
        tuple(sorted(a.keys() - b.keys())),
        tuple(change for name in sorted(a.keys() & b.keys()) for change in compare(name, a[name], b[name])),
    )


def _same(_name: str, _a: object, _b: object) -> Iterator[Change]:
    yield from ()


def _whole(name: str, a: object, b: object, what: str = "count") -> Iterator[Change]:
    """One change that shows both sides."""
    if a != b:
        yield Change(name, what, a, b)


def _hidden(name: str, a: object, b: object) -> Iterator[Change]:
    """One change that does not: the sides are long, or hashes."""
    if a != b:
        yield Change(name, "content", None, None)


def _signature(key: str, a: SignatureSummary, b: SignatureSummary) -> Iterator[Change]:
    """The method, and each input and output that only one side has or that is not the same tensor."""
    yield from _whole(key, a.method, b.method, what="method")
    for side in ("inputs", "outputs"):
        first, second = getattr(a, side), getattr(b, side)
        for name in sorted(first.keys() | second.keys()):
            what = f"{side.removesuffix('s')} {name}"
            yield from _whole(key, _tensor_text(first.get(name)), _tensor_text(second.get(name)), what=what)


def _tensor_text(tensor: TensorSummary | None) -> str | None:
    if tensor is None:
        return None
    shape = (
        "any shape" if tensor.shape is None else f"({', '.join('?' if n is None else str(n) for n in tensor.shape)})"
    )
    return f"{tensor.dtype} {shape} {tensor.tensor}"


def _variable(name: str, a: LazyArray, b: LazyArray, *, values: bool) -> Iterator[Change]:
    if a.dtype is not b.dtype:
        yield Change(name, "dtype", a.dtype.name, b.dtype.name)
    if a.shape != b.shape:
        yield Change(name, "shape", a.shape, b.shape)
    if a.dtype is b.dtype and a.shape == b.shape and values:
        is_same, largest = compare_values(a, b)
        if not is_same:
            yield Change(name, "values", None, "infinite" if largest == inf else largest)


def compare_values(a: Tensor, b: Tensor) -> tuple[bool, float | None]:
    """Whether two tensors of one dtype and shape have the same bytes, and the largest absolute difference if not.

    That is None for strings and where only NaNs, or signs of zeros, differ. A difference from NaN or infinity counts as infinite.
    """
    if a.dtype is STRING:
        return all(x == y for x, y in zip(a.buffers(), b.buffers(), strict=True)), None
    import numpy as np

    is_same, largest = True, 0.0
    kind = a.dtype.numpy
    for x, y in _aligned(a, b):
        if x == y:
            continue
        is_same = False
        first, second = (np.frombuffer(side, kind) for side in (x, y))
        largest = max(largest, _largest(first, second))
    return is_same, None if is_same or not largest else largest


def _largest(a: Any, b: Any) -> float:
    """The largest absolute difference; infinite where one side is not finite or a NaN and the other is something else."""
    import numpy as np

    wide: type = np.complex128 if a.dtype.kind == "c" else np.float64
    if a.dtype.kind in "iu" and a.dtype.itemsize == 8:  # differences beyond 2**53 would be lost
        unequal = a != b
        return float(max((abs(int(x) - int(y)) for x, y in zip(a[unequal], b[unequal], strict=True)), default=0))
    first, second = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        apart = np.abs(first - second)
    apart[(first == second) | (np.isnan(first) & np.isnan(second))] = 0
    apart[np.isnan(apart)] = np.inf
    return float(apart.max(initial=0))


def _aligned(a: Tensor, b: Tensor) -> Iterator[tuple[bytes, bytes]]:
    """The same stretches of both values: slices are cut into other buffers than whole tensors."""
    x, y = a.buffers(), b.buffers()
    first, second = b"", b""
    while True:
        first = first or bytes(next(x, b""))
        second = second or bytes(next(y, b""))
        count = min(len(first), len(second))
        if not count:
            return
        yield first[:count], second[:count]
        first, second = first[count:], second[count:]


def _nodes(graph_def: "GraphDef") -> dict[str, "NodeDef"]:
    return {node.name: node for node in graph_def.node}


def _node(name: str, a: "NodeDef", b: "NodeDef") -> Iterator[Change]:
    """What of a node differs, but for its device, which is counted elsewhere."""
    if a.op != b.op:
        yield Change(name, "op", a.op, b.op)
    if a.input != b.input:
        yield Change(name, "inputs", tuple(a.input), tuple(b.input))
    attrs = sorted(
        key
        for key in a.attr.keys() | b.attr.keys()
        if key not in a.attr or key not in b.attr or deterministic(a.attr[key]) != deterministic(b.attr[key])
    )
    if attrs:
        yield Change(name, f"attrs {', '.join(attrs)}", None, None)


def _functions(graph_def: "GraphDef") -> dict[str, bytes]:
    return {function.signature.name: deterministic(function) for function in graph_def.library.function}


def _devices(meta_graph: "MetaGraphDef") -> dict[str, int]:
    total: Counter[str] = Counter()
    for found in count_devices(meta_graph).values():
        total.update(found)
    return dict(total)


def _assets(model: LoadedModel) -> dict[str, bytes | None]:
    """The hash of each asset's content by its name below assets/; None for one that is missing."""
    defs = asset_file_defs(model.meta_graph)
    return {asset.filename: _hash(path) for asset, path in zip(defs, asset_paths(model.export_dir, defs), strict=True)}


def _hash(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.digest()
