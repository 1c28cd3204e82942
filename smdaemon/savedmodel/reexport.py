"""A SavedModel once more with other values: graph, functions, signatures and assets of an existing one, tensors of a new run.

The trainer traces once; from then on a checkpoint is all that an export needs.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smdaemon.confinement import read_regular
from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import (
    ASSETS_DIRECTORY,
    DEBUG_DIRECTORY,
    DEBUG_INFO_FILENAME_PB,
    EXTRA_ASSETS_DIRECTORY,
)
from smdaemon.savedmodel.joined import JoinedTensor, ReducedTensor, joined_axis
from smdaemon.savedmodel.mismatch import Mismatch
from smdaemon.savedmodel.name_map import Matching, NameMap, Names, Pieces, match
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.template import TemplateBundle
from smdaemon.savedmodel.writer import Contents
from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.tensors import Tensor

if TYPE_CHECKING:
    from smdaemon.placement import Policy
    from smdaemon.proto.tensorflow import GraphDebugInfo, SavedModel


def reexport(
    template: Path,
    tensors: Mapping[str, Tensor],
    *,
    tags: Iterable[str] | None = None,
    name_map: Mapping[str, str] | None = None,
    missing: Literal["error", "keep"] = "error",
    unused: Literal["error", "ignore"] = "error",
    policy: "Policy | None" = None,
    strip_default_attrs: bool = False,
    debug_info: bool = True,
) -> Contents:
    """The contents of the SavedModel in the directory `template` with the values `tensors`, to be written by `write_saved_model`.

    Names are matched as name_map.py tells. `tags` chooses one meta graph, otherwise all stay. A variable that no tensor is for
    is an error, or keeps its value; a tensor that no variable is for is an error, or ignored; that none of them is for any is
    an error. What is no variable (the object graph; the content of tables, unless it is given) stays; without tensors all does. `policy` says what becomes of devices.
    The values, the template's too, are read when they are written; until then both must stay as they are.

    Raises DropError: `template-mismatch` (a Mismatch) with everything that does not fit, `tags-not-found`,
    `request-invalid` for a bad pattern of the name map, and what reading a SavedModel raises.
    """
    rename = NameMap(name_map)
    _, model = read_saved_model(template)
    bundle = TemplateBundle(template, model)
    keys: Iterable[str] = bundle.entries
    is_whole = tags is None or not _choose_meta_graph(model, frozenset(tags))
    if not is_whole:
        keys = _restored_keys(model, bundle)
    values = _Values(bundle, keys, tensors, rename)
    values.problems += _reset_problems(model, values)
    _raise_problems(values, missing, unused)
    debug = _debug_info(template, model, is_whole=is_whole) if debug_info else None
    if policy is not None or strip_default_attrs:
        _edit(model, policy, strip_default_attrs=strip_default_attrs)
    return Contents(
        model,
        values.result,
        assets=_files_below(template / ASSETS_DIRECTORY),
        assets_extra=_files_below(template / EXTRA_ASSETS_DIRECTORY),
        debug_info=debug,
        keep_variables=bool(bundle.entries),
    )


def _choose_meta_graph(model: "SavedModel", tags: frozenset[str]) -> bool:
    """Leaves the meta graph of exactly these tags; whether others went."""
    from smdaemon.savedmodel.loader import meta_graph_of

    meta_graph_of(model, tags)  # raises where there is none
    others = [
        number
        for number, meta_graph in enumerate(model.meta_graphs)
        if frozenset(meta_graph.meta_info_def.tags) != tags
    ]
    for number in reversed(others):
        del model.meta_graphs[number]
    return bool(others)


def _restored_keys(model: "SavedModel", bundle: TemplateBundle) -> set[str]:
    """The keys that the meta graphs of `model` have a use for; those of other meta graphs' variables go with these."""
    from smdaemon.savedmodel.consistency import check_graph, check_object_graph

    keys: set[str] = set()
    for meta_graph in model.meta_graphs:
        keys |= check_graph(meta_graph, bundle.entries)
        if bundle.objects is not None:
            keys |= check_object_graph(meta_graph.object_graph_def, bundle.objects, bundle.entries)
    return keys


def _edit(model: "SavedModel", policy: "Policy | None", *, strip_default_attrs: bool) -> None:
    from smdaemon import placement

    if policy is not None:
        placement.place(model, policy)
    if strip_default_attrs:
        for meta_graph in model.meta_graphs:
            placement.strip_default_attrs(meta_graph)


def _debug_info(template: Path, model: "SavedModel", *, is_whole: bool) -> "GraphDebugInfo | bytes | None":
    """The template's debug info; without what concerns the nodes of meta graphs that are left out."""
    from google.protobuf.message import DecodeError

    from smdaemon.proto.tensorflow import GraphDebugInfo

    path = template / DEBUG_DIRECTORY / DEBUG_INFO_FILENAME_PB
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # parsed in any case: TensorFlow's loaders fail on one that is damaged
        info = GraphDebugInfo.FromString(content)
    except DecodeError as error:
        raise DropError("savedmodel-corrupt", f"{str(path)!r} is no debug info: {error}") from error
    if is_whole:
        return content
    from smdaemon.savedmodel.debug_info import prune_debug_info

    return prune_debug_info(info, model)


def _files_below(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its path there; none where there is no such folder. OSError where it cannot be listed.

    Links are listed too, for the writer to refuse: following them would publish what lies elsewhere.
    """
    found = {}
    for directory, folders, names in os.walk(folder, onerror=_unless_missing):
        for name in folders + names:
            path = Path(directory, name)
            if name in names or path.is_symlink():
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _reset_problems(model: "SavedModel", values: "_Values") -> list[str]:
    """New values that no loader would keep."""
    from smdaemon.savedmodel.reset_variables import reset_keys

    return [
        f"the template's main op {op!r} sets {key!r} back to its initial value whenever the model is loaded"
        for meta_graph in model.meta_graphs
        for key, op in sorted(reset_keys(meta_graph).items())
        if key in values.renewed
    ]


def _raise_problems(values: "_Values", missing: str, unused: str) -> None:
    problems = values.problems
    if missing == "error":
        problems += [f"no tensor is the value of {key!r}" for key in values.missing]
    elif values.missing and values.unused and not values.renewed and not problems:
        problems.append(
            f"not one of the {len(values.unused)} tensors, such as {values.unused[0]!r}, is the value of a variable"
        )
    if unused == "error":
        problems += [f"the tensor {name!r} belongs to no variable" for name in values.unused]
    if problems:
        raise Mismatch("template-mismatch", "the tensors do not fit the template", problems)


class _Values:
    """The tensors of the new bundle by key (`result`) and what was found while they were chosen.

    `renewed` are the keys with new values, `missing` the variables without, `unused` the tensors without a key.
    """

    def __init__(
        self, bundle: TemplateBundle, keys: Iterable[str], tensors: Mapping[str, Tensor], rename: NameMap
    ) -> None:
        self._bundle = bundle
        self._tensors = tensors
        found = match(Names(keys, bundle.objects), tensors, rename, bundle.are_one_variable)
        self.problems = found.problems
        self.unused = sorted(found.unused)
        self.missing: list[str] = []
        self.renewed: set[str] = set()
        self.result = dict(self._chosen(sorted(keys), found))

    def _chosen(self, keys: Iterable[str], found: Matching) -> Iterator[tuple[str, Tensor]]:
        for key in keys:
            pieces = found.values.get(key)
            if pieces is None and self._bundle.must_have_value(key):
                copies = self._bundle.copies(key)
                pieces = next((found.values[copy] for copy in copies if copy in found.values), None)
                if pieces is None:
                    self.missing.append(key)
            if pieces is None:
                self._check_table(key, found)
                yield key, self._bundle.tensor(key)
                continue
            tensor = self._made(key, pieces)
            if tensor is not None:
                self.renewed.add(key)
                yield key, tensor

    def _check_table(self, key: str, found: Matching) -> None:
        """Keys and values of a table are one: both are new or both stay."""
        for end, other in (("-keys", "-values"), ("-values", "-keys")):
            twin = key.removesuffix(end) + other
            if key.endswith(end) and twin in found.values:
                self.problems.append(
                    f"{found.values[twin][0][0]!r} is the value of {twin!r}, but nothing is of {key!r}"
                )

    def _made(self, key: str, pieces: Pieces) -> Tensor | None:
        """The value of `key`; None, and a problem more, where its tensors do not fit."""
        entry = self._bundle.entries[key]
        names = [name for replicas in pieces for name in replicas]
        for name in names:
            dtype = self._tensors[name].dtype
            if dtype is not entry.dtype:
                self.problems.append(f"{name!r} is {dtype}, the template's {key!r} is {entry.dtype}")
                return None
        parts = [self._reduced(key, replicas) for replicas in pieces]
        if len(parts) == 1:
            tensor = parts[0]
            if self._fits(key, entry, tensor.shape):
                return tensor
            self.problems.append(f"{names[0]!r} has shape {tensor.shape}, the template's {key!r} {entry.shape}")
            return None
        axis = joined_axis(entry.shape, [part.shape for part in parts])
        if axis is None or (axis and entry.dtype is STRING):
            shapes = ", ".join(str(part.shape) for part in parts[:4])
            self.problems.append(
                f"{names[0]!r} and its other partitions, of shapes {shapes}, do not make {key!r} of {entry.shape}"
            )
            return None
        return JoinedTensor(parts, axis)

    def _reduced(self, key: str, replicas: tuple[str, ...]) -> Tensor:
        """The tensor of one partition: of equal copies the first; of those that each replica writes on its own what reading gives."""
        tensors = [self._tensors[name] for name in replicas]
        variable = self._bundle.variable(key) if len(tensors) > 1 else None
        if variable is None or variable.synchronization != _ON_READ or variable.aggregation not in {_SUM, _MEAN}:
            return tensors[0]
        if len({tensor.shape for tensor in tensors}) > 1:
            self.problems.append(f"{replicas[0]!r} and its replicas differ in shape")
            return tensors[0]
        return ReducedTensor(tensors, mean=variable.aggregation == _MEAN)

    def _fits(self, key: str, entry: BundleEntry, shape: tuple[int, ...]) -> bool:
        """Whether the variable takes a value of `shape`: its own, or one that its declaration leaves open."""
        if shape == entry.shape:
            return True
        if not self._bundle.must_have_value(key):
            return True
        variable = self._bundle.variable(key)
        if variable is None or not variable.HasField("shape"):
            return False
        if variable.shape.unknown_rank:
            return True
        declared = [dim.size for dim in variable.shape.dim]
        return len(declared) == len(shape) and all(
            size in {-1, given} for size, given in zip(declared, shape, strict=True)
        )


# VariableSynchronization.VARIABLE_SYNCHRONIZATION_ON_READ; VariableAggregation.VARIABLE_AGGREGATION_SUM and _MEAN
_ON_READ = 3
_SUM = 1
_MEAN = 2
