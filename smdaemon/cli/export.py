"""`smdaemon export`: one source to one SavedModel, without a daemon."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from smdaemon.cli.options import AsJson
from smdaemon.errors import ConfigError
from smdaemon.export.pipeline import Report, Silent
from smdaemon.export.pipeline import export as export_source
from smdaemon.export.plan import ExportPlan
from smdaemon.publish.local import publish

if TYPE_CHECKING:
    import rich.progress


def export(
    source: Path,
    export_dir: Path,
    *,
    format: str = "auto",  # noqa: A002 - the flag's name
    tags: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    rename: list[str] | None = None,
    separator: str | None = None,
    shards: int = 0,
    verify: bool = True,
    sync: bool = True,
    quiet: bool = False,
    as_json: AsJson = False,
) -> None:
    """Export SOURCE as a SavedModel; EXPORT_DIR itself becomes the SavedModel.

    EXPORT_DIR appears complete or not at all. Tensors keep their names; names such as layer/0/kernel or layer.0.kernel
    become nested objects.

    Parameters
    ----------
    source
        A training output: .npz, .npy, a directory of .npy, .safetensors, or a sharded safetensors index.
    export_dir
        The directory to make; it must not exist.
    format
        The source's format, where its name does not tell.
    tags
        Tags of the meta graph (default: serve).
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
    verify
        Read everything back and compare the checksums.
    sync
        Wait until the bytes are on the disk.
    quiet
        No progress bar and no closing line.
    as_json
        Print the result as JSON.
    """
    plan = ExportPlan(
        source=source,
        format=format,
        tags=tuple(tags or ["serve"]),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        rename=dict(_pair(item) for item in rename or ()),
        separator=separator,
        shards=shards,
        verify=verify,
        sync=sync,
    )
    began = time.perf_counter()
    target = export_dir.absolute()
    if target.exists():
        raise ConfigError("export-dir-exists", f"{str(export_dir)!r} exists already")
    if not target.parent.is_dir():
        raise ConfigError("directory-missing", f"{str(target.parent)!r} is not a directory")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        draft = Path(scratch, "draft")
        with _progress(shown=not quiet and sys.stderr.isatty()) as report:
            exported = export_source(plan, draft, report)
        if not publish(draft, target):
            raise ConfigError("export-dir-exists", f"{str(export_dir)!r} exists already")
    seconds = time.perf_counter() - began
    if as_json:
        print(
            json.dumps(
                {
                    "export_dir": str(target),
                    "tensors": exported.tensors,
                    "bytes": exported.nbytes,
                    "seconds": round(seconds, 3),
                }
            )
        )
    elif not quiet:
        from smdaemon.cli.output import human_bytes, visible

        print(
            f"{visible(str(export_dir))}: {exported.tensors} tensors, {human_bytes(exported.nbytes)} in {seconds:.2f} s"
        )


def _pair(item: str) -> tuple[str, str]:
    old, separator, new = item.partition("=")
    if not (old and separator and new):
        raise ConfigError("usage", f"--rename takes OLD=NEW, not {item!r}")
    return old, new


class _Bar:
    """A report that moves a progress bar."""

    def __init__(self, progress: "rich.progress.Progress") -> None:
        self._progress = progress
        self._task = progress.add_task("reading", total=None)

    def writing(self, tensors: int, nbytes: int) -> None:
        self._progress.update(self._task, description=f"writing {tensors} tensors", total=nbytes)

    def advance(self, nbytes: int) -> None:
        self._progress.advance(self._task, nbytes)

    def verifying(self) -> None:
        self._progress.update(self._task, description="verifying")


@contextmanager
def _progress(*, shown: bool) -> Iterator[Report]:
    """A progress bar on stderr where it is `shown`."""
    if not shown:
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress)
