"""`smdaemon diff`: what differs between two SavedModels, without TensorFlow."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from smdaemon.cli import output
from smdaemon.cli.options import AsJson
from smdaemon.errors import fault

if TYPE_CHECKING:
    from smdaemon.savedmodel.diff import Change, Difference, Part

_SAME, _DIFFERENT = 0, 1


def diff(
    a: Path,
    b: Path,
    /,
    *,
    values: Annotated[bool, Parameter(negative="--no-values", help="Compare the values of variables, too.")] = True,
    as_json: AsJson = False,
) -> int:
    """Compare two SavedModels: variables, signatures, graph nodes, functions, devices and assets.

    Exits with 0 where they are the same and with 1 where they are not.

    Parameters
    ----------
    a
        The directory of the first SavedModel.
    b
        The directory of the second.
    """
    from smdaemon.savedmodel.diff import diff as diff_saved_models

    try:
        difference = diff_saved_models(a, b, values=values)
    except OSError as error:
        raise fault(error, "reading the SavedModels") from error
    if as_json:
        output.print_json({"same": not difference, **asdict(difference)})
    else:
        for line in _lines(difference):
            print(output.visible(line))
    return _DIFFERENT if difference else _SAME


def _lines(difference: "Difference") -> Iterator[str]:
    """`+` is in the second only, `-` in the first only, `~` in both and not alike."""
    if not difference:
        yield "no differences"
    yield from _part("meta graphs", difference.tag_sets)
    for meta_graph in difference.meta_graphs:
        if meta_graph:
            yield f"meta graph: {', '.join(meta_graph.tags) or '(no tags)'}"
        for kind in ("variables", "signatures", "nodes", "functions", "devices", "assets"):
            for line in _part(kind, getattr(meta_graph, kind)):
                yield f"  {line}"


def _part(kind: str, part: "Part") -> Iterator[str]:
    if not part:
        return
    yield f"{kind}: {len(part.added)} added, {len(part.removed)} removed, {len(part.changed)} changed"
    yield from (f"  + {name}" for name in part.added)
    yield from (f"  - {name}" for name in part.removed)
    yield from (f"  ~ {_change(change)}" for change in part.changed)


def _change(change: "Change") -> str:
    if change.what == "values":
        largest = f"{change.b:g}" if isinstance(change.b, float) else change.b
        apart = "" if largest is None else f", largest difference {largest}"
        return f"{change.name}: values differ{apart}"
    if change.a is None and change.b is None:
        return f"{change.name}: {change.what}"
    return f"{change.name}: {change.what} {change.a} -> {change.b}"
