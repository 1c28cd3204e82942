"""What goes into the SavedModel: the chosen tensors, and the graph that the plan gives them.

Five ways lead there. Graphs of several modes share one set of values; a template gives graph and signatures to the source's
values, and so do the functions of a bundle; a SavedModel, and a checkpoint with its `.meta`, bring a graph of their own; everything else is weights alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from smdaemon.confinement import read_regular
from smdaemon.errors import DropError
from smdaemon.export.plan import ExportPlan
from smdaemon.paths import exists
from smdaemon.savedmodel.asset_files import MODEL_DESCRIPTION
from smdaemon.savedmodel.constants import (
    DEFAULT_SERVING_SIGNATURE_DEF_KEY,
    SERVING,
    WARMUP_FILENAME,
)
from smdaemon.savedmodel.weights import weights_contents
from smdaemon.savedmodel.writer import Contents
from smdaemon.sources.base import Source
from smdaemon.sources.files import read_whole, source_fault
from smdaemon.sources.select import select
from smdaemon.sources.tf_checkpoint import TF1_CHECKPOINT, CheckpointSource
from smdaemon.tensorbundle.tensors import Tensor, array_of

if TYPE_CHECKING:
    from smdaemon.placement import Policy
    from smdaemon.proto.tensorflow import GraphDebugInfo, SavedModel
    from smdaemon.savedmodel.modes import Mode, ModeGraph

SAVED_MODEL = "saved-model"
_DESCRIPTION_METADATA = "model_config"  # where Keras keeps a model's description


_BESIDE_THE_VALUES = "give the checkpoint its .meta file, or leave it out"
_OPTIONS_OF_GRAPHS = {
    "signatures": (
        "signatures by tensor names need the graph of the source",
        "give the checkpoint its .meta file, or take the signatures of a template",
    ),
    "meta_graph": ("a meta_graph is the graph of a checkpoint, and the source is none", "leave it out"),
    "main_op": ("a main_op is an op in the graph of a checkpoint", _BESIDE_THE_VALUES),
    "prune": ("to prune is for the graph of a checkpoint", _BESIDE_THE_VALUES),
    "name_map": ("a name_map needs a template, modes or functions to map names to", "rename gives tensors other names"),
    "serving_tensorflow": ("serving_tensorflow is the release for functions", "name their bundle, or leave it out"),
}
_FOR_CHECKPOINTS = ("meta_graph", "main_op", "prune")
"""What a model may be set to for its checkpoints, and a request that names another graph, or none, has no way to take back."""


def assemble(plan: ExportPlan, source: Source, target: Path) -> Contents:
    """The contents of the SavedModel that `plan` describes and that will be `target`; no value has been read when it returns.

    Raises DropError where tensors, graph and plan do not fit together.
    """
    tensors = select(source.tensors, include=plan.include, exclude=plan.exclude, rename=plan.rename)
    contents = _with_graph(plan, source, tensors, target)
    extra: dict[str, Path | bytes] = {**contents.assets_extra, **plan.assets_extra}
    if plan.warmup is not None:
        extra[WARMUP_FILENAME] = _warmup_requests(plan, plan.warmup, contents)
    assets = dict(contents.assets)
    if _DESCRIPTION_METADATA in source.metadata:
        assets.setdefault(MODEL_DESCRIPTION, source.metadata[_DESCRIPTION_METADATA].encode())
    debug_info = (
        contents.debug_info if plan.debug_info_map is None else _mapped_debug_info(plan.debug_info_map, contents)
    )
    return replace(contents, assets=assets, assets_extra=extra, debug_info=debug_info)


def _with_graph(plan: ExportPlan, source: Source, tensors: Mapping[str, Tensor], target: Path) -> Contents:
    if plan.function is not None:
        return _of_functions(plan, plan.function, tensors)
    if plan.modes:
        return _of_modes(plan, tensors, target)
    if plan.template is not None:
        return _of_template(plan, plan.template, tensors)
    if source.format == SAVED_MODEL and plan.graph == "auto":
        _refuse_selection(source, tensors)
        return _of_template(replace(plan, missing="keep"), plan.source, {})
    if isinstance(source, CheckpointSource):
        return _of_checkpoint(plan, source, tensors)
    _refuse_beside_weights(plan)
    return weights_contents(tensors, tags=plan.tags or (SERVING,), separator=plan.separator)


def _of_template(plan: ExportPlan, template: Path, tensors: Mapping[str, Tensor]) -> Contents:
    """The graph of `template` with the values of the source."""
    from smdaemon.savedmodel.reexport import reexport

    _refuse_ineffective(plan, "name_map", *_FOR_CHECKPOINTS)
    return reexport(
        template,
        tensors,
        tags=plan.tags or None,
        name_map=plan.name_map,
        missing="keep" if plan.missing == "keep" else "error",
        unused="error" if plan.unused == "error" else "ignore",
        policy=_policy(plan),
        strip_default_attrs=plan.strip_default_attrs,
        debug_info=plan.debug_info == "keep",
    )


def _of_functions(plan: ExportPlan, path: Path, tensors: Mapping[str, Tensor]) -> Contents:
    """JAX functions with the values of the source as their parameters."""
    from smdaemon.savedmodel.function_bundle import decode_functions
    from smdaemon.savedmodel.function_model import function_contents, parameter_values
    from smdaemon.savedmodel.options import SaveOptions

    _refuse_ineffective(plan, "name_map", "serving_tensorflow", *_FOR_CHECKPOINTS)
    if plan.template is not None or plan.modes:
        remedy = "leave out function, or template and modes"
        raise DropError("request-invalid", "both functions and a template are to give the graph", remedy=remedy)
    if plan.missing == "keep":
        remedy = "leave out missing, or give a template"
        raise DropError("request-invalid", "a function bundle has no values that could be kept", remedy=remedy)
    bundle = decode_functions(read_whole(path), str(path))
    bundle.check(plan.serving_tensorflow)
    values = parameter_values(bundle.parameters, tensors, name_map=plan.name_map, unused=plan.unused)
    options = SaveOptions(save_debug_info=plan.debug_info == "keep" and bundle.has_debug_info)
    return function_contents(bundle, values, tags=plan.tags or (SERVING,), options=options)


def _of_checkpoint(plan: ExportPlan, source: CheckpointSource, tensors: Mapping[str, Tensor]) -> Contents:
    """The checkpoint with the graph of its `.meta`, where it has one or its format says that it has; its weights otherwise."""
    from smdaemon.savedmodel import meta_graph as graphs
    from smdaemon.savedmodel.signatures_request import SignatureRequest

    meta = plan.meta_graph or graphs.graph_path(source.prefix)
    has_graph = plan.meta_graph or source.format == TF1_CHECKPOINT or exists(meta)
    if plan.graph == "none" or source.format == SAVED_MODEL or not has_graph:
        _refuse_beside_weights(plan)
        return source.contents(tensors, tags=plan.tags or (SERVING,), separator=plan.separator)
    _refuse_ineffective(plan, "signatures", *_FOR_CHECKPOINTS)
    _refuse_selection(source, tensors)
    options = graphs.GraphOptions(
        tags=plan.tags or (SERVING,),
        signatures={
            name: SignatureRequest(each.inputs, each.outputs, _method(each.method))
            for name, each in plan.signatures.items()
        },
        main_op=plan.main_op or None,
        prune=plan.prune,
        devices=_policy(plan),
        strip_default_attrs=plan.strip_default_attrs,
        asset_dirs=[meta.parent],
    )
    return graphs.graph_contents(source.bundle, graphs.read_meta_graph(meta), options)


def _of_modes(plan: ExportPlan, tensors: Mapping[str, Tensor], target: Path) -> Contents:
    """A meta graph for each mode, the values saved once."""
    from smdaemon.placement import place
    from smdaemon.savedmodel.modes import Mode, modes_builder

    _refuse_ineffective(plan, "name_map", *_FOR_CHECKPOINTS)
    known = {mode.value: mode for mode in Mode}
    graphs: dict[Mode, ModeGraph] = {}
    for name, mode in plan.modes.items():
        if name not in known:
            raise DropError("request-invalid", f"{name!r} is not a mode", remedy=f"modes are {', '.join(known)}")
        graphs[known[name]] = _mode_graph(known[name], mode.template, mode.tags)
    contents = modes_builder(
        target,
        graphs,
        tensors,
        name_map=plan.name_map,
        missing="keep" if plan.missing == "keep" else "error",
        unused="error" if plan.unused == "error" else "ignore",
        strip_default_attrs=plan.strip_default_attrs,
    ).contents()
    if plan.devices != "keep":
        place(_message(contents), _policy(plan))
    return contents


def _mode_graph(mode: "Mode", template: Path, tags: tuple[str, ...]) -> "ModeGraph":
    """The graph of `template` for a mode: that of the tags, else that of the mode's own tag, else its only one."""
    from smdaemon.savedmodel.modes import graph_of

    return graph_of(template, frozenset(tags) or None, mode)


def _warmup_requests(plan: ExportPlan, path: Path, contents: Contents) -> bytes:
    """The sample inputs in the file `path` as one warm-up request of the default signature."""
    from smdaemon.savedmodel.warmup import warmup_requests
    from smdaemon.sources.formats import open_source

    key = DEFAULT_SERVING_SIGNATURE_DEF_KEY
    signatures = [graph.signature_def[key] for graph in _message(contents).meta_graphs if key in graph.signature_def]
    if not signatures:
        raise DropError("request-invalid", f"warm-up requests need a signature {key!r}, and the graph has none")
    with open_source(path) as samples:
        arrays = {name: array_of(tensor) for name, tensor in samples.tensors.items()}
    return warmup_requests(plan.model_name, [arrays], signature=signatures[0])


def _mapped_debug_info(path: Path, contents: Contents) -> "GraphDebugInfo":
    """Debug info from a JSON file: node -> list of [file, line, function, text of the line], outermost call first."""
    from smdaemon.proto.mapping import parse_json
    from smdaemon.savedmodel.debug_info import Frame, make_debug_info, prune_debug_info

    try:
        traces = parse_json(read_regular(path))
        info = make_debug_info({node: [Frame(*frame) for frame in frames] for node, frames in traces.items()})
    except (TypeError, ValueError, AttributeError) as error:
        message = f"{str(path)!r} does not map nodes to lists of [file, line, function, code]"
        raise DropError("request-invalid", message) from error
    except OSError as error:
        raise source_fault(error, path) from error
    return prune_debug_info(info, _message(contents))


def _message(contents: Contents) -> "SavedModel":
    """The model as a message; one that is serialised already is of weights alone and is parsed for this."""
    from smdaemon.proto.tensorflow import SavedModel

    return SavedModel.FromString(contents.model) if isinstance(contents.model, bytes) else contents.model


def _policy(plan: ExportPlan) -> "Policy":
    from smdaemon.placement import parse_policy

    return parse_policy(plan.devices)


def _method(text: str) -> str:
    """A method name; predict, classify and regress stand for TensorFlow Serving's."""
    return f"tensorflow/serving/{text}" if text in {"predict", "classify", "regress"} else text


def _refuse_selection(source: Source, tensors: Mapping[str, Tensor]) -> None:
    """A graph that comes with its values needs all of them, under their names."""
    if tensors.keys() != source.tensors.keys() or any(tensors[name] is not source.tensors[name] for name in tensors):
        remedy = "export all tensors under their names, or the weights alone (graph: none)"
        raise DropError("request-invalid", "the graph of the source needs all tensors of the source", remedy=remedy)


def _refuse_beside_weights(plan: ExportPlan) -> None:
    """As below, for weights without a graph."""
    _refuse_ineffective(plan, *(_FOR_CHECKPOINTS if plan.graph == "none" else ()))


def _refuse_ineffective(plan: ExportPlan, *taken: str) -> None:
    """DropError for an option of graphs that the graph of this export does not take: it would be passed over in silence."""
    for option, (message, remedy) in _OPTIONS_OF_GRAPHS.items():
        if option not in taken and getattr(plan, option):
            raise DropError("request-invalid", message, remedy=remedy)
