"""What a plan asks for: an export of a source, or a published version once more."""

from pathlib import Path

from smdaemon.export.pipeline import Exported, Report, export
from smdaemon.export.plan import ExportPlan
from smdaemon.export.republish import republish


def perform(plan: ExportPlan, target: Path, report: Report) -> Exported:
    """Make the directory `target`, which must not exist yet, as `plan` says. Raises as `export` and `republish`."""
    return republish(plan.source, target, report) if plan.copy else export(plan, target, report)
