"""A job, as every room sees it: one export's life, a copy of its row in the journal. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypedDict

from smdaemon.errors import CODES, SmdaemonError
from smdaemon.jobs.states import State

Origin = Literal["drop", "request", "api", "handoff"]

COALESCED = frozenset({"drop", "handoff"})
"""Origins of jobs that a newer one may supersede; the others were asked for one by one."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job waits or has failed, for a person (message, remedy) and for a machine (code)."""

    code: str
    message: str
    remedy: str
    retryable: bool = False

    @classmethod
    def of(cls, error: SmdaemonError) -> "JobError":
        """What the journal keeps of an error that smdaemon foresaw."""
        return cls(error.code, error.message, error.remedy, error.retryable)

    @classmethod
    def of_bug(cls, error: Exception) -> "JobError":
        """What the journal keeps of an exception that nobody foresaw; its traceback is for the log."""
        return cls("internal-error", f"{type(error).__name__}: {error}", CODES["internal-error"].remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What is known of an export when it is accepted.

    `identity` says which content lies at `source` (size, mtime, inode, ...): the same model, source, identity and request
    are accepted only once. With a `result_path` it is that of the request file, which is accepted only once. `request` is a serialised `smdaemon.v1.ExportRequest`. `order` says how new the drop is among
    those of its model: its step, or the modification time in unix seconds. `restores` is the version that lies at `source`,
    for a job that is to publish it once more. `content` is what lies at `source` where the job is to export that and nothing that
    takes its place later; empty for whatever will lie there.
    """

    model: str
    origin: Origin
    source: str
    identity: str
    order: float
    format: str = ""
    request: bytes = b""
    result_path: str = ""
    version: int | None = None
    restores: int | None = None
    content: str = ""


class Publication(NamedTuple):
    """What is to be known of a version beside its job: which directory it is, see `publish.local.identity_of`, and how good."""

    identity: str = ""
    metrics: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One export's life. Times are unix seconds; `bytes_total` and `tensors` are 0 until they are known."""

    id: int
    model: str
    state: State
    reason: str
    origin: Origin
    source: str
    identity: str
    format: str
    request: bytes
    # where the result file of a request goes; empty if none was asked for
    result_path: str
    order: float
    version: int | None
    # the published version directory; empty until published
    export_dir: str
    tensors: int
    bytes_total: int
    attempts: int
    retry_at: float | None
    created_at: float
    updated_at: float
    # of the last attempt, until the next one begins
    error: JobError | None
    # the version that a rollback publishes once more; None for an export
    restores: int | None
    # the last that the validator said in the last attempt
    validator_output: str
    # what the last commit that began was to publish, or has; None before there was one
    publication: Publication | None
    # which content lay at `source` when it was accepted; empty where that is not known
    content: str


class Changes(TypedDict, total=False):
    """What a move may change besides state, reason and time."""

    format: str
    version: int | None
    export_dir: str
    tensors: int
    bytes_total: int
    attempts: int
    retry_at: float | None
    error: JobError | None
    validator_output: str
    publication: Publication | None


class Moved(NamedTuple):
    """One move of a job: `seq` is its place in the event stream, `job` the row after it.

    `before` is the state that it left; None for a new job, and where moves are read back from the journal.
    """

    seq: int
    job: Job
    before: State | None = None


class Transition(NamedTuple):
    """One line of a job's history: `at` is in unix seconds."""

    seq: int
    state: State
    at: float
    reason: str


def begin(new: NewJob, job_id: int, now: float) -> Job:
    """A new job in its first state."""
    return Job(
        id=job_id,
        model=new.model,
        state=State.DETECTED,
        reason="",
        origin=new.origin,
        source=new.source,
        identity=new.identity,
        format=new.format,
        request=new.request,
        result_path=new.result_path,
        order=new.order,
        version=new.version,
        export_dir="",
        tensors=0,
        bytes_total=0,
        attempts=0,
        retry_at=None,
        created_at=now,
        updated_at=now,
        error=None,
        restores=new.restores,
        validator_output="",
        publication=None,
        content=new.content,
    )


def moved(job: Job, state: State, now: float, reason: str, changes: Changes) -> Job:
    """The job after a move to `state`; `retry_at` does not outlive the state that it was given with."""
    kept: Changes = {"retry_at": None, **changes}
    return replace(job, state=state, reason=reason, updated_at=now, **kept)
