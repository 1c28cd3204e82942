"""A job as the control socket shows it: `smdaemon.v1.Job`. protobuf is imported at first use."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from smdaemon.errors import SmdaemonError
from smdaemon.jobs.job import Job, JobError, Moved, Transition
from smdaemon.jobs.rows import encodable
from smdaemon.jobs.states import State
from smdaemon.publish.retention import Version

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from smdaemon.proto import v1

_LINE = {"timestamp", "level", "event", "job", "model"}
_WRITTEN = {State.VERIFYING, State.COMMITTING, State.PUBLISHED}


def to_message(
    job: Job, *, bytes_done: int | None = None, bytes_per_second: float = 0.0, history: Iterable[Transition] = ()
) -> "v1.Job":
    """The job as a message; `bytes_done` and `bytes_per_second` are of the attempt under way, else by the state."""
    from smdaemon.proto import v1

    if bytes_done is None:
        bytes_done = job.bytes_total if job.state in _WRITTEN else 0
    message = v1.Job(
        id=job.id,
        model=encodable(job.model),
        state=job.state.value,
        reason=encodable(job.reason),
        origin=job.origin,
        source=encodable(job.source),
        format=encodable(job.format),
        version=job.version,
        export_dir=encodable(job.export_dir),
        tensors=job.tensors,
        bytes_done=bytes_done,
        bytes_total=job.bytes_total,
        bytes_per_second=bytes_per_second,
        attempts=job.attempts,
        restores=job.restores,
        history=[transition_message(transition) for transition in history],
    )
    set_time(message.created_at, job.created_at)
    set_time(message.updated_at, job.updated_at)
    if job.retry_at is not None:
        set_time(message.retry_at, job.retry_at)
    if job.error is not None:
        message.error.CopyFrom(error_message(job.error))
    return message


def version_message(version: Version, state: str, kept_by: Iterable[str]) -> "v1.Version":
    """A published version as a message; `state` says what lies there, `kept_by` why it stays."""
    from smdaemon.proto import v1

    message = v1.Version(
        version=version.version,
        export_dir=encodable(version.export_dir),
        state=state,
        kept_by=[encodable(reason) for reason in kept_by],
        pinned=version.pinned,
        metrics=version.metrics,
        place=version.place,
        restores=version.restores,
    )
    set_time(message.published_at, version.published_at)
    if version.withdrawn_at is not None:
        set_time(message.withdrawn_at, version.withdrawn_at)
    return message


def transition_message(transition: Transition) -> "v1.Transition":
    """One line of a job's history as a message."""
    from smdaemon.proto import v1

    message = v1.Transition(seq=transition.seq, state=transition.state.value, reason=encodable(transition.reason))
    set_time(message.at, transition.at)
    return message


def error_message(error: JobError | SmdaemonError) -> "v1.Error":
    """An error as a message: a job's, or one that has just been met."""
    from smdaemon.proto import v1

    return v1.Error(
        code=error.code,
        message=encodable(error.message),
        remedy=encodable(error.remedy),
        retryable=error.retryable,
    )


def event_message(move: Moved) -> "v1.Event":
    """One move as an entry of the event stream."""
    from smdaemon.proto import v1

    return v1.Event(seq=move.seq, job=to_message(move.job))


def line_message(line: Mapping[str, Any]) -> "v1.LogLine":
    """One line of the log as a message."""
    from smdaemon.proto import v1

    fields = {key: str(value) for key, value in line.items() if key not in _LINE and value is not None}
    message = v1.LogLine(level=str(line.get("level", "")), event=str(line.get("event", "")), fields=fields)
    message.at.FromJsonString(str(line["timestamp"]))
    return message


def set_time(field: "Timestamp", unix_seconds: float) -> None:
    """Set a timestamp, to the microsecond."""
    # FromNanoseconds of the whole number would go through a float that has no room for nanoseconds
    fraction, seconds = math.modf(unix_seconds)
    field.seconds, field.nanos = int(seconds), round(fraction * 1e6) * 1000
    if field.nanos == 1_000_000_000:
        field.seconds, field.nanos = field.seconds + 1, 0
