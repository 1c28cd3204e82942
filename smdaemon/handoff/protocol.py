"""What trainer and daemon say to each other on the handoff socket. Pure: no socket, no memory, no clock.

The socket is AF_UNIX, SOCK_SEQPACKET: a packet is a message, a JSON object whose "type" is one of those below. File descriptors travel
beside it; `FDS` says with which message.

    trainer                                   daemon
    HELLO   protocol, name, rank, world   →
                                          ←   WELCOME  protocol, memory_bytes
    RESERVE request, bytes                →
                                          ←   LEASE    request, segment, bytes        + the segment
                                          or  REFUSED  request, code, message, remedy
    BEGIN   export, segment               →            the segment is being filled
    COMMIT  export, segment, bytes, ...   →            + the plan: the bytes are the daemon's now
                                          ←   ACCEPTED export, job
                                          ←   DONE     export, version, export_dir    or FAIL export, code, message, remedy:
                                                                                      the trainer may fill the segment again
    CANCEL  export                        →            before COMMIT: the segment is free again, and nothing is answered;
                                                       after it: the job is cancelled, and answered as any export's end
    OFFER   request, bytes, commit        →            + the segment, + the plan: what an earlier daemon leased
                                          ←   LEASE    request, segment, bytes
    RETURN  segment                       →            the trainer has no use for it any more

A segment moves as SEGMENT_MOVES says, by a message or by the end of the connection, and by nothing else. That an export has ended and that its segment is
free is one message: of two, one could be lost with the connection.
"""

import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum, unique
from typing import Any, ClassVar, TypeAlias

from smdaemon.errors import DropError

PROTOCOL = 1
"""The version that is spoken; either side refuses any other."""

MESSAGE_BYTES = 64 << 10
"""No message is longer. What has no bound (names of tensors) is in the plan."""

_COMMIT_BYTES = MESSAGE_BYTES - 256
"""A commit has to fit into an offer, too, and its numbers may have more digits there."""

FDS_LIMIT = 2


@dataclass(frozen=True)
class Hello:
    """The first message: who hands over."""

    type: ClassVar[str] = "hello"
    protocol: int
    name: str
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Welcome:
    """The daemon's answer: how many bytes it may lease to all trainers together."""

    type: ClassVar[str] = "welcome"
    protocol: int
    memory_bytes: int


@dataclass(frozen=True)
class Reserve:
    """The trainer wants a segment of so many bytes."""

    type: ClassVar[str] = "reserve"
    request: int
    bytes: int


@dataclass(frozen=True)
class Lease:
    """The trainer may fill the segment of that number."""

    type: ClassVar[str] = "lease"
    request: int
    segment: int
    bytes: int


@dataclass(frozen=True)
class Refused:
    """No segment; or, with request 0, no connection."""

    type: ClassVar[str] = "refused"
    request: int
    code: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Begin:
    """The segment is being filled for an export, which the trainer names: a name that is never used twice."""

    type: ClassVar[str] = "begin"
    export: str
    segment: int


@dataclass(frozen=True)
class Commit:
    """The segment is filled, `bytes` of it. `options` are fields of ExportRequest."""

    type: ClassVar[str] = "commit"
    export: str
    segment: int
    bytes: int
    model: str
    step: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    # how long the save kept the trainer, in microseconds, and how many before it were skipped
    stall_us: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Cancel:
    """The trainer gives the export up; before the commit it may fill the segment again at once."""

    type: ClassVar[str] = "cancel"
    export: str


@dataclass(frozen=True)
class Offer:
    """A segment that another daemon leased; `commit` is what was committed with it, if it was."""

    type: ClassVar[str] = "offer"
    request: int
    bytes: int
    commit: dict[str, Any] | None = None


@dataclass(frozen=True)
class Return:
    """The trainer has no use for the segment any more."""

    type: ClassVar[str] = "return"
    segment: int


@dataclass(frozen=True)
class Accepted:
    """The export is a job in the journal."""

    type: ClassVar[str] = "accepted"
    export: str
    job: int


@dataclass(frozen=True)
class Done:
    """The export is published; its segment may be filled again."""

    type: ClassVar[str] = "done"
    export: str
    version: int
    export_dir: str


@dataclass(frozen=True)
class Fail:
    """The export will not be published; its segment may be filled again."""

    type: ClassVar[str] = "fail"
    export: str
    code: str
    message: str
    remedy: str


Message: TypeAlias = (
    Hello | Welcome | Reserve | Lease | Refused | Begin | Commit | Cancel | Offer | Return | Accepted | Done | Fail
)
_TYPES: dict[str, type[Message]] = {
    kind.type: kind
    for kind in (
        Hello,
        Welcome,
        Reserve,
        Lease,
        Refused,
        Begin,
        Commit,
        Cancel,
        Offer,
        Return,
        Accepted,
        Done,
        Fail,
    )
}

FDS: dict[type[Message], tuple[int, int]] = {Lease: (1, 1), Commit: (1, 1), Offer: (1, 2)}
"""How many descriptors come with a message, at least and at most; none with the others."""

_KINDS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    str: (str,),
    int | None: (int, type(None)),
    dict[str, Any]: (dict,),
    dict[str, Any] | None: (dict, type(None)),
}
_NUMBER_LIMIT = (1 << 63) - 1
_COUNT_LIMITS = {"stall_us": 1 << 40, "skipped": 1 << 32}
"""What is added up: never negative, and so small that no sum overflows."""


def encode(message: Message) -> bytes:
    """The packet of a message; DropError `handoff-protocol` where it is too long."""
    packet = json.dumps({"type": message.type, **asdict(message)}, separators=(",", ":")).encode()
    if len(packet) > MESSAGE_BYTES:
        raise DropError("handoff-protocol", f"a {message.type} message has {len(packet)} bytes, over {MESSAGE_BYTES}")
    return packet


def decode(packet: bytes, fds: int = 0) -> Message:
    """The message in a packet that came with `fds` descriptors; DropError `handoff-protocol` for anything else."""
    try:
        told = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise DropError("handoff-protocol", f"a packet of {len(packet)} bytes is no JSON: {error}") from error
    name = told.pop("type", None) if isinstance(told, dict) else None
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise DropError("handoff-protocol", "a packet is of no known type")
    message = kind(**_checked(kind, told))
    least, most = FDS.get(kind, (0, 0))
    if not least <= fds <= most:
        raise DropError("handoff-protocol", f"a {message.type} message came with {fds} descriptors")
    return message


def commit_of(told: Mapping[str, Any]) -> Commit:
    """The Commit that an Offer holds; DropError `handoff-protocol`."""
    return Commit(**_checked(Commit, dict(told)))


def commit_fields(commit: Commit) -> dict[str, Any]:
    """A Commit as an Offer holds it."""
    return asdict(commit)


def sendable(commit: Commit) -> Commit:
    """The commit as the daemon will read it: what is a number in its step and options is one of Python's, whatever library's it was.

    DropError `request-invalid` where it cannot be sent.
    """
    try:
        told = json.dumps(vars(commit), default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise DropError("request-invalid", f"step and options of a save must be JSON: {error}") from error
    if len(told) > _COMMIT_BYTES:
        raise DropError(
            "request-invalid", f"the options of a save have {len(told)} bytes, {_COMMIT_BYTES} are the most"
        )
    try:
        return commit_of(json.loads(told))
    except DropError as error:
        raise DropError("request-invalid", error.message) from error


def _number(value: Any) -> int | float:
    """A number of another library as one of Python's; TypeError or ValueError where it is none."""
    if isinstance(item := value.item() if hasattr(value, "item") else value, bool):
        return item
    try:
        return operator.index(value)
    except TypeError:
        if not hasattr(value, "__float__"):
            raise TypeError(f"{value!r:.80} is neither text nor a number") from None
        return float(value)


def _checked(kind: type[Message], told: dict[Any, Any]) -> dict[str, Any]:
    """The fields of a message, each of its type and none that is not known."""
    known = {each.name: each.type for each in fields(kind)}
    for name, value in told.items():
        if name not in known:
            raise DropError("handoff-protocol", f"a {kind.type} message has the unknown field {name!r}")
        if type(value) not in _KINDS[known[name]] or (type(value) is int and not _is_sound(name, value)):
            raise DropError("handoff-protocol", f"{name} of a {kind.type} message is {value!r:.60}")
    try:
        kind(**told)
    except TypeError as error:
        raise DropError("handoff-protocol", f"a {kind.type} message lacks a field") from error
    return told


def _is_sound(name: str, number: int) -> bool:
    if (limit := _COUNT_LIMITS.get(name)) is not None:
        return 0 <= number <= limit
    return abs(number) <= _NUMBER_LIMIT


@unique
class SegmentState(StrEnum):
    """Where a segment stands, in the daemon's eyes."""

    FREE = "free"
    FILLING = "filling"
    COMMITTED = "committed"
    GONE = "gone"


@unique
class SegmentEvent(StrEnum):
    """What moves a segment."""

    BEGIN = "begin"
    COMMIT = "commit"
    # given up before the commit
    CANCEL = "cancel"
    # the export has ended
    RELEASE = "release"
    RETURN = "return"
    # the trainer is gone: whatever it may still be writing into is never given to anyone again
    DISCONNECT = "disconnect"


SEGMENT_MOVES: dict[tuple[SegmentState, SegmentEvent], SegmentState] = {
    (SegmentState.FREE, SegmentEvent.BEGIN): SegmentState.FILLING,
    (SegmentState.FREE, SegmentEvent.RETURN): SegmentState.GONE,
    (SegmentState.FREE, SegmentEvent.DISCONNECT): SegmentState.GONE,
    (SegmentState.FILLING, SegmentEvent.COMMIT): SegmentState.COMMITTED,
    (SegmentState.FILLING, SegmentEvent.CANCEL): SegmentState.FREE,
    (SegmentState.FILLING, SegmentEvent.DISCONNECT): SegmentState.GONE,
    # the export completes without the trainer; its end makes the segment go
    (SegmentState.COMMITTED, SegmentEvent.DISCONNECT): SegmentState.COMMITTED,
    (SegmentState.COMMITTED, SegmentEvent.RELEASE): SegmentState.FREE,
}


def advance(state: SegmentState, event: SegmentEvent) -> SegmentState:
    """The state after `event`; DropError `handoff-protocol` where the table has no such move."""
    try:
        return SEGMENT_MOVES[state, event]
    except KeyError:
        raise DropError("handoff-protocol", f"a segment that is {state.value} cannot move by {event.value}") from None
