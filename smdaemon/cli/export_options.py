"""The options of `smdaemon export`, and the plan that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from smdaemon.errors import ConfigError
from smdaemon.export.plan import ExportPlan, ModePlan, SignaturePlan, check_choices

_Repeated = Annotated[list[str] | None, Parameter(negative="")]
_Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass
class TensorOptions:
    """Which tensors are exported, and how they are written.

    Parameters
    ----------
    format
        The source's format, where its name does not tell.
    include
        Only tensors whose name matches this glob pattern; may be repeated.
    exclude
        Not the tensors whose name matches this glob pattern; may be repeated.
    rename
        OLD=NEW, a tensor's name in the source and in the SavedModel; may be repeated.
    separator
        What separates the parts of a tensor's name (default: "/" where a name has one, else ".").
    shards
        Data files, each written by a thread of its own (0: by size).
    """

    format: str = "auto"
    include: _Repeated = None
    exclude: _Repeated = None
    rename: _Repeated = None
    separator: str | None = None
    shards: int = 0


@Parameter(name="*")
@dataclass
class GraphOptions:
    """What the SavedModel has besides the tensors.

    Parameters
    ----------
    tags
        Tags of the meta graph (default: those of the graph that is exported, else serve).
    template
        A SavedModel that gives graph, signatures, functions and assets; SOURCE gives the values.
    function
        A function bundle: JAX functions that become signatures; SOURCE gives their parameters.
    serving_tensorflow
        The oldest release of TensorFlow that must run these functions (default: the one that the bundle names).
    name_map
        OLD=NEW, a name in SOURCE and in the template or of a parameter, or both with one *; may be repeated.
    missing
        Where SOURCE lacks a variable of the template: fail, or keep the template's value.
    unused
        Where SOURCE has tensors that the template does not know: ignore them, or fail.
    graph
        Export the graph of SOURCE too where it has one (auto), or its weights only (none).
    mode
        MODE=DIR, or MODE=DIR:TAG,TAG: the graph of train, eval or predict, from a SavedModel; may be repeated, one meta graph each.
    signature
        KEY:INPUT=TENSOR,...->OUTPUT=TENSOR,... by tensor names of the graph, such as
        serving_default:x=x:0->y=y:0; may be repeated.
    meta_graph
        The graph of a checkpoint, where it is not in the .meta file beside it.
    prune
        Drop the nodes of a checkpoint's graph that its signatures do not need.
    main_op
        The op of a checkpoint's graph that is run after loading (default: one that initialises tables and local variables).
    devices
        Device annotations: keep, strip, soft (job, replica and task go, the type stays) or remap:PATTERN=DEVICE,...
    strip_default_attrs
        Leave out attributes that have their default value.
    debug_info
        Keep the debug info of SOURCE or template, or drop it.
    debug_info_map
        A JSON file that gives the debug info: node to list of [file, line, function, code].
    as_text
        Write saved_model.pbtxt in place of saved_model.pb.
    assets_extra
        DEST=SRC, a file to copy to assets.extra/DEST; may be repeated.
    warmup
        An .npz of sample inputs that becomes the warm-up request of serving_default.
    io_device
        As TensorFlow's experimental_io_device; checked.
    """

    tags: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    template: Path | None = None
    function: Path | None = None
    serving_tensorflow: str = ""
    name_map: _Repeated = None
    missing: Literal["error", "keep"] = "error"
    unused: Literal["ignore", "error"] = "ignore"
    graph: Literal["auto", "none"] = "auto"
    mode: _Repeated = None
    signature: _Repeated = None
    meta_graph: Path | None = None
    prune: _Flag = False
    main_op: str = ""
    devices: str = "keep"
    strip_default_attrs: _Flag = False
    debug_info: Literal["keep", "drop"] = "keep"
    debug_info_map: Path | None = None
    as_text: _Flag = False
    assets_extra: _Repeated = None
    warmup: Path | None = None
    io_device: str = ""


def _check_shards(count: int) -> None:
    from smdaemon.tensorbundle.writer import SHARDS_LIMIT

    if not 0 <= count <= SHARDS_LIMIT:
        raise _usage(f"--shards takes 0 to {SHARDS_LIMIT}, not {count}")


def plan_of(source: Path, tensors: TensorOptions, graph: GraphOptions, *, verify: bool, sync: bool) -> ExportPlan:
    """The plan that the command line describes; ConfigError `usage` where it cannot be understood."""
    if tensors.shards:  # knowing the limit costs an import
        _check_shards(tensors.shards)
    if "" in (graph.tags or ()):
        raise _usage("--tags takes names, and one is empty")
    if (graph.devices, graph.io_device) != ("keep", ""):  # understanding them costs an import
        check_choices(graph.devices, graph.io_device, "the command line")
    return ExportPlan(
        source=source,
        format=tensors.format,
        tags=tuple(graph.tags or ()),
        include=tuple(tensors.include or ()),
        exclude=tuple(tensors.exclude or ()),
        rename=_pairs("--rename", tensors.rename),
        separator=tensors.separator or None,
        shards=tensors.shards,
        verify=verify,
        sync=sync,
        devices=graph.devices,
        template=graph.template,
        function=graph.function,
        serving_tensorflow=graph.serving_tensorflow,
        name_map=_pairs("--name-map", graph.name_map),
        missing=graph.missing,
        unused=graph.unused,
        modes={name: _mode(text) for name, text in _pairs("--mode", graph.mode).items()},
        signatures=dict(_signature(text) for text in graph.signature or ()),
        graph=graph.graph,
        meta_graph=graph.meta_graph,
        prune=graph.prune,
        main_op=graph.main_op,
        strip_default_attrs=graph.strip_default_attrs,
        debug_info=graph.debug_info,
        debug_info_map=graph.debug_info_map,
        as_text=graph.as_text,
        assets_extra={name: Path(path) for name, path in _pairs("--assets-extra", graph.assets_extra).items()},
        warmup=graph.warmup,
        io_device=graph.io_device,
    )


def _signature(text: str) -> tuple[str, SignaturePlan]:
    """KEY:INPUT=TENSOR,...->OUTPUT=TENSOR,... as a key and a signature."""
    key, colon, rest = text.partition(":")
    inputs, arrow, outputs = rest.partition("->")
    if not (key and colon and arrow):
        raise _usage(f"--signature takes KEY:INPUT=TENSOR,...->OUTPUT=TENSOR,..., not {text!r}")
    return key, SignaturePlan(_tensors(inputs), _tensors(outputs))


def _mode(text: str) -> ModePlan:
    """DIR or DIR:TAG,TAG as the graph of a mode."""
    folder, _, tags = text.partition(":")
    return ModePlan(Path(folder), tuple(tag for tag in tags.split(",") if tag))


def _tensors(side: str) -> dict[str, str]:
    return _pairs("--signature", [item for item in side.split(",") if item])


def _pairs(option: str, items: Sequence[str] | None) -> dict[str, str]:
    """The names that OLD=NEW items give; ConfigError usage for an item that is none, or two for one name."""
    pairs: dict[str, str] = {}
    for item in items or ():
        old, separator, new = item.strip().partition("=")
        if not (old and separator and new):
            raise _usage(f"{option} takes OLD=NEW, not {item!r}")
        if old in pairs:
            raise _usage(f"{option} gives {old!r} two names, {pairs[old]!r} and {new!r}")
        pairs[old] = new
    return pairs


def _usage(message: str) -> ConfigError:
    return ConfigError("usage", message, remedy="see: smdaemon export --help")
