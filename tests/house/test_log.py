import json

import pytest
import structlog

from smdaemon import log


@pytest.fixture
def logged(capsys):
    """A function that gives what was logged; structlog's own settings are restored afterwards."""
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()


def test_lines_are_json_where_no_person_looks(logged):
    """Off a terminal each event is one JSON object with level, time and fields."""
    log.configure("info", "auto")
    log.get_logger("jobs").info("moved", job=3, state="queued")
    line = json.loads(logged())
    assert (line["event"], line["job"], line["level"], line["room"]) == ("moved", 3, "info", "jobs")
    assert line["timestamp"].endswith("Z")


def test_names_cannot_forge_lines_or_move_the_cursor(logged):
    """A newline or an escape sequence in a value is written as its escape, in both formats."""
    log.configure("info", "text")
    log.get_logger("watch").info("drop", path="a\n\x1b[2Jb")
    text = logged()
    assert text.count("\n") == 1
    assert "\x1b[2J" not in text


def test_levels_below_the_configured_one_are_silent(logged):
    """At warning, info says nothing."""
    log.configure("warning", "json")
    log.get_logger("x").info("quiet")
    assert logged() == ""


def test_a_traceback_is_part_of_the_json_line(logged):
    """A bug's traceback does not break the line format."""
    log.configure("info", "json")
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("x").exception("failed")
    assert "ValueError: boom" in json.loads(logged())["exception"]
