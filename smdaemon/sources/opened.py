"""An opened source made of files, and the checks of names that every format shares."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from smdaemon.errors import DropError
from smdaemon.sources.files import SourceFile
from smdaemon.tensorbundle.tensors import Tensor


class FileSource:
    """A `Source` whose tensors read from files. Closing it closes them; it holds nothing else."""

    def __init__(
        self,
        format_name: str,
        path: Path,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        files: Sequence[SourceFile],
        *,
        working_bytes: int = 0,
    ) -> None:
        self.format = format_name
        self.path = path
        self.tensors = tensors
        self.metadata = metadata
        self.working_bytes = working_bytes
        self._files = tuple(files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        for file in self._files:
            file.close()

    def files(self) -> tuple[Path, ...]:
        """Every file that the values come from."""
        return tuple(file.path for file in self._files)

    def check_unchanged(self) -> None:
        """DropError `source-changed` unless every file is still the one that was opened, untouched."""
        for file in self._files:
            file.check_unchanged()


class _Working(Protocol):
    @property
    def working_bytes(self) -> int: ...


def most_working_bytes(tensors: Mapping[str, _Working]) -> int:
    """Host memory that the most demanding of the tensors takes to be read, beside its buffers."""
    return max((tensor.working_bytes for tensor in tensors.values()), default=0)


def check_name(name: str) -> None:
    """DropError `name-invalid` for a tensor's name that is empty, absolute, or holds '..', NUL or no sound text."""
    if not name:
        raise DropError("name-invalid", "a tensor's name is empty")
    if name.startswith("/"):
        raise DropError("name-invalid", f"the tensor name {name!r} is absolute")
    if ".." in name:
        raise DropError("name-invalid", f"the tensor name {name!r} holds '..'")
    if "\0" in name:
        raise DropError("name-invalid", f"the tensor name {name!r} holds NUL")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DropError("name-invalid", f"the tensor name {name!r} is not valid Unicode") from None


def check_any(tensors: Mapping[str, Tensor], path: Path) -> None:
    """DropError `source-empty` where there is no tensor at all."""
    if not tensors:
        raise DropError("source-empty", f"{str(path)!r} holds no tensors")
