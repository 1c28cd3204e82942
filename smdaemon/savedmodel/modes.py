"""Train, eval and predict graphs of one model in one SavedModel: the variables are saved once, each mode is a meta graph.

So `tf.estimator` exported all modes together, under these tags:

    train    {"train"}
    eval     {"eval"}
    predict  {"serve"}

The variables are those of the first mode that is there, in this order; the others use them, or some of them.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from smdaemon.durable import rename_no_replace, sync_directory
from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import AssetFileDef, MetaGraphDef, SignatureDef
from smdaemon.savedmodel.asset_files import Asset
from smdaemon.savedmodel.builder import Builder
from smdaemon.savedmodel.constants import ASSETS_DIRECTORY, ASSETS_KEY, EVAL, SERVING, TRAINING
from smdaemon.savedmodel.graph_input import GraphLike, meta_graph_of
from smdaemon.savedmodel.mismatch import Mismatch
from smdaemon.savedmodel.name_map import NameMap
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.reexport import reexport
from smdaemon.savedmodel.restores import restores
from smdaemon.savedmodel.savers import graph_variables
from smdaemon.savedmodel.values import tensors_of
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import Tensor


class Mode(StrEnum):
    """What a graph is for. The order is that in which the modes are asked for the variables."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "predict"


EXPORT_TAGS: Final[Mapping[Mode, str]] = {Mode.TRAIN: TRAINING, Mode.EVAL: EVAL, Mode.PREDICT: SERVING}


@dataclass(frozen=True)
class ModeGraph:
    """The graph of one mode with what `Builder.add_meta_graph` wants to know of it.

    `template` is the SavedModel that it comes from, if any: its variables are then matched by name as a re-export does.
    """

    graph: GraphLike
    signatures: Mapping[str, SignatureDef] = field(default_factory=dict)
    assets: Sequence[Asset | str] = ()
    main_op: str | None = None
    train_op: str | None = None
    template: Path | None = None
    template_tags: frozenset[str] = frozenset()


def modes_of(template: Path) -> dict[Mode, ModeGraph]:
    """The modes that the SavedModel in `template` has under their tags; DropError `tags-not-found` where it has none.

    Tags beside the mode's own, as of an accelerator, do not count; of several meta graphs for one mode the first is taken.
    """
    _, model = read_saved_model(template)
    found: dict[Mode, ModeGraph] = {}
    for mode, tag in EXPORT_TAGS.items():
        for meta_graph in sorted(model.meta_graphs, key=lambda meta_graph: len(meta_graph.meta_info_def.tags)):
            if tag in meta_graph.meta_info_def.tags:
                found[mode] = _of_template(template, meta_graph)
                break
    if not found:
        raise DropError("tags-not-found", f"{str(template)!r} has no meta graph for train, eval or serve")
    return found


def graph_of(template: Path, tags: frozenset[str] | None, mode: Mode) -> ModeGraph:
    """The meta graph of these tags in `template`; without tags that of the mode, else the only one.

    DropError `tags-not-found` where there is none such.
    """
    _, model = read_saved_model(template)
    if tags is None and len(model.meta_graphs) > 1:
        found = modes_of(template)
        if mode in found:
            return found[mode]
    for meta_graph in model.meta_graphs:
        if tags == frozenset(meta_graph.meta_info_def.tags) or (tags is None and len(model.meta_graphs) == 1):
            return _of_template(template, meta_graph)
    wanted = "one for its mode" if tags is None else f"the tags {', '.join(sorted(tags))}"
    raise DropError("tags-not-found", f"{str(template)!r} has no meta graph with {wanted}")


def _of_template(template: Path, meta_graph: MetaGraphDef) -> ModeGraph:
    """The meta graph without its list of assets, which are given to be listed anew: the names of two templates may clash."""
    definitions = list(meta_graph.asset_file_def)
    if ASSETS_KEY in meta_graph.collection_def:
        packed = meta_graph.collection_def[ASSETS_KEY].any_list.value
        known = {definition.tensor_info.name for definition in definitions}
        listed = [AssetFileDef.FromString(each.value) for each in packed]
        definitions += [definition for definition in listed if definition.tensor_info.name not in known]
        del meta_graph.collection_def[ASSETS_KEY]
    del meta_graph.asset_file_def[:]
    return ModeGraph(
        meta_graph,
        assets=[
            Asset(definition.tensor_info.name, template / ASSETS_DIRECTORY / definition.filename)
            for definition in definitions
        ],
        template=template,
        template_tags=frozenset(meta_graph.meta_info_def.tags),
    )


def export_all(
    base_dir: Path,
    modes: Mapping[Mode, ModeGraph],
    variables: Any,
    *,
    timestamp: int | None = None,
    step: int | None = None,
    **options: Any,
) -> dict[Mode, Path]:
    """Export all modes as one SavedModel into a new directory below `base_dir`; that directory for each mode.

    It is called by `step` or by `timestamp` (seconds), or, without either, by the seconds now or the next number that is free.
    It appears whole, by one rename. `options` are those of `write_modes`, and so are the errors; further
    DropError `export-dir-exists` where the directory exists.
    """
    if step is not None and timestamp is not None:
        raise DropError("request-invalid", f"both step {step!r} and timestamp {timestamp!r} are to name the export")
    number = timestamp if step is None else step
    if number is not None and number < 0:
        raise DropError("version-invalid", f"an export cannot be called {number!r}")
    base_dir.mkdir(parents=True, exist_ok=True)
    target = base_dir / str(int(time.time()) if number is None else number)
    _refuse_existing(target, is_given=number is not None)
    draft = base_dir / f".temp-{target.name}-{secrets.token_hex(4)}"
    write_modes(draft, modes, variables, **options)
    try:
        while not rename_no_replace(draft, target):
            _refuse_existing(target, is_given=number is not None)
            target = target.with_name(str(int(target.name) + 1))
        sync_directory(base_dir)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return dict.fromkeys(modes, target)


def _refuse_existing(target: Path, *, is_given: bool) -> None:
    if is_given and os.path.lexists(target):
        raise DropError("export-dir-exists", f"{str(target)!r} exists already")


def write_modes(
    export_dir: Path,
    modes: Mapping[Mode, ModeGraph],
    variables: Any,
    *,
    name_map: Mapping[str, str] | None = None,
    missing: Literal["error", "keep"] = "error",
    unused: Literal["error", "ignore"] = "error",
    clear_devices: bool = False,
    strip_default_attrs: bool = False,
    shards: int = 1,
    on_bytes: Callable[[int], None] | None = None,
    sync: bool = True,
) -> Path:
    """Write the SavedModel of all modes as the directory `export_dir`; its path.

    `variables` are those of `Builder.add_meta_graph_and_variables`, renamed by `name_map`; for a template they are matched by
    name as `reexport` does, and `missing` says whether its own values may stay. `unused` says whether a value that the first mode has no
    variable for is an error.

    Raises DropError: `request-invalid` without a mode, `savedmodel-inconsistent` (a Mismatch) where a mode has variables
    that the first has not, and what `reexport` and `Builder` raise.
    """
    builder = modes_builder(
        export_dir,
        modes,
        variables,
        name_map=name_map,
        missing=missing,
        unused=unused,
        clear_devices=clear_devices,
        strip_default_attrs=strip_default_attrs,
    )
    builder.save(shards=shards, on_bytes=on_bytes, sync=sync)
    return export_dir


def modes_builder(
    export_dir: Path,
    modes: Mapping[Mode, ModeGraph],
    variables: Any,
    *,
    name_map: Mapping[str, str] | None = None,
    missing: Literal["error", "keep"] = "error",
    unused: Literal["error", "ignore"] = "error",
    clear_devices: bool = False,
    strip_default_attrs: bool = False,
) -> Builder:
    """A builder with the meta graph of each mode, ready to save; arguments and errors are those of `write_modes`."""
    ordered = [mode for mode in Mode if mode in modes]
    if not ordered:
        raise DropError("request-invalid", "there is no graph of any mode to export")
    graphs = {mode: meta_graph_of(modes[mode].graph) for mode in ordered}
    _check_subsets(graphs)
    values = _values(modes[ordered[0]], graphs[ordered[0]], variables, name_map, missing=missing, unused=unused)
    builder = Builder(export_dir)
    for mode in ordered:
        add: Callable[..., None] = builder.add_meta_graph
        if mode is ordered[0]:
            add = partial(builder.add_meta_graph_and_variables, variables=values)
        add(
            graphs.pop(mode),  # the builder has its own copy: of a large graph no third one is wanted
            tags=[EXPORT_TAGS[mode]],
            signature_def_map=modes[mode].signatures,
            assets_list=modes[mode].assets,
            main_op=modes[mode].main_op,
            train_op=modes[mode].train_op,
            clear_devices=clear_devices,
            strip_default_attrs=strip_default_attrs,
        )
    return builder


def _values(
    mode: ModeGraph,
    meta_graph: MetaGraphDef,
    variables: Any,
    name_map: Mapping[str, str] | None,
    *,
    missing: Literal["error", "keep"],
    unused: Literal["error", "ignore"],
) -> Mapping[str, Tensor | PartitionedTensor]:
    """The values of the mode's variables by their keys in the bundle."""
    tensors: dict[str, Any] = tensors_of(variables)
    if mode.template is not None:
        contents = reexport(
            mode.template,
            tensors,
            tags=mode.template_tags,
            name_map=name_map,
            missing=missing,
            unused=unused,
            debug_info=False,
        )
        return contents.tensors
    renamed = _renamed_values(tensors, NameMap(name_map))
    if unused == "ignore":
        used = _keys(meta_graph) | {variable.name for variable in graph_variables(meta_graph)}
        return {name: tensor for name, tensor in renamed.items() if name in used}
    return renamed


def _renamed_values(tensors: Mapping[str, Any], rename: NameMap) -> dict[str, Any]:
    """The tensors by their new names; DropError `request-invalid` (a Mismatch) where the map names none, or gives two one name."""
    problems = [
        f"it names {old!r}, which is not among the tensors" for old in sorted(rename.exact.keys() - set(tensors))
    ]
    olds: dict[str, str] = {}
    twice = [old for old in tensors if olds.setdefault(rename(old), old) != old]
    problems += [f"it calls both {olds[rename(old)]!r} and {old!r} {rename(old)!r}" for old in twice]
    if problems:
        raise Mismatch("request-invalid", "the name map does not fit", problems)
    return {new: tensors[old] for new, old in olds.items()}


def _check_subsets(graphs: Mapping[Mode, MetaGraphDef]) -> None:
    first, *others = graphs
    saved = _keys(graphs[first])
    problems = [
        f"{mode} has the variable {key!r}, which {first} has not"
        for mode in others
        for key in sorted(_keys(graphs[mode]) - saved)
    ]
    if problems:
        raise Mismatch("savedmodel-inconsistent", f"only the variables of {first} are saved", problems)


def _keys(meta_graph: MetaGraphDef) -> set[str]:
    """The keys that a loader restores: those of the graph's saver, or of its variables where it has none yet."""
    if not meta_graph.HasField("saver_def"):
        return {variable.key for variable in graph_variables(meta_graph)}
    found = restores({node.name: node for node in meta_graph.graph_def.node})
    functions: Iterable[Any] = meta_graph.graph_def.library.function
    for function in functions:
        found |= {
            f"{function.signature.name}/{name}": outputs
            for name, outputs in restores({node.name: node for node in function.node_def}).items()
        }
    return {output.key for outputs in found.values() for output in outputs}
