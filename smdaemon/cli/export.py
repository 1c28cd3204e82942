"""`smdaemon export`: one source to one SavedModel, without a daemon."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

from cyclopts import Parameter

from smdaemon.cli.export_options import GraphOptions, TensorOptions, plan_of
from smdaemon.cli.options import AsJson
from smdaemon.cli.progress import progress
from smdaemon.errors import ConfigError, fault
from smdaemon.export.pipeline import Exported, Report
from smdaemon.export.pipeline import export as export_source
from smdaemon.export.plan import ExportPlan
from smdaemon.publish.local import publish


def export(
    source: Path,
    export_dir: Path,
    /,
    *,
    tensors: TensorOptions | None = None,
    graph: GraphOptions | None = None,
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
        A training output (.npz, .npy, a directory of .npy, .safetensors, a sharded safetensors index, .msgpack, .weights.h5, a directory
        of Orbax), a TensorFlow checkpoint (its prefix, its .index or its directory), or a SavedModel.
    export_dir
        The directory to make; it must not exist.
    verify
        Read everything back and compare the checksums.
    sync
        Wait until the bytes are on the disk.
    quiet
        No progress bar and no closing line.
    as_json
        Print the result as JSON.
    """
    plan = plan_of(source, tensors or TensorOptions(), graph or GraphOptions(), verify=verify, sync=sync)
    began = time.perf_counter()
    target = export_dir.absolute()
    with _ended_by_signals(), progress(shown=not quiet and sys.stderr.isatty()) as report:
        exported = _export_whole(plan, target, report)
    seconds = time.perf_counter() - began
    if as_json:
        result = {"tensors": exported.tensors, "bytes": exported.nbytes, "seconds": round(seconds, 3)}
        print(json.dumps({"export_dir": str(target)} | result))
    elif not quiet:
        from smdaemon.cli.output import counted, human_bytes, visible

        tensors_written = counted(exported.tensors, "tensor")
        print(f"{visible(str(export_dir))}: {tensors_written}, {human_bytes(exported.nbytes)} in {seconds:.2f} s")


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


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a hang-up end the block as an exception does, so that nothing half written is left. Under nohup a hang-up is nothing."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        # a terminal that is closed says so twice, by the kernel and by the shell: what is removed meanwhile is removed to its end
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
