"""What the daemon holds for trainers: segments within a byte budget, and the exports that were committed with them. No I/O of its own.

A segment belongs to one trainer. It is never given to another, so nothing that a stalled trainer still writes can meet anyone's
tensors but its own.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.handoff.memory import Segment
from smdaemon.handoff.protocol import SegmentEvent, SegmentState, advance

SEGMENTS_LIMIT = 16
"""Of one trainer; two are enough to fill one while the other is written."""


@dataclass(eq=False)
class Held:
    """A segment that is leased to a trainer (None: it is gone), and with its state the export that it is for."""

    number: int
    segment: Segment
    owner: object | None
    state: SegmentState = SegmentState.FREE
    export: str = ""


@dataclass(eq=False)
class Committed:
    """An export whose tensors are in the daemon's hands: `plan` is the descriptor of its plan."""

    export: str
    held: Held
    plan: int
    job: int = 0

    @property
    def paths(self) -> tuple[Path, Path]:
        """Segment and plan, as any process of the user can open them while they are held."""
        return _path(self.held.segment.fd), _path(self.plan)


def _path(fd: int) -> Path:
    return Path(f"/proc/{os.getpid()}/fd/{fd}")


@dataclass(eq=False)
class Holdings:
    """All segments and exports. `on_committed` and `on_freed` are told of exports whose descriptors should outlive the daemon, and no longer."""

    budget_bytes: int
    on_committed: Callable[[Committed], None] = lambda _export: None
    on_freed: Callable[[str], None] = lambda _export: None
    used_bytes: int = 0
    refused: int = 0
    """Segments that trainers asked for, or offered, and were refused."""
    exports: dict[str, Committed] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _held: dict[int, Held] = field(default_factory=dict)
    # for whom segments are being made: what was claimed and not added yet
    _making: list[object | None] = field(default_factory=list)

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return len(self._held)

    def claim(self, nbytes: int, owner: object | None) -> None:
        """Count `nbytes` as used for a segment that is about to be made; `add` or `unclaim` follows.

        EnvironmentFault: `handoff-memory` where the budget has not so many left, `handoff-busy` for one segment too many.
        """
        if owner is not None and len(self.held_by(owner)) + self._making.count(owner) >= SEGMENTS_LIMIT:
            message = f"a trainer has {SEGMENTS_LIMIT} segments already"
            raise EnvironmentFault("handoff-busy", message, remedy="reserve fewer segments")
        if self.used_bytes + nbytes > self.budget_bytes:
            raise EnvironmentFault(
                "handoff-memory",
                f"{nbytes} bytes are asked for, {self.used_bytes} of {self.budget_bytes} are in use",
                retryable=True,
            )
        self.used_bytes += nbytes
        self._making.append(owner)

    def unclaim(self, nbytes: int, owner: object | None) -> None:
        """The segment that was claimed for could not be made."""
        self.used_bytes -= nbytes
        self._making.remove(owner)

    def add(self, segment: Segment, owner: object | None) -> Held:
        """A segment whose bytes were claimed, now leased to `owner`."""
        self._making.remove(owner)
        held = Held(next(self._numbers), segment, owner)
        self._held[held.number] = held
        return held

    def held_by(self, owner: object) -> list[Held]:
        """The segments of a trainer."""
        return [held for held in self._held.values() if held.owner is owner]

    def of(self, number: int, owner: object) -> Held:
        """The segment of that number, which must be the owner's; DropError `handoff-protocol`."""
        held = self._held.get(number)
        if held is None or held.owner is not owner:
            raise DropError("handoff-protocol", f"the trainer has no segment {number}")
        return held

    def begin(self, held: Held, export: str) -> None:
        """The trainer fills the segment; DropError `handoff-protocol` where it may not."""
        held.state = advance(held.state, SegmentEvent.BEGIN)
        held.export = export

    def commit(self, held: Held, plan: int) -> Committed:
        """The segment's bytes are the daemon's, with the descriptor of their plan; DropError `handoff-protocol` where they cannot be."""
        if held.export in self.exports:
            raise DropError("handoff-protocol", f"the export {held.export!r} is committed already")
        held.state = advance(held.state, SegmentEvent.COMMIT)
        committed = self.exports[held.export] = Committed(held.export, held, plan)
        self.on_committed(committed)
        return committed

    def cancel(self, held: Held) -> None:
        """The trainer gives up what it was filling."""
        held.state = advance(held.state, SegmentEvent.CANCEL)
        held.export = ""

    def release(self, export: str) -> None:
        """The export has ended: its segment is free again, or goes where its trainer is gone."""
        committed = self.exports.pop(export)
        os.close(committed.plan)
        self.on_freed(export)
        held = committed.held
        held.state = advance(held.state, SegmentEvent.RELEASE)
        held.export = ""
        if held.owner is None:
            self._drop(held)

    def give_back(self, held: Held) -> None:
        """The trainer has no use for it."""
        held.state = advance(held.state, SegmentEvent.RETURN)
        self._drop(held)

    def disconnect(self, owner: object) -> list[Committed]:
        """The trainer is gone: what it may still be writing goes, what it committed stays. The exports that stay."""
        for held in self.held_by(owner):
            held.state = advance(held.state, SegmentEvent.DISCONNECT)
            held.owner = None
            if held.state is SegmentState.GONE:
                self._drop(held)
        return [export for export in self.exports.values() if export.held.owner is None]

    def close(self) -> None:
        """Let go of everything; what others have of it stays theirs."""
        for export in self.exports.values():
            os.close(export.plan)
        self.exports.clear()
        for held in list(self._held.values()):
            self._drop(held)

    def _drop(self, held: Held) -> None:
        del self._held[held.number]
        self.used_bytes -= held.segment.nbytes
        held.segment.close()
