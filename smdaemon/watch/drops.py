"""Which paths are drops, and which of them to report: what was seen in one watched directory.

Everything here is synchronous and belongs to one worker thread at a time.
"""

import contextlib
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from smdaemon.confinement import confined, unlinked
from smdaemon.errors import SmdaemonError
from smdaemon.proto.mapping import request_ending
from smdaemon.sources.base import Identity
from smdaemon.sources.orbax_layout import TELLING
from smdaemon.watch.base import Claiming, DirectoryFormat, Drop, DropFormat, PartedFormat, RequestFile
from smdaemon.watch.completeness import Moment, Sight, Touch, given_up_at, ready_at, renew
from smdaemon.watch.scan import ignored

# Of a TensorFlow checkpoint the index is the drop; its data and its graph may come before or after it.
_CHECKPOINT_PART = re.compile(r"(.+)\.(?:meta|data-[0-9]{5}-of-[0-9]{5})", re.DOTALL)
# The only files that can be a drop each, or one drop together with the directory they lie in.
ARRAY_ENDING = ".npy"
# The only files of which a change has a say in a directory above. Not Orbax's data: it says nothing by itself.
_HEARD = (ARRAY_ENDING, *(f"/{name}" for name in TELLING))
# However short the quiet period, nothing is looked at again at once and again.
_LEAST_PAUSE_SECONDS = 0.05


@dataclass
class Looked:
    """What came of a round of looking: drops to report, and when to look again at what is not finished."""

    drops: list[Drop] = field(default_factory=list)
    again: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Candidate:
    """One path that is or becomes a drop."""

    kind: Literal["output", "request"]
    format: DropFormat
    files: tuple[str, ...] = ()
    # Of a drop of several files: the index that named the others, so that it is parsed once.
    index: Identity | None = None
    reported: Identity | None = None
    # The identity that its format found incomplete: it is not asked again about the same bytes.
    incomplete: Identity | None = None
    # The identity that could not be taken, and the monotonic time before which it is not reported again.
    refused: Identity | None = None
    not_before: float = 0.0


class Sightings:
    """What is known about the candidates below one root. Remembers existing files only.

    `trust_stamps`: the clock that stamps files is ours, so that an old stamp means a file long at rest. On a network
    file system it is not; there only what we ourselves saw at rest counts. Ours may be set forward, and every stamp is old
    then: so it counts as it was when it was the furthest behind.
    """

    def __init__(
        self,
        root: str,
        claiming: Claiming,
        *,
        recursive: bool,
        quiet_seconds: float,
        trust_stamps: bool = True,
        follow_links: bool = False,
    ) -> None:
        self.trust_stamps = trust_stamps
        self._follow_links = follow_links
        self._root = root
        self._claiming = claiming
        self._recursive = recursive
        self._quiet_seconds = quiet_seconds
        self._pause_seconds = max(quiet_seconds, _LEAST_PAUSE_SECONDS)
        self._candidates: dict[str, _Candidate] = {}
        self._sights: dict[str, Sight] = {}
        self._owners: dict[str, str] = {}  # a part of a drop of several files → the index that names it
        # seconds by which the clock that stamps is ahead of that of the timers: the least that was seen
        self._clock_ahead = math.inf
        self._bugs: dict[str, Exception] = {}  # what the round under way met that nobody foresaw

    def changed(self) -> list[str]:
        """The known paths that are not, as far as one stat each tells, what they were when they were reported."""
        return [path for path in self._known() if not self._unchanged(path)]

    def _known(self) -> set[str]:
        return self._candidates.keys() | self._sights.keys()

    def _unchanged(self, path: str) -> bool:
        candidate = self._candidates.get(path)
        if candidate is None or candidate.reported is None or candidate.files != (path,):
            return False
        try:
            return Identity.of(os.stat(path)) == candidate.reported  # noqa: PTH116 - as below
        except OSError:
            return False

    def take_back(self, drop: Drop, not_before: float) -> None:
        """A drop that was reported could not be taken: the first look at that monotonic time or later reports it again."""
        candidate = self._candidates.get(str(drop.path))
        if candidate is not None:
            candidate.reported = None
            candidate.refused, candidate.not_before = drop.identity, not_before

    def retry_refused(self) -> None:
        """Report at the next look what could not be taken, however long it was to wait."""
        for candidate in self._candidates.values():
            candidate.refused = None

    def below(self, directories: Iterable[str]) -> list[str]:
        """The known paths below directories that went away."""
        prefixes = tuple(f"{directory}/" for directory in directories)
        return [path for path in self._known() if path.startswith(prefixes)] if prefixes else []

    def look(self, touches: Mapping[str, Touch], now: Moment) -> Looked:
        """Look at paths that were touched; for a part of a drop of several files at that drop.

        No OSError comes out of it: what cannot be looked at is not there. Nor does a bug in a format: it is reported with its drop.
        """
        with confined(None if self._follow_links else Path(self._root)):
            return self._look(touches, now)

    def _look(self, touches: Mapping[str, Touch], now: Moment) -> Looked:
        self._clock_ahead = min(self._clock_ahead, now.wall - now.monotonic)
        looked = Looked()
        claims: dict[str, DropFormat | None] = {}
        targets: dict[str, Touch] = {}
        for path, touch in touches.items():
            whole = self._whole(path, claims)
            if whole is None:
                targets[path] = max(touch, targets.get(path, Touch.SEEN))
            elif path in self._owners or _CHECKPOINT_PART.fullmatch(path):
                if touch or path in self._owners:  # else nothing is to be remembered until its index comes
                    self._see_part(path, touch, now)
                targets.setdefault(whole, Touch.SEEN)
            elif whole in self._candidates and not self._candidates[whole].format.self_judging:
                # It changed, so it will not be complete before a quiet period is over: no need to look at every file now.
                looked.again[whole] = now.monotonic + self._pause_seconds
            else:
                sealed = touch >= Touch.CLOSED and self._seals(whole, path, claims)
                targets[whole] = max(Touch.CLOSED if sealed else Touch.SEEN, targets.get(whole, Touch.SEEN))
        for path, touch in targets.items():
            try:
                self._look_at(path, touch, now, claims, looked)
            except Exception as error:  # noqa: BLE001 - whatever one drop meets, the others are looked at
                self._bugs[path] = error
        for path, bug in self._bugs.items():
            self._report_bug(path, bug, now, looked)
        self._bugs.clear()
        looked.drops.sort(key=lambda drop: drop.identity.mtime_ns)
        return looked

    def _whole(self, path: str, claims: dict[str, DropFormat | None]) -> str | None:
        """The drop that a path is only a part of: an index beside it, or a directory above it. None if it is no part."""
        if path in self._owners:
            return self._owners[path]
        if part := _CHECKPOINT_PART.fullmatch(path):
            return f"{part[1]}.index"
        if not path.endswith(_HEARD) and not os.path.isdir(path):  # noqa: PTH112 - as below
            return None
        at = path.find("/", len(self._root) + 1)
        while at != -1:
            above = path[:at]
            if above in self._candidates or self._claim(above, claims) is not None:
                return above
            at = path.find("/", at + 1) if self._recursive else -1
        return None

    def _seals(self, whole: str, path: str, claims: dict[str, DropFormat | None]) -> bool:
        """Whether a file of a directory, written just now, says that the whole directory is finished."""
        format_ = self._claim(whole, claims)
        try:
            return isinstance(format_, DirectoryFormat) and format_.seals(Path(whole), Path(path))
        except (SmdaemonError, OSError):
            return False  # it went away, or may not be read
        except Exception as error:  # noqa: BLE001 - as in _look
            self._bugs[whole] = error
            return False

    def _report_bug(self, path: str, bug: Exception, now: Moment, looked: Looked) -> None:
        """Once nothing of it changes any more: until then it may be any of its writer's half-done states that is met."""
        try:
            sight = self._see_file(path, Touch.SEEN, now)
        except OSError:
            return  # it went away
        ready = ready_at((sight,), self_judging=True, quiet_seconds=self._quiet_seconds)
        if now.monotonic < ready:
            looked.again[path] = ready
        else:
            known = self._candidates.get(path)
            looked.drops.append(Drop(Path(path), known.kind if known else "output", "", sight.identity, bug))

    def _claim(self, path: str, claims: dict[str, DropFormat | None]) -> DropFormat | None:
        if path not in claims:
            try:
                claims[path] = self._claiming(Path(path))
            except OSError:
                claims[path] = None  # it went away, or may not be looked into: nothing to take
            except Exception as error:  # noqa: BLE001 - as in _look
                self._bugs[path], claims[path] = error, None
        return claims[path]

    def _look_at(
        self,
        path: str,
        touch: Touch,
        now: Moment,
        claims: dict[str, DropFormat | None],
        looked: Looked,
    ) -> None:
        try:
            status = os.stat(path)  # noqa: PTH116 - paths are strings in here: there are many of them
        except OSError as error:
            self._forget(path)
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                looked.again[path] = now.monotonic + self._pause_seconds  # a disk or a mount that fails for the moment
            return
        candidate = self._candidate(path, status, claims)
        if path in self._bugs:
            return
        if candidate is None:
            shard = path.endswith(".safetensors") and (touch or path in self._sights)
            if not shard or self._see_part(path, touch, now) is None:
                self._forget(path)
            # Else perhaps a shard of an index still to come: then it will matter that it was closed.
            return
        self._candidates[path] = candidate
        try:
            identity, sights = self._see(path, candidate, touch, now)
            again = self._judge(path, candidate, identity, sights, now)
        except OSError:
            # A file went away between two looks, or cannot be looked at now. If there is more to it, the next look will show.
            again = now.monotonic + self._pause_seconds
        if again is not None:
            looked.again[path] = again
        elif candidate.reported != identity:
            candidate.reported = identity
            looked.drops.append(Drop(Path(path), candidate.kind, candidate.format.name, identity))

    def _candidate(self, path: str, status: os.stat_result, claims: dict[str, DropFormat | None]) -> _Candidate | None:
        """The candidate at a path; None if what lies there is none."""
        name = os.path.basename(path)  # noqa: PTH119 - as above
        directory = stat.S_ISDIR(status.st_mode)
        if ignored(name) or path == self._root or not (directory or stat.S_ISREG(status.st_mode)):
            return None
        if directory and os.path.islink(path):  # noqa: PTH114 - as above
            return None
        if not directory and not self._recursive and "/" in path[len(self._root) + 1 :]:
            return None
        kind: Literal["output", "request"] = "output"
        format_: DropFormat | None
        ending = request_ending(name)
        if ending is not None and not directory:
            kind, format_ = "request", RequestFile(ending.rpartition(".")[2])
        else:
            format_ = self._claim(path, claims)
        if format_ is None:
            return None
        known = self._candidates.get(path)
        return known if known is not None and known.format == format_ else _Candidate(kind, format_)

    def _see(self, path: str, candidate: _Candidate, touch: Touch, now: Moment) -> tuple[Identity, tuple[Sight, ...]]:
        """The candidate's identity now, and what is known about each file that has a say in it."""
        if isinstance(candidate.format, DirectoryFormat):
            return self._see_directory(path, candidate.format, candidate, touch, now)
        if isinstance(candidate.format, PartedFormat):
            return self._see_parted(path, candidate.format, candidate, touch, now)
        candidate.files = (path,)
        sight = self._see_file(path, touch, now)
        return sight.identity, (sight,)

    def _see_parted(
        self, path: str, format_: PartedFormat, candidate: _Candidate, touch: Touch, now: Moment
    ) -> tuple[Identity, tuple[Sight, ...]]:
        """An index and the files that it names, as far as they are there."""
        index = self._see_file(path, touch, now)
        if candidate.index != index.identity:
            self._own(path, candidate, tuple(_named(format_, path)))
            candidate.index = index.identity
        sights = {path: index}
        for part in candidate.files[1:]:
            sight = self._see_part(part, Touch.SEEN, now)
            if sight is not None:
                sights[part] = sight
        if len(candidate.files) == 1:
            return index.identity, (index,)
        return _combined(os.path.dirname(path), sights), tuple(sights.values())  # noqa: PTH120 - as above

    def _see_part(self, path: str, touch: Touch, now: Moment) -> Sight | None:
        try:
            return self._see_file(path, touch, now)
        except OSError:
            self._sights.pop(path, None)
            return None

    def _see_directory(
        self, path: str, format_: DirectoryFormat, candidate: _Candidate, touch: Touch, now: Moment
    ) -> tuple[Identity, tuple[Sight, ...]]:
        """A directory that is a drop as a whole: one sight stands for all of its files."""
        since = self._unchanged_since(os.stat(path), now)  # noqa: PTH116 - as above
        files = {}
        for file in _parts(format_, path):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(file)  # noqa: PTH116 - as above
                files[file[len(path) + 1 :]] = Identity.of(status)
                since = max(since, self._unchanged_since(status, now))
        sight = renew(self._sights.get(path), Identity.combined(files), touch, since)
        self._sights[path] = sight
        candidate.files = ()
        return sight.identity, (sight,)

    def _see_file(self, path: str, touch: Touch, now: Moment) -> Sight:
        status = os.stat(path)  # noqa: PTH116 - as above
        sight = renew(self._sights.get(path), Identity.of(status), touch, self._unchanged_since(status, now))
        self._sights[path] = sight
        return sight

    def _unchanged_since(self, status: os.stat_result, now: Moment) -> float:
        if not self.trust_stamps:
            return now.monotonic
        # Whoever copies a file may set mtime back; ctime is the kernel's own.
        stamped = max(status.st_mtime, status.st_ctime)
        return min(stamped - self._clock_ahead, now.monotonic)

    def _judge(
        self, path: str, candidate: _Candidate, identity: Identity, sights: tuple[Sight, ...], now: Moment
    ) -> float | None:
        """When to look again; None if there is nothing left to wait for."""
        if candidate.reported == identity:
            return None
        if candidate.refused == identity and now.monotonic < candidate.not_before:
            return candidate.not_before
        ready = ready_at(sights, self_judging=candidate.format.self_judging, quiet_seconds=self._quiet_seconds)
        if now.monotonic < ready:
            return ready
        if self._is_complete(path, candidate, identity):
            return None
        given_up = given_up_at(sights, single=candidate.files == (path,), quiet_seconds=self._quiet_seconds)
        return None if now.monotonic >= given_up else min(given_up, now.monotonic + self._pause_seconds)

    def _is_complete(self, path: str, candidate: _Candidate, identity: Identity) -> bool:
        if candidate.incomplete == identity:
            return False
        try:
            found = Path(path) if self._follow_links else unlinked(Path(path), Path(self._root))
            complete = candidate.format.is_complete(found)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:
            if isinstance(error, SmdaemonError) and error.code == "source-missing":
                raise FileNotFoundError(path) from error
            # It will never be sound, may not be read, or meets a bug: the export says so where people look for it.
            return True
        candidate.incomplete = None if complete else identity
        return complete

    def _own(self, path: str, candidate: _Candidate, files: tuple[str, ...]) -> None:
        """An index may name other files than before: those are on their own again."""
        for file in set(candidate.files) - {path}:
            self._sights.pop(file, None)
            self._owners.pop(file, None)
        self._owners.update(dict.fromkeys(files[1:], path))
        candidate.files = files

    def _forget(self, path: str) -> None:
        self._sights.pop(path, None)
        gone = self._candidates.pop(path, None)
        if gone is not None:
            self._own(path, gone, (path,))


def _combined(directory: str, sights: Mapping[str, Sight]) -> Identity:
    return Identity.combined({path[len(directory) + 1 :]: sight.identity for path, sight in sights.items()})


def _parts(format_: DirectoryFormat, path: str) -> list[str]:
    try:
        return format_.parts(Path(path))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError:
        return []  # It may not be looked into: the export says so where people look for it.


def _named(format_: PartedFormat, index: str) -> list[str]:
    """An index and the files that it names. OSError where it cannot be read for the moment."""
    try:
        return format_.parts(Path(index))
    except SmdaemonError as error:
        if error.retryable:
            raise OSError(str(error)) from error
        return [index]  # The export says what is wrong where people look for it.
