"""What a trainer hands over, how that ends, and who takes it: what the server and the daemon say to each other."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Handed:
    """An export that a trainer committed: its own name for it, and what is wanted."""

    export: str
    trainer: str
    model: str
    step: int | None
    options: dict[str, Any]
    nbytes: int
    stall_seconds: float = 0.0
    skipped: int = 0


@dataclass(frozen=True)
class Ended:
    """How an export ended: published as a version, or not, with the reason."""

    version: int | None = None
    export_dir: str = ""
    code: str = ""
    message: str = ""
    remedy: str = ""


class Exports(Protocol):
    """What the server needs of the daemon."""

    async def accept(self, handed: Handed) -> tuple[int, Ended | None]:
        """Have the export as a durable job, once; its number, and how it ended if it has already.

        Raises SmdaemonError; it is asked again where that is retryable.
        """
        ...

    async def cancel(self, job: int) -> None:
        """Cancel the job, if that can still be done."""
        ...
