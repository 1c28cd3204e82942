"""The `.npy` formats: one array in a file, and a directory of such files, nested as the tensors' names are."""

import os
from collections.abc import Iterator
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.paths import is_directory
from smdaemon.savedmodel.constants import SAVED_MODEL_FILENAME_PB, SAVED_MODEL_FILENAME_PBTXT
from smdaemon.sources.extents import StoredExtent
from smdaemon.sources.files import SourceFile, source_fault, stat_of
from smdaemon.sources.npyheader import USUAL_HEADER_BYTES, NpyHeader, header_bytes, parse_header, tensor_of
from smdaemon.sources.opened import FileSource, check_any, check_name, most_working_bytes
from smdaemon.sources.orbax_layout import TELLING
from smdaemon.sources.values import NumberTensor, TextTensor

_SUFFIX = ".npy"
_OTHER_SUFFIXES = (".npz", ".safetensors", ".safetensors.index.json", ".msgpack", ".weights.h5")
_OTHER_NAMES = frozenset([*TELLING, SAVED_MODEL_FILENAME_PB, SAVED_MODEL_FILENAME_PBTXT])
# not by its index: files of other kinds are called so, too
_CHECKPOINT_DATA = ".data-00000-of-"
_CLAIM_LIMIT = 10_000
"""No more entries of a directory tree are looked at to tell whose drop it is: a watch may meet any tree."""


class NpyFormat:
    """One `.npy` file: one tensor, named like the file; it has no metadata of its own."""

    name = "npy"
    suffix = _SUFFIX
    self_judging = True

    def claims(self, path: Path) -> bool:
        """See `Format`."""
        return path.name.endswith(_SUFFIX) and not os.path.isdir(path)  # noqa: PTH112 - this one never raises

    def is_complete(self, path: Path) -> bool:
        """Whether the file is as long as its header says.

        numpy.lib.format.open_memmap makes a file of full length before it holds values: its completeness cannot be seen.
        """
        file = SourceFile(path)
        try:
            return _is_whole(file, path.name)
        finally:
            file.close()

    def open(self, path: Path) -> FileSource:
        """See `Format`."""
        file = SourceFile(path)
        try:
            name = path.name.removesuffix(_SUFFIX)
            check_name(name)
            tensor = _tensor(file, name)
        except BaseException:
            file.close()
            raise
        return FileSource(self.name, path, {name: tensor}, {}, [file], working_bytes=tensor.working_bytes)


class NpyDirectoryFormat:
    """A directory that holds `.npy` files, at any depth: `layer/0/kernel.npy` is the tensor `layer/0/kernel`.

    Other files in it are left alone, and so are hidden ones. It has no metadata of its own.
    """

    name = "npydir"
    suffix = ""
    self_judging = False

    def claims(self, path: Path) -> bool:
        """Whether there is a `.npy` file in it, and no drop of another format, whose directory it would be then.

        OSError where it is going away, or may not be looked into.
        """
        if not is_directory(path):
            return False
        found = False
        for count, entry in enumerate(_walk(path)):
            if entry.name.endswith(_OTHER_SUFFIXES) or entry.name in _OTHER_NAMES or _CHECKPOINT_DATA in entry.name:
                return False
            if count >= _CLAIM_LIMIT:
                break
            found = found or entry.name.endswith(_SUFFIX)
        return found

    def is_complete(self, path: Path) -> bool:
        """Whether every array that is there is whole, and at least one is. More may follow: see `self_judging`."""
        names = _array_paths(path)
        for name, file_path in names:
            file = SourceFile(file_path, follow=False)
            try:
                if not _is_whole(file, name):
                    return False
            finally:
                file.close()
        return bool(names)

    def parts(self, path: Path) -> list[str]:
        """See `DirectoryFormat`."""
        return [entry.path for entry in _walk(path) if entry.name.endswith(_SUFFIX) and entry.is_file()]

    def seals(self, path: Path, file: Path) -> bool:  # noqa: ARG002 - the signature is the protocol's
        """No file says that it was the last."""
        return False

    def open(self, path: Path) -> FileSource:
        """See `Format`."""
        tensors: dict[str, NumberTensor | TextTensor] = {}
        files: list[SourceFile] = []
        for name, file_path in _array_paths(path):
            check_name(name)
            file = SourceFile(file_path, follow=False, transient=True)
            files.append(file)
            tensors[name] = _tensor(file, name)
        check_any(tensors, path)
        return FileSource(self.name, path, tensors, {}, files, working_bytes=most_working_bytes(tensors))


def _walk(top: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry beneath `top` that is not hidden and is not a directory; links to directories are not followed."""
    waiting = [os.fspath(top)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def _array_paths(top: Path) -> list[tuple[str, Path]]:
    """The tensors' names and their files, in the order of the names."""
    found = []
    stat_of(top)
    try:
        for entry in _walk(top):
            if entry.is_symlink() and entry.is_dir():
                raise DropError("source-not-regular", f"{entry.path!r} is a symbolic link inside the source")
            if entry.name.endswith(_SUFFIX):
                path = Path(entry.path)
                found.append((path.relative_to(top).as_posix().removesuffix(_SUFFIX), path))
    except OSError as error:
        raise source_fault(error, top) from error
    return sorted(found)


def _read_header(file: SourceFile, name: str) -> NpyHeader | None:
    """The header; None while the file is too short to hold it."""
    start = file.read(0, min(file.size, USUAL_HEADER_BYTES))
    nbytes = header_bytes(start, name)
    if nbytes is None or file.size < nbytes:
        return None
    return parse_header(start[:nbytes] if nbytes <= len(start) else file.read(0, nbytes), name)


def _is_whole(file: SourceFile, name: str) -> bool:
    header = _read_header(file, name)
    if header is None or file.size < header.data_start + header.data_bytes:
        return False
    _check_size(file, header)
    return True


def _tensor(file: SourceFile, name: str) -> NumberTensor | TextTensor:
    header = _read_header(file, name)
    if header is None:
        raise DropError("source-truncated", f"{str(file.path)!r} ends within its header, at byte {file.size}")
    _check_size(file, header)
    return tensor_of(header, StoredExtent(file, header.data_start, header.data_bytes), name)


def _check_size(file: SourceFile, header: NpyHeader) -> None:
    wanted = header.data_start + header.data_bytes
    if file.size != wanted:
        code = "source-truncated" if file.size < wanted else "source-corrupt"
        raise DropError(code, f"{str(file.path)!r} has {file.size} bytes, but its header tells of {wanted}")
