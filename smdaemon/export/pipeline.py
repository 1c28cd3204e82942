"""One export from source to a complete SavedModel directory: read → assemble → write → verify.

This is plain synchronous code: the command line calls it as it is, the daemon calls it in a worker thread. Publishing the
directory under a version number is the caller's next step (see publish/).
"""

import errno
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smdaemon.confinement import confined
from smdaemon.errors import DropError, fault
from smdaemon.export.assemble import assemble
from smdaemon.export.plan import ExportPlan
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.verify import verify
from smdaemon.savedmodel.writer import Contents, write_saved_model
from smdaemon.sources.base import Source
from smdaemon.sources.files import source_fault
from smdaemon.sources.formats import identity_of, open_source, unchanged
from smdaemon.sources.segment import open_segment
from smdaemon.tensorbundle.slices import PartitionedTensor
from smdaemon.tensorbundle.tensors import Tensor


class Report(Protocol):
    """Who is told how an export goes. Every method may raise to stop the export; `advance` comes from several threads."""

    def writing(self, tensors: int, nbytes: int, working_bytes: int) -> None:
        """The source is understood; this much will be written, and each of the threads that write takes `working_bytes` to read it."""
        ...

    def advance(self, nbytes: int) -> None:
        """So many bytes more have been written."""
        ...

    def verifying(self) -> None:
        """Everything is written; it will be read back."""
        ...

    def read_back(self, nbytes: int) -> None:
        """So many bytes more have been read back."""
        ...


class Silent:
    """The report of a caller who does not want one."""

    def writing(self, tensors: int, nbytes: int, working_bytes: int) -> None:
        """Say nothing."""

    def advance(self, nbytes: int) -> None:
        """Say nothing."""

    def verifying(self) -> None:
        """Say nothing."""

    def read_back(self, nbytes: int) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote: how many tensors, how many bytes of values; and the plan's metric, where the source has it."""

    tensors: int
    nbytes: int
    metric: float | None = None


def export(plan: ExportPlan, target: Path, report: Report | None = None) -> Exported:
    """Write the SavedModel that `plan` describes as the directory `target`, which must not exist yet.

    Raises DropError where the source is unsound or changes meanwhile, EnvironmentFault where the machine refuses. What was
    written until then stays in `target`; it belongs to the caller.
    """
    report = report or Silent()
    with confined(plan.root, (*plan.trusted, *(plan.segment or ()), target)), open_plan_source(plan) as source:
        _check_content(plan)
        contents, sizes = _assembled(plan, source, target)
        tensors, nbytes = len(sizes), sum(sizes)
        report.writing(tensors, nbytes, source.working_bytes)
        try:
            write_saved_model(
                target,
                contents,
                shards=plan.shards_for(nbytes),
                on_bytes=report.advance,
                sync=plan.sync,
                as_text=plan.as_text,
            )
            unchanged(source)
            if plan.verify:
                report.verifying()
                _verify(target, report.read_back, past_cache=plan.segment is not None)
        except OSError as error:
            raise fault(error, "writing the export") from error
        return Exported(tensors, nbytes, _number(source.metadata, plan.metric))


def _check_content(plan: ExportPlan) -> None:
    """DropError `source-changed` where other content lies at the source than the plan is about.

    Ask once it is open: from then on `unchanged` sees to it.
    """
    if not plan.content:
        return
    found = str(identity_of(plan.source, plan.format))
    if found != plan.content:
        raise DropError(
            "source-changed",
            f"{str(plan.source)!r} was {plan.content} (inode-size-mtime) when it was accepted and is {found} now",
            remedy="what lies there now is another drop, with a job of its own, or is to be asked for anew;"
            " give each drop a name of its own, so that none takes another's place before it is exported",
        )


def _assembled(plan: ExportPlan, source: Source, target: Path) -> tuple[Contents, list[int]]:
    """What is to be written, and the bytes of each value."""
    try:
        contents = assemble(plan, source, target)
        return contents, [_nbytes(tensor) for key, tensor in contents.tensors.items() if key != OBJECT_GRAPH_KEY]
    except OSError as error:
        raise source_fault(error, Path(error.filename or plan.source)) from error


def _verify(target: Path, on_bytes: Callable[[int], None], *, past_cache: bool) -> None:
    try:
        verify(target, on_bytes, past_cache=past_cache)
    except DropError:
        if not target.is_dir():  # what was written has gone: a volume was unmounted, or somebody cleaned up
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target)) from None
        raise


def _number(metadata: Mapping[str, str], name: str) -> float | None:
    """The finite number of that name; None where there is none."""
    try:
        value = float(metadata.get(name, ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def open_plan_source(plan: ExportPlan) -> Source:
    """What the plan's tensors come from."""
    return open_source(plan.source, plan.format) if plan.segment is None else open_segment(*plan.segment)


def _nbytes(tensor: Tensor | PartitionedTensor) -> int:
    """Bytes of a value, of all its pieces together where it is partitioned."""
    if isinstance(tensor, PartitionedTensor):
        return sum(piece.nbytes for _slice, piece in tensor.parts)
    return tensor.nbytes
