"""`smdaemon export`: one source to one SavedModel, without a daemon."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import Parameter

from smdaemon.cli.options import AsJson
from smdaemon.errors import ConfigError, fault
from smdaemon.export.pipeline import Exported, Report, Silent
from smdaemon.export.pipeline import export as export_source
from smdaemon.export.plan import ExportPlan
from smdaemon.publish.local import publish

if TYPE_CHECKING:
    import rich.progress

_Repeated = Annotated[list[str] | None, Parameter(negative="")]
_SHARDS_LIMIT = 99_999  # the file names have five digits


def export(
    source: Path,
    export_dir: Path,
    /,
    *,
    format: str = "auto",  # noqa: A002 - the flag's name
    tags: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    include: _Repeated = None,
    exclude: _Repeated = None,
    rename: _Repeated = None,
    separator: str | None = None,
    shards: int = 0,
    verify: bool = True,
    sync: bool = True,
    quiet: Annotated[bool, Parameter(negative="")] = False,
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
    if not 0 <= shards <= _SHARDS_LIMIT:
        raise _usage(f"--shards takes 0 to {_SHARDS_LIMIT}, not {shards}")
    if "" in (tags or ()):
        raise _usage("--tags takes names, and one is empty")
    plan = ExportPlan(
        source=source,
        format=format,
        tags=tuple(tags or ["serve"]),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        rename=_renames(rename or ()),
        separator=separator or None,
        shards=shards,
        verify=verify,
        sync=sync,
    )
    began = time.perf_counter()
    target = export_dir.absolute()
    with _ended_by_sigterm(), _progress(shown=not quiet and sys.stderr.isatty()) as report:
        exported = _export_whole(plan, target, report)
    seconds = time.perf_counter() - began
    if as_json:
        result = {"tensors": exported.tensors, "bytes": exported.nbytes, "seconds": round(seconds, 3)}
        print(json.dumps({"export_dir": str(target)} | result))
    elif not quiet:
        from smdaemon.cli.output import human_bytes, visible

        tensors = f"{exported.tensors} tensor{'' if exported.tensors == 1 else 's'}"
        print(f"{visible(str(export_dir))}: {tensors}, {human_bytes(exported.nbytes)} in {seconds:.2f} s")


def _export_whole(plan: ExportPlan, target: Path, report: Report) -> Exported:
    """Write beside `target`, then rename; what is beside it is removed however this ends."""
    try:
        if os.path.lexists(target):
            raise ConfigError("export-dir-exists", f"{str(target)!r} exists already")
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        # the random name of the scratch directory would say nothing: name the directory that refused
        refused = OSError(error.errno, os.strerror(error.errno or 0), str(target.parent))
        raise fault(refused, "export directory") from error
    with scratch as folder:
        draft = Path(folder, "draft")
        exported = export_source(plan, draft, report)
        if not publish(draft, target):
            raise ConfigError("export-dir-exists", f"{str(target)!r} exists already")
    return exported


def _renames(items: Sequence[str]) -> dict[str, str]:
    """The names that OLD=NEW items give; ConfigError usage for an item that is none, or two for one name."""
    renames: dict[str, str] = {}
    for item in items:
        old, new = _pair(item)
        if old in renames:
            raise _usage(f"--rename gives {old!r} two names, {renames[old]!r} and {new!r}")
        renames[old] = new
    return renames


def _pair(item: str) -> tuple[str, str]:
    old, separator, new = item.partition("=")
    if not (old and separator and new):
        raise _usage(f"--rename takes OLD=NEW, not {item!r}")
    return old, new


def _usage(message: str) -> ConfigError:
    return ConfigError("usage", message, remedy="see: smdaemon export --help")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that nothing half written is left."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
