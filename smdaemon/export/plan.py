"""What one export is to do: a request joined with the settings of its model, every choice made."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for an export without a daemon, which reads neither, they would take longer than the export
    from smdaemon.config import ModelSettings
    from smdaemon.proto.v1 import ExportRequest

SHARD_BYTES = 256 << 20
"""A data file of this size is worth a thread of its own."""


@dataclass(frozen=True)
class ExportPlan:
    """Everything that decides the bytes of an export. Shards of 0 mean: choose by size."""

    source: Path
    format: str = "auto"
    tags: tuple[str, ...] = ("serve",)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    shards: int = 0
    verify: bool = True
    sync: bool = True

    @classmethod
    def of(cls, source: Path, model: "ModelSettings", request: "ExportRequest") -> "ExportPlan":
        """The plan for `source`: what the request leaves open, the model decides."""
        return cls(
            source=source,
            format=request.format or model.format,
            tags=tuple(request.tags or model.tags),
            include=tuple(request.include),
            exclude=tuple(request.exclude),
            rename=dict(request.rename),
            separator=request.separator or model.separator or None,
            shards=request.shards or model.shards,
            verify=model.verify,
        )

    def shards_for(self, nbytes: int) -> int:
        """How many data files `nbytes` of tensors are written to."""
        if self.shards:
            return self.shards
        return max(1, min(nbytes // SHARD_BYTES, os.cpu_count() or 1, 8))
