"""One export from source to a complete SavedModel directory: read → write → verify.

This is plain synchronous code: the command line calls it as it is, the daemon calls it in a worker thread. Publishing the
directory under a version number is the caller's next step (see publish/).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smdaemon.errors import DropError, fault
from smdaemon.export.plan import ExportPlan
from smdaemon.savedmodel.verify import verify
from smdaemon.savedmodel.weights import write_weights
from smdaemon.sources.formats import open_source, unchanged
from smdaemon.sources.select import select


class Report(Protocol):
    """Who is told how an export goes. Every method may raise to stop the export; `advance` comes from several threads."""

    def writing(self, tensors: int, nbytes: int) -> None:
        """The source is understood; this much will be written."""
        ...

    def advance(self, nbytes: int) -> None:
        """So many bytes more have been written."""
        ...

    def verifying(self) -> None:
        """Everything is written; it will be read back."""
        ...


class Silent:
    """The report of a caller who does not want one."""

    def writing(self, tensors: int, nbytes: int) -> None:
        """Say nothing."""

    def advance(self, nbytes: int) -> None:
        """Say nothing."""

    def verifying(self) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote: how many tensors, how many bytes of values."""

    tensors: int
    nbytes: int


def export(plan: ExportPlan, target: Path, report: Report | None = None) -> Exported:
    """Write the SavedModel that `plan` describes as the directory `target`, which must not exist yet.

    Raises DropError where the source is unsound or changes meanwhile, EnvironmentFault where the machine refuses. What was
    written until then stays in `target`; it belongs to the caller.
    """
    report = report or Silent()
    with open_source(plan.source, plan.format) as source:
        tensors = select(source.tensors, include=plan.include, exclude=plan.exclude, rename=plan.rename)
        if not tensors:
            raise DropError("source-empty", f"{str(plan.source)!r} holds no tensors")
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        report.writing(len(tensors), nbytes)
        try:
            write_weights(
                target,
                tensors,
                tags=plan.tags,
                separator=plan.separator,
                shards=plan.shards_for(nbytes),
                on_bytes=report.advance,
                sync=plan.sync,
            )
            unchanged(source)
            if plan.verify:
                report.verifying()
                verify(target)
        except OSError as error:
            raise fault(error, "writing the export") from error
    return Exported(len(tensors), nbytes)
