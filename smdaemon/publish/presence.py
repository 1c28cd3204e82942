"""What of the versions that the journal knows is there: the look at a publish directory before anything in it is decided."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique
from pathlib import Path

from smdaemon.errors import EnvironmentFault, fault
from smdaemon.publish.local import LocalStore, identity_of, version_named
from smdaemon.publish.retention import Version

# Between the time of a model's file and that of its job's end, on two clocks perhaps: a file server's and ours.
_CLOCKS_APART_SECONDS = 60.0


@unique
class Standing(StrEnum):
    """What lies where a version was published; the values are what the control socket shows."""

    PRESENT = "present"
    # another directory than the one that was published, or none: a file, a link
    CHANGED = "changed"
    MISSING = "missing"
    # published into another directory than the model's present one
    ELSEWHERE = "elsewhere"
    # there, and not published by this daemon
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Looked:
    """What a look has found. `rows` are the journal's, newest first, each with its standing."""

    rows: list[tuple[Version, Standing]] = field(default_factory=list)
    # numbers of the publish directory that the journal does not know
    foreign: list[int] = field(default_factory=list)
    # by path, the identity of versions whose identity was not known
    adopted: dict[str, str] = field(default_factory=dict)
    # why a version is needed at the moment, by its number
    held: dict[int, str] = field(default_factory=dict)

    @property
    def present(self) -> list[Version]:
        """What was published by this daemon and lies there as it was, newest first."""
        return [version for version, standing in self.rows if standing is Standing.PRESENT]

    @property
    def missing(self) -> list[Version]:
        """What is gone by another's hand. None where nothing is left: an unmounted volume looks so, too."""
        return [version for version, standing in self.rows if standing is Standing.MISSING] if self.present else []

    @property
    def lost(self) -> bool:
        """Whether versions are missing and no other is there: an unmounted volume looks so."""
        return not self.numbers and any(standing is Standing.MISSING for _, standing in self.rows)

    @property
    def numbers(self) -> list[int]:
        """Every number that is there, whoever published it, newest first."""
        there = {version.version for version, standing in self.rows if standing in (Standing.PRESENT, Standing.CHANGED)}
        return sorted(there | set(self.foreign), reverse=True)


def look(store: LocalStore, rows: Sequence[Version], needed: Iterable[tuple[str, str]] = ()) -> Looked:
    """Look at the publish directory of a model; `needed` has paths that somebody reads, each with the reason.

    Raises EnvironmentFault where the directory cannot be read.
    """
    found = Looked()
    try:
        for row in rows:
            found.rows.append(_standing(store, row, found.adopted))
        known = {row.version for row, standing in found.rows if standing is not Standing.ELSEWHERE}
        found.foreign.extend(sorted(set(store.versions()) - known, reverse=True))
        for path, reason in (*_links(store.root), *needed):
            number = _number(store.root, path)
            if number is not None:
                found.held.setdefault(number, reason)
    except OSError as error:
        raise fault(error, "publish directory") from error
    return found


def refuse_bare(store: LocalStore, rows: Sequence[Version]) -> None:
    """EnvironmentFault `directory-missing` where a publish directory that `is_bare` had versions: an unmounted volume looks so.

    Whoever removed them on purpose has a way on: any file in the directory says that it is the right one.
    """
    published = [row.version for row in rows if row.export_dir == str(store.root / str(row.version))]
    if not published:
        return
    raise EnvironmentFault(
        "directory-missing",
        f"the publish directory {str(store.root)!r} is missing or empty, and {len(published)} versions were published there,"
        f" {max(published)} the newest",
        remedy="mount its volume; where the versions were removed on purpose, make the directory and put any file into it;"
        " smdaemon tries again by itself",
        retryable=True,
    )


def is_bare(root: Path) -> bool:
    """Whether a publish directory is missing or empty; EnvironmentFault where that cannot be told."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError as error:
        raise fault(error, "publish directory") from error


def _standing(store: LocalStore, row: Version, adopted: dict[str, str]) -> tuple[Version, Standing]:
    path = store.root / str(row.version)
    if row.export_dir != str(path):
        return row, Standing.ELSEWHERE
    identity = identity_of(path)
    if identity is None:
        return row, Standing.MISSING
    if identity and not row.identity and not identity.endswith("/") and _is_as_old(path, row.published_at):
        adopted[row.export_dir] = identity
        row = replace(row, identity=identity)
    return row, Standing.PRESENT if identity and identity == row.identity else Standing.CHANGED


def _is_as_old(path: Path, published_at: float) -> bool:
    """Whether the directory may be what was published then: nothing in it, by a look at its top, is younger."""
    with os.scandir(path) as entries:
        newest = max(entry.stat(follow_symlinks=False).st_mtime for entry in entries)
    return newest <= published_at + _CLOCKS_APART_SECONDS


def _links(root: Path) -> list[tuple[str, str]]:
    """The links that lie in the publish directory: what they lead to has a name that somebody uses."""
    try:
        with os.scandir(root) as entries:
            return [(entry.path, f"the link {entry.name!r} leads to it") for entry in entries if entry.is_symlink()]
    except FileNotFoundError:
        return []


def _number(root: Path, path: str) -> int | None:
    """The version that `path` leads into, once every link is followed; None for a path elsewhere."""
    real, top = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if not real.is_relative_to(top) or real == top:
        return None
    return version_named(real.relative_to(top).parts[0])
