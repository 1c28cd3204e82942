"""When is a drop complete? The rules, pure: no file is touched and no clock is read here.

A drop is *ready* to be judged by its format once nobody is at work on it any more:

- a format that can tell by its own structure needs each file closed or renamed into place since its last change,
- one that cannot (a directory of .npy: is there more to come?) needs the whole renamed into place,
- and for either, no change for `quiet_seconds` will do.

A drop that is ready, but of which bytes are missing, waits on. If nothing changes for a while it is given up: it is
reported all the same, so that its export fails with an error that names the fault instead of being waited for in silence.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from smdaemon.sources.base import Identity

# A shard that comes late, or a writer that we did not see close its file, gets this many quiet periods.
GIVE_UP_QUIET_PERIODS = 10


class Touch(IntEnum):
    """What was noticed about a path; the greater says more."""

    SEEN = 0
    CLOSED = 1
    MOVED = 2


class Moment(NamedTuple):
    """Now, by the clock that timers use and by the one that stamps files; both in seconds."""

    monotonic: float
    wall: float


@dataclass(slots=True)
class Sight:
    """What is known about one file, or one directory as a whole, since its last change."""

    identity: Identity
    unchanged_since: float
    touch: Touch

    def finished(self, *, self_judging: bool) -> bool:
        """Whether its writer said that it is done."""
        return self.touch >= (Touch.CLOSED if self_judging else Touch.MOVED)


def renew(known: Sight | None, identity: Identity, touch: Touch, unchanged_since: float) -> Sight:
    """What is known after another look: a change since the last one takes back what its writer had said."""
    if known is None or known.identity != identity:
        return Sight(identity, unchanged_since, touch)
    return Sight(identity, min(known.unchanged_since, unchanged_since), max(known.touch, touch))


def ready_at(sights: Iterable[Sight], *, self_judging: bool, quiet_seconds: float) -> float:
    """The monotonic time from which on a drop may be judged, if nothing changes until then."""
    return max(
        (
            sight.unchanged_since + (0 if sight.finished(self_judging=self_judging) else quiet_seconds)
            for sight in sights
        ),
        default=0.0,
    )


def given_up_at(sights: Iterable[Sight], *, single: bool, quiet_seconds: float) -> float:
    """The monotonic time from which on the missing bytes are waited for no longer.

    `single`: a drop of one file, which its writer closes once; a set of files may grow for longer.
    """
    known = list(sights)
    patient = not single or any(sight.touch is Touch.SEEN for sight in known)
    newest = max((sight.unchanged_since for sight in known), default=0.0)
    return newest + quiet_seconds * (GIVE_UP_QUIET_PERIODS if patient else 1)
