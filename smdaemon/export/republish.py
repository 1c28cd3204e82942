"""A published version once more: its files under another directory, linked where the file system allows it, and proved sound.

The directory that comes out is one like any other: nothing of it goes when the older version goes.
"""

import errno
import os
from pathlib import Path

from smdaemon.durable import sync_directory
from smdaemon.errors import DropError, fault
from smdaemon.export.pipeline import Exported, Report
from smdaemon.savedmodel.verify import verify

_COPY_BYTES = 4 << 20
# No second name for this file: another file system, another owner's file, too many names, a file system without links.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


def republish(source: Path, target: Path, report: Report) -> Exported:
    """Make `target`, which must not exist yet, a SavedModel of the same files as the one in `source`, and verify it.

    Raises DropError where `source` is missing, is no SavedModel or fails verification, EnvironmentFault where the machine refuses.
    """
    try:
        return _republished(source, target, report)
    except OSError as error:
        raise fault(error, "publishing a version once more") from error


def _republished(source: Path, target: Path, report: Report) -> Exported:
    if not source.is_dir():
        raise DropError("source-missing", f"the version directory {str(source)!r} does not exist")
    folders, files = _listed(source)
    report.writing(0, sum((source / name).stat().st_size for name in files), 0)
    _make(source, target, folders, files, report)
    report.verifying()
    verified = verify(target, report.read_back)
    return Exported(verified.tensors, verified.bytes)


def _listed(source: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files of `source`, relative to it. A link to a file stands for the file; what is neither is refused."""
    folders: list[Path] = []
    files: list[Path] = []
    for folder, inner, names in os.walk(source, onerror=_refuse):
        folders.append(Path(folder).relative_to(source))
        for path in (Path(folder) / name for name in (*inner, *names)):
            if path.is_symlink() and not path.is_file():
                raise DropError("source-not-regular", f"{str(path)!r} is a link that leads to no file")
            if not path.is_file() and not path.is_dir():
                raise DropError("source-not-regular", f"{str(path)!r} is no regular file")
        files += [(Path(folder) / name).relative_to(source) for name in sorted(names)]
    return folders, files


def _refuse(error: OSError) -> None:
    raise fault(error, "reading a version") from error


def _make(source: Path, target: Path, folders: list[Path], files: list[Path], report: Report) -> None:
    for folder in folders:  # from above
        (target / folder).mkdir()
    for name in files:
        report.advance(0)
        _link_or_copy(source / name, target / name, report)
    for folder in reversed(folders):
        sync_directory(target / folder)


def _link_or_copy(source: Path, target: Path, report: Report) -> None:
    if not source.is_symlink():
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
        else:
            return
    with source.open("rb") as read, target.open("xb") as written:
        while chunk := read.read(_COPY_BYTES):
            report.advance(0)
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())
