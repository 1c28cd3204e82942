"""What one export is to do: a request joined with the settings of its model, every choice made."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smdaemon.errors import ConfigError, SmdaemonError
from smdaemon.paths import absolute

if TYPE_CHECKING:  # for an export without a daemon, which reads neither, they would take longer than the export
    from smdaemon.proto.v1 import ExportRequest
    from smdaemon.settings import ModelSettings

SHARD_BYTES = 256 << 20
"""A data file of this size is worth a thread of its own."""


@dataclass(frozen=True)
class SignaturePlan:
    """A signature by the names of tensors in the graph. `method` is predict, classify, regress or a full method name."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    method: str = "predict"


@dataclass(frozen=True)
class ModePlan:
    """Where the graph of one mode comes from."""

    template: Path
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """Everything that decides the bytes of an export; the fields mean what those of `ExportRequest` say.

    Shards of 0 mean: choose by size. No tags mean: those of the graph that is exported, else "serve".
    """

    source: Path
    # which content is to lie at the source, as `sources.formats.identity_of` tells it; empty for whatever lies there
    content: str = ""
    # nothing that a drop or a request names is read outside of this directory, and no link is followed; None: read whatever is named
    root: Path | None = None
    # what the operator named: it may lie anywhere
    trusted: tuple[Path, ...] = ()
    # a segment and its plan, in place of a source that is a file
    segment: tuple[Path, Path] | None = None
    # `source` is a published version, which is to be published once more as it is; all the rest counts for nothing then
    copy: bool = False
    # the name under which the model is served
    model_name: str = ""
    format: str = "auto"
    tags: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    shards: int = 0
    verify: bool = True
    sync: bool = True
    devices: str = "keep"
    template: Path | None = None
    function: Path | None = None
    serving_tensorflow: str = ""
    name_map: Mapping[str, str] = field(default_factory=dict)
    missing: str = "error"
    unused: str = "ignore"
    signatures: Mapping[str, SignaturePlan] = field(default_factory=dict)
    graph: str = "auto"
    meta_graph: Path | None = None
    prune: bool = False
    main_op: str = ""
    strip_default_attrs: bool = False
    debug_info: str = "keep"
    debug_info_map: Path | None = None
    as_text: bool = False
    assets_extra: Mapping[str, Path] = field(default_factory=dict)
    warmup: Path | None = None
    io_device: str = ""
    modes: Mapping[str, ModePlan] = field(default_factory=dict)
    # what in the source's metadata says how good the model is; empty for nothing
    metric: str = ""

    @classmethod
    def of(cls, source: Path, model: "ModelSettings", request: "ExportRequest") -> "ExportPlan":
        """The plan for `source`: what the request leaves open, the model decides. The request's paths are absolute.

        Looks where the links lead that the model's settings name.
        """
        template = request.template or model.template
        function = request.function or model.function
        warmup = request.warmup or model.warmup
        signatures = request.signatures or model.signatures
        root = None if model.follow_links else Path(model.watch)
        own_assets = {name: _operators(path, root) for name, path in model.assets_extra.items()}
        assets_extra = {name: Path(path) for name, path in request.assets_extra.items()} or own_assets
        text = request.as_text if request.HasField("as_text") else model.as_text
        meta_graph = request.meta_graph or model.meta_graph
        debug_map = request.debug_info_map or model.debug_info_map
        modes = request.modes or model.modes
        named = [model.template, model.function, model.warmup, model.meta_graph, model.debug_info_map]
        named += (*map(os.fspath, own_assets.values()), *(mode.template for mode in model.modes.values()))
        strip = request.strip_default_attrs if request.HasField("strip_default_attrs") else model.strip_default_attrs
        return cls(
            source=source,
            root=root,
            trusted=tuple(Path(path) for path in named if path),
            model_name=model.name,
            format=request.format or model.format,
            tags=tuple(request.tags or model.tags),
            include=tuple(request.include or model.include),
            exclude=tuple(request.exclude or model.exclude),
            rename=dict(request.rename or model.rename),
            separator=request.separator or model.separator or None,
            shards=request.shards or model.shards,
            verify=model.verify,
            devices=request.devices or model.devices,
            template=Path(template) if template else None,
            function=Path(function) if function else None,
            serving_tensorflow=request.serving_tensorflow or model.serving_tensorflow,
            name_map=dict(request.name_map or model.name_map),
            missing=request.missing or model.missing,
            unused=request.unused or model.unused,
            signatures={
                name: SignaturePlan(dict(each.inputs), dict(each.outputs), each.method or "predict")
                for name, each in signatures.items()
            },
            graph=request.graph or model.graph,
            meta_graph=Path(meta_graph) if meta_graph else None,
            prune=request.prune if request.HasField("prune") else model.prune,
            main_op=request.main_op or model.main_op,
            strip_default_attrs=strip,
            debug_info=request.debug_info or model.debug_info,
            debug_info_map=Path(debug_map) if debug_map else None,
            as_text=text,
            assets_extra=assets_extra,
            warmup=Path(warmup) if warmup else None,
            io_device=request.io_device or model.io_device,
            modes={name: ModePlan(Path(mode.template), tuple(mode.tags)) for name, mode in modes.items()},
            metric=model.metric,
        )

    def shards_for(self, nbytes: int) -> int:
        """How many data files `nbytes` of tensors are written to."""
        if self.shards:
            return self.shards
        # not by the processors of this machine: another one is to write the same files
        return max(1, min(nbytes // SHARD_BYTES, 8))

    def graph_files(self) -> Iterator[Path]:
        """The files of graphs that this export parses and writes anew."""
        folders = [self.source, *(mode.template for mode in self.modes.values())]
        folders += [self.template] if self.template else []
        for folder in folders:
            yield from (folder / "saved_model.pb", folder / "saved_model.pbtxt")
        yield Path(f"{self.source}.meta")
        yield self.source.with_suffix(".meta")
        yield from (path for path in (self.meta_graph, self.function) if path is not None)


def _operators(path: str, root: Path | None) -> Path:
    """A file that the configuration names, without links: those are the operator's own, a mounted ConfigMap is made of them.

    Only beneath the watched directory somebody else may have put them there: what lies there is left to be opened as all else in it.
    """
    beneath = root is not None and Path(absolute(path)).is_relative_to(absolute(root))
    return Path(path) if beneath else Path(os.path.realpath(path))


def check_choices(devices: str, io_device: str, where: str) -> None:
    """ConfigError `config-invalid` where a device policy or an I/O device cannot be understood."""
    from smdaemon.placement import parse_policy, validate_io_device

    try:
        parse_policy(devices)
        validate_io_device(io_device)
    except SmdaemonError as error:
        raise ConfigError("config-invalid", f"{where}: {error.message}", remedy=error.remedy) from error
