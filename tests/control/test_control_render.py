"""Content negotiation, the status of errors, and the text of events."""

import pytest
from starlette.datastructures import Headers

from smdaemon.control.events import render_event
from smdaemon.control.render import error_status, wants_protobuf
from smdaemon.errors import ConfigError, DropError, EnvironmentFault
from smdaemon.jobs.messages import error_message
from smdaemon.proto import v1


@pytest.mark.parametrize(
    ("accept", "protobuf"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/x-protobuf", True),
        ("application/protobuf", True),
        ("text/html, application/x-protobuf;q=0.5", True),
        ("application/json, application/x-protobuf", False),
        ("application/x-protobuf, application/json", True),
        ("application/json;q=0.1, application/x-protobuf;q=0.2", True),
        ("application/x-protobuf;q=0", False),
        ("application/x-protobuf;q=high", False),
    ],
)
def test_negotiation(accept, protobuf):
    """JSON unless the client prefers protobuf."""
    assert wants_protobuf(Headers({"accept": accept})) is protobuf


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("job-unknown", "x"), 404),
        (ConfigError("job-not-cancellable", "x"), 409),
        (DropError("version-exists", "x"), 409),
        (DropError("request-source-outside", "x"), 400),
        (EnvironmentFault("permission-denied", "x"), 503),
    ],
)
def test_status_of_errors(error, status):
    """The status says who must act."""
    assert error_status(error) == status


def test_name_that_is_not_utf8():
    """A file name that is not UTF-8 is shown with escapes, not an error of its own."""
    message = error_message(DropError("source-missing", "no 'a\udcff'"))
    assert message.message == "no 'a\\udcff'"


def test_event_is_one_block():
    """Line breaks in a name cannot forge a field of the event stream."""
    event = v1.Event(seq=3)
    event.job.source = "a\nid: 9\n\n"
    lines = render_event(event).split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"id", b"event", b"data", b"", b""]
