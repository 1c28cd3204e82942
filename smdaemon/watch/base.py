"""What the watch reports, and what it needs of those who know a drop when they see one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from smdaemon.sources.base import Identity


class DropFormat(Protocol):
    """What the watch needs of a `sources.base.Format`."""

    @property
    def name(self) -> str:
        """What the format is called."""
        ...

    @property
    def self_judging(self) -> bool:
        """Whether the structure of a drop says that nothing more is to come."""
        ...

    def is_complete(self, path: Path) -> bool:
        """As `Format.is_complete`."""
        ...


@runtime_checkable
class PartedFormat(DropFormat, Protocol):
    """What the watch needs of a `sources.base.PartedFormat`. Unless it is a directory, the drop itself is the first of its parts."""

    def parts(self, path: Path) -> list[str]:
        """As `PartedFormat.parts`."""
        ...


@runtime_checkable
class DirectoryFormat(PartedFormat, Protocol):
    """What the watch needs of a `sources.base.DirectoryFormat`; it is what claims a directory."""

    def seals(self, path: Path, file: Path) -> bool:
        """As `DirectoryFormat.seals`."""
        ...


Claiming = Callable[[Path], DropFormat | None]


@dataclass(frozen=True)
class Drop:
    """A finished training output, or a request for an export, at the moment it was found complete.

    With a `bug` it is what a look at it met that nobody foresaw; then nothing is known of its format, nor whether it is complete.
    """

    path: Path
    kind: Literal["output", "request"]
    format: str
    identity: Identity
    bug: Exception | None = None


@dataclass(frozen=True)
class RequestFile:
    """A request file as a format: it is closed or renamed into place when it is done, and never empty."""

    name: str
    self_judging: bool = True

    def is_complete(self, path: Path) -> bool:
        """Whether anything was written yet; what it says is for the one who answers it."""
        return path.stat().st_size > 0
