"""A progress bar for an export."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from smdaemon.export.pipeline import Report, Silent

if TYPE_CHECKING:
    import rich.progress


class _Bar:
    """A report that moves a progress bar."""

    def __init__(self, progress: "rich.progress.Progress") -> None:
        self._progress = progress
        self._task = progress.add_task("reading", total=None)

    def writing(self, tensors: int, nbytes: int, working_bytes: int) -> None:  # noqa: ARG002 - the signature is the protocol's
        self._progress.update(self._task, description=f"writing {tensors} tensors", total=nbytes)

    def advance(self, nbytes: int) -> None:
        self._progress.advance(self._task, nbytes)

    def verifying(self) -> None:
        self._progress.reset(self._task, description="verifying")

    def read_back(self, nbytes: int) -> None:
        self._progress.advance(self._task, nbytes)


@contextmanager
def progress(*, shown: bool) -> Iterator[Report]:
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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)
