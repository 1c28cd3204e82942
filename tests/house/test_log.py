import io
import json
import sys

import pytest
import structlog

from smdaemon import log


@pytest.fixture
def stderr(monkeypatch):
    """What is logged; structlog's own settings are restored afterwards."""
    captured = io.StringIO()
    monkeypatch.setattr(sys, "stderr", captured)
    yield captured
    structlog.reset_defaults()


def test_lines_are_json_where_no_person_looks(stderr):
    """Off a terminal each event is one JSON object with level, time and fields."""
    log.configure("info", "auto")
    log.get_logger("jobs").info("moved", job=3, state="queued")
    line = json.loads(stderr.getvalue())
    assert (line["event"], line["job"], line["level"], line["room"]) == ("moved", 3, "info", "jobs")
    assert line["timestamp"].endswith("Z")


def test_names_cannot_forge_lines_or_move_the_cursor(stderr):
    """A newline or an escape sequence in a value is written as its escape, in both formats."""
    log.configure("info", "text")
    log.get_logger("watch").info("drop", path="a\n\x1b[2Jb")
    text = stderr.getvalue()
    assert text.count("\n") == 1
    assert "\x1b[2J" not in text


def test_levels_below_the_configured_one_are_silent(stderr):
    """At warning, info says nothing."""
    log.configure("warning", "json")
    log.get_logger("x").info("quiet")
    assert stderr.getvalue() == ""


def test_a_traceback_is_part_of_the_json_line(stderr):
    """A bug's traceback does not break the line format."""
    log.configure("info", "json")
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("x").exception("failed")
    assert "ValueError: boom" in json.loads(stderr.getvalue())["exception"]
