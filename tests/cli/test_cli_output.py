"""What people see: sizes, durations, and names that try to command the terminal."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.cli.client import RemoteError
from smdaemon.cli.output import age, clock, error_line, human_bytes, human_seconds, parse_time, progress, visible
from smdaemon.errors import DropError


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("ckpt-41.npz", "ckpt-41.npz"),
        ("größe 模型", "größe 模型"),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202egnp", "abc\\u202egnp"),
        ("a\udcff", "a\\udcff"),
    ],
)
def test_visible(raw, shown):
    """Control, direction and surrogate characters are escapes; letters of any script stay."""
    assert visible(raw) == shown


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_visible_is_always_printable(text):
    """Whatever a name holds, what is printed is one line that can be encoded and commands nothing."""
    shown = visible(text)
    shown.encode()
    assert all(char.isprintable() or char.isspace() for char in shown)
    assert len(shown.splitlines()) <= 1


def test_error_line_is_one_line():
    """An error with a hostile name stays on one line."""
    line = error_line(DropError("name-invalid", "bad\n\x1bname"))
    assert line == "error: bad\\n\\x1bname (name-invalid); rename the tensor"
    assert error_line(RemoteError("a\x1b[2J", "m", remedy="r")) == "error: m (a\\x1b[2J); r"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**31, "2.0 GiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_human_bytes(count, text):
    """Sizes have one decimal and never four digits before a unit that has a larger one."""
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (3.21, "3.2 s"),
        (59.4, "59 s"),
        (125, "2m 5s"),
        (3725, "1h 2m"),
        (90_000, "1d 1h"),
    ],
)
def test_human_seconds(seconds, text):
    """Durations have at most two units."""
    assert human_seconds(seconds) == text


def test_times():
    """The daemon's times are read to the microsecond; a missing one is a dash."""
    assert parse_time("2026-01-02T03:04:05.123456789Z") == datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)
    assert age("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 15, tzinfo=UTC)) == "10 s"
    assert age(None, datetime.now(UTC)) == clock(None) == "-"


def test_progress():
    """Progress is a share of the bytes with the speed; without a total it is a dash."""
    job = {"bytes_done": 1, "bytes_total": 4, "bytes_per_second": 0.0}
    assert progress(job) == "25% of 4 B"
    assert progress(job | {"bytes_per_second": 2048}) == "25% of 4 B, 2.0 KiB/s"
    assert progress(job | {"bytes_total": 0}) == "-"
