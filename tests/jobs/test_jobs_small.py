"""Back-off, progress and the messages of the control socket."""

import random

import hypothesis.strategies as st
from hypothesis import given, settings
from jobs_kit import new_job

from smdaemon.errors import CODES, EnvironmentFault
from smdaemon.jobs.job import JobError, Moved, Transition, begin, moved
from smdaemon.jobs.messages import event_message, to_message
from smdaemon.jobs.progress import Progress
from smdaemon.jobs.retry import JITTER, LONGEST_SECONDS, delay
from smdaemon.jobs.states import State


def test_the_delay_doubles_up_to_five_minutes():
    """Without its jitter the delay is 1, 2, 4, ... 256, 300, 300 seconds."""

    class Zero(random.Random):
        def random(self):
            return 0.0

    delays = [delay(attempt, Zero()) for attempt in (1, 2, 3, 9, 10, 1000)]
    assert delays == [1.0, 2.0, 4.0, 256.0, 300.0, 300.0]


@settings(deadline=None, max_examples=50)
@given(st.integers(-1, 10**9), st.integers())
def test_a_delay_is_within_its_bounds_and_repeatable(attempt, seed):
    """The jitter takes at most a fifth, and the same seed gives the same delay."""
    found = delay(attempt, random.Random(seed))
    assert 1.0 - JITTER <= found <= LONGEST_SECONDS
    assert found == delay(attempt, random.Random(seed))


def test_progress_counts_bytes_and_knows_the_recent_speed():
    """The rate is that of the last seconds, not of the whole attempt."""
    now = [0.0]
    progress = Progress(lambda: now[0])
    assert (progress.bytes_done, progress.rate) == (0, 0.0)
    for _ in range(100):
        now[0] += 1.0
        progress.add(10)
    assert (progress.bytes_done, progress.rate) == (1000, 10.0)
    for _ in range(30):
        now[0] += 1.0
        progress.add(1000)
    assert progress.rate == 1000.0


def test_a_job_error_keeps_what_the_error_says():
    """Code, message, remedy and whether it passes are those of the error."""
    error = EnvironmentFault("disk-full", "no space left", retryable=True)
    assert JobError.of(error) == JobError("disk-full", "no space left", CODES["disk-full"].remedy, retryable=True)


def a_job(**changes):
    """A waiting job."""
    return moved(begin(new_job(), 7, 1.25), State.WAITING, 1732181571.123457, "no space", changes)


def test_a_message_has_all_of_the_job():
    """Every field of the job, of its progress and of its history is in the message, times to the microsecond."""
    job = a_job(
        version=0,
        export_dir="/models/ranker/0",
        tensors=2,
        bytes_total=300,
        attempts=3,
        retry_at=2.5,
        error=JobError("disk-full", "no space", "make room", retryable=True),
    )
    message = to_message(job, bytes_done=100, bytes_per_second=50.0, history=[Transition(4, State.QUEUED, 1.5, "why")])
    assert (message.id, message.model, message.state, message.reason) == (7, "ranker", "waiting", "no space")
    assert (message.origin, message.source, message.format) == ("drop", "/runs/ranker/ckpt-1.npz", "")
    assert message.HasField("version")
    assert (message.version, message.export_dir, message.tensors) == (0, "/models/ranker/0", 2)
    assert (message.bytes_done, message.bytes_total, message.bytes_per_second) == (100, 300, 50.0)
    assert (message.attempts, message.retry_at.ToJsonString()) == (3, "1970-01-01T00:00:02.500Z")
    assert message.created_at.ToJsonString() == "1970-01-01T00:00:01.250Z"
    assert message.updated_at.ToJsonString() == "2024-11-21T09:32:51.123457Z"
    assert (message.error.code, message.error.remedy, message.error.retryable) == ("disk-full", "make room", True)
    (line,) = message.history
    assert (line.seq, line.state, line.at.ToJsonString(), line.reason) == (
        4,
        "queued",
        "1970-01-01T00:00:01.500Z",
        "why",
    )


def test_a_message_leaves_out_what_the_job_does_not_have():
    """Version, retry time and error are absent, not zero."""
    message = to_message(a_job())
    assert not any(message.HasField(name) for name in ("version", "retry_at", "error"))


def test_a_time_just_below_a_second_is_not_a_billion_nanoseconds():
    """Rounding to microseconds may carry into the seconds."""
    message = to_message(begin(new_job(), 1, 1.9999999))
    assert (message.created_at.seconds, message.created_at.nanos) == (2, 0)


def test_a_path_that_is_not_utf8_does_not_break_a_message():
    """A message shows such bytes as escapes; it can be serialised."""
    message = to_message(begin(new_job(source="/runs/\udcff"), 1, 1.0))
    assert message.source == "/runs/\\udcff"
    assert message.SerializeToString()


def test_an_event_has_its_place_in_the_stream():
    """A move becomes an event with the same seq."""
    event = event_message(Moved(9, a_job()))
    assert (event.seq, event.job.id, event.job.state) == (9, 7, "waiting")
