"""The states of a job and every move between them, as one literal table. Pure.

    detected → queued → staging → writing → verifying → committing → published

From there a job may also wait for its next attempt, fail (a person must act; the drop is left as it is), be superseded by
a newer drop, or be cancelled. From committing on nobody can cancel it: the rename may have happened already, also where the commit
was interrupted, until the next attempt has looked.
"""

from enum import StrEnum, unique


@unique
class State(StrEnum):
    """Where a job stands; the values are what the journal stores and the control socket shows."""

    DETECTED = "detected"
    QUEUED = "queued"
    STAGING = "staging"
    WRITING = "writing"
    VERIFYING = "verifying"
    COMMITTING = "committing"
    PUBLISHED = "published"
    WAITING = "waiting"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


@unique
class Event(StrEnum):
    """What moves a job."""

    QUEUE = "queue"
    STAGE = "stage"
    WRITE = "write"
    VERIFY = "verify"
    COMMIT = "commit"
    PUBLISH = "publish"
    # the environment refused; smdaemon tries again by itself
    FAULT = "fault"
    # the time of the next attempt has come
    DUE = "due"
    FAIL = "fail"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"
    # a person asks for another attempt
    RETRY = "retry"
    # the daemon stopped during an attempt and has started again
    RESUME = "resume"


# An attempt is to come.
PENDING = frozenset({State.DETECTED, State.QUEUED, State.WAITING})
# An attempt is under way: what a restart finds here was interrupted.
ACTIVE = frozenset({State.STAGING, State.WRITING, State.VERIFYING, State.COMMITTING})
# Nothing moves these but a person.
TERMINAL = frozenset({State.PUBLISHED, State.FAILED, State.SUPERSEDED, State.CANCELLED})

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.DETECTED, Event.QUEUE): State.QUEUED,
    (State.DETECTED, Event.FAIL): State.FAILED,
    (State.DETECTED, Event.SUPERSEDE): State.SUPERSEDED,
    (State.DETECTED, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.STAGE): State.STAGING,
    (State.QUEUED, Event.FAULT): State.WAITING,
    (State.QUEUED, Event.FAIL): State.FAILED,
    (State.QUEUED, Event.SUPERSEDE): State.SUPERSEDED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.STAGING, Event.WRITE): State.WRITING,
    (State.STAGING, Event.FAULT): State.WAITING,
    (State.STAGING, Event.FAIL): State.FAILED,
    (State.STAGING, Event.CANCEL): State.CANCELLED,
    (State.STAGING, Event.RESUME): State.QUEUED,
    (State.WRITING, Event.VERIFY): State.VERIFYING,
    (State.WRITING, Event.FAULT): State.WAITING,
    (State.WRITING, Event.FAIL): State.FAILED,
    (State.WRITING, Event.CANCEL): State.CANCELLED,
    (State.WRITING, Event.RESUME): State.QUEUED,
    (State.VERIFYING, Event.COMMIT): State.COMMITTING,
    (State.VERIFYING, Event.FAULT): State.WAITING,
    (State.VERIFYING, Event.FAIL): State.FAILED,
    (State.VERIFYING, Event.CANCEL): State.CANCELLED,
    (State.VERIFYING, Event.RESUME): State.QUEUED,
    (State.COMMITTING, Event.PUBLISH): State.PUBLISHED,
    (State.COMMITTING, Event.FAULT): State.WAITING,
    (State.COMMITTING, Event.FAIL): State.FAILED,
    (State.COMMITTING, Event.RESUME): State.QUEUED,
    (State.WAITING, Event.DUE): State.QUEUED,
    (State.WAITING, Event.FAIL): State.FAILED,
    (State.WAITING, Event.SUPERSEDE): State.SUPERSEDED,
    (State.WAITING, Event.CANCEL): State.CANCELLED,
    (State.FAILED, Event.RETRY): State.QUEUED,
    (State.CANCELLED, Event.RETRY): State.QUEUED,
}


class ImpossibleMoveError(ValueError):
    """A move that the table does not know: a bug of the caller, or a race that the caller must expect."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a job in state {state.value!r} cannot move by {event.value!r}")
        self.state = state


def advance(state: State, event: Event) -> State:
    """The state after `event`; raises `ImpossibleMoveError` if the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ImpossibleMoveError(state, event) from None
