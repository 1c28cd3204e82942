"""What every source gives: named lazy tensors and the file's own metadata.

A new format is one module with a `Format`, registered in `formats.py`.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from smdaemon.tensorbundle.tensors import Tensor


class Source(Protocol):
    """An opened training output. Its tensors may be read until it is closed; it never copies a value as a whole."""

    format: str
    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    working_bytes: int
    """Host memory that reading any one of the tensors takes at most, beside its buffers."""

    def __enter__(self) -> Self:
        """The source itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Release files and maps."""
        ...

    def files(self) -> tuple[Path, ...]:
        """Every file that the values come from: who writes one of them changes the source."""
        ...

    def check_unchanged(self) -> None:
        """DropError `source-changed` unless every file is still the one that was opened, untouched. Ask after reading."""
        ...


class Format(Protocol):
    """One source format: what it is called, what it takes, when a drop of it is complete, how it is opened."""

    name: str
    suffix: str
    """How the names of its files end; empty for a format whose drops are directories."""
    self_judging: bool
    """Whether `is_complete` is the last word. If not, more files may follow: wait for a quiet period too."""

    def claims(self, path: Path) -> bool:
        """Whether this entry of a watched directory is a drop of this format; looks at names only, opens no file."""
        ...

    def is_complete(self, path: Path) -> bool:
        """Whether the format's own structure says that nothing is missing.

        False while bytes are still to come; DropError where no further bytes could ever make it sound.
        """
        ...

    def open(self, path: Path) -> Source:
        """The source; DropError where it is unsound."""
        ...


@runtime_checkable
class PartedFormat(Format, Protocol):
    """A format whose drops are several files."""

    def parts(self, path: Path) -> list[str]:
        """The files that make it this drop: if one changes, comes or goes, it is a new one. Some may not be there yet.

        OSError where it, or a directory in it, goes away.
        """
        ...


class DirectoryFormat(PartedFormat, Protocol):
    """A format whose drops are directories."""

    def seals(self, path: Path, file: Path) -> bool:
        """Whether the writer of the drop at `path` says, by writing `file` in it, that the whole is finished."""
        ...


@dataclass(frozen=True)
class Identity:
    """What tells one drop from another at the same path: if any of these changes, it is a new drop."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Identity":
        """The identity of what `stat` describes."""
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def combined(cls, files: Mapping[str, "Identity"]) -> "Identity":
        """The identity of a drop of several files, by their names relative to its directory.

        Where a single file has its inode stands a digest over every file's name and identity, cut to 63 bits;
        the size is the sum, the time that of the newest.
        """
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(files):
            digest.update(os.fsencode(name) + b"\0" + str(files[name]).encode() + b"\0")
        return cls(
            int.from_bytes(digest.digest(), "big") >> 1,
            sum(file.size for file in files.values()),
            max((file.mtime_ns for file in files.values()), default=0),
        )

    def __str__(self) -> str:
        return f"{self.inode}-{self.size}-{self.mtime_ns}"
