"""Log lines: one event a line whatever names hold, the job on each of them, priorities for the journal, no secrets."""

import errno
import io
import json
import logging
import os
import sys
import threading
import warnings

import pytest
import structlog
import trio

from smdaemon import log
from smdaemon.cli.output import print_error
from smdaemon.errors import ConfigError
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.ledger import open_ledger
from smdaemon.jobs.scheduler import Scheduler
from smdaemon.jobs.turns import ModelPolicy
from smdaemon.journald import is_journal

HOSTILE = [
    "a\nb",
    "a\r\nb",
    "\x1b[2J\x1b]0;title\x07",
    '<3>{"event": "forged"}\n<3>{"event": "forged"}',
    "\u202egnp.exe",
    "line separator\u2028paragraph\u2029next\x85line\x0bvertical\x0cform",
    "not utf-8 \udc80\udcff",
    "nul\x00del\x7f",
]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture(autouse=True)
def restored():
    """Structlog's own settings come back afterwards."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def logged(capsys):
    """A function that gives what was logged."""
    return lambda: capsys.readouterr().err


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Call it to connect stderr to systemd's journal; it gives a function that gives what was written."""
    with (tmp_path / "journal").open("w+", encoding="utf-8", errors="backslashreplace") as stream:

        def connect():
            status = os.fstat(stream.fileno())
            monkeypatch.setattr(sys, "stderr", stream)
            monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
            return written

        def written() -> str:
            stream.flush()
            return (tmp_path / "journal").read_text()

        yield connect


def test_lines_are_json_where_no_person_looks(logged):
    """Off a terminal each event is one JSON object with level, time and fields."""
    log.configure("info", "auto")
    log.get_logger("jobs").info("moved", job=3, state="queued")
    line = json.loads(logged())
    assert (line["event"], line["job"], line["level"], line["room"]) == ("moved", 3, "info", "jobs")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_people_on_a_terminal_get_colours_unless_they_want_none(monkeypatch, variables, coloured):
    """Text on a terminal; NO_COLOR and a dumb terminal are respected."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    log.configure("info", "auto")
    log.get_logger("jobs").info("moved", job=3)
    assert "moved" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert ("\x1b[" in terminal.getvalue()) is coloured


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_forge_lines_or_move_the_cursor(logged, fmt, name):
    """Wherever a name stands: one line, and nothing in it that a terminal or a reader of lines obeys."""
    log.configure("info", fmt)
    log.get_logger("watch").info(name, path=name, many=[name, {name: name}], other=OSError(name), bytes=name)
    text = logged()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_traceback_cannot_forge_lines_either(logged, name):
    """In JSON it is part of the line; in text each of its lines is set in, so that none passes for a line of the log."""
    for fmt in ("json", "text"):
        log.configure("info", fmt)
        try:
            raise ValueError(name)
        except ValueError:
            log.get_logger("x").exception("failed")
        lines = logged().split("\n")
        assert all(line.isprintable() for line in lines)
        if fmt == "json":
            assert json.loads(lines[0])["exception"].startswith("Traceback")
            assert lines[1:] == [""]
        else:
            assert all(line.startswith("    ") for line in lines[1:-1])


def test_levels_below_the_configured_one_are_silent(logged):
    """At warning, info says nothing."""
    log.configure("warning", "json")
    log.get_logger("x").info("quiet")
    assert logged() == ""


def test_endless_values_are_cut(logged):
    """Journald would cut the line itself, and half a JSON object is none."""
    log.configure("info", "json")
    log.get_logger("x").info("much", name="n" * 100_000, names=["m"] * 100_000)
    text = logged()
    assert len(text) < 20_000
    line = json.loads(text)
    assert line["name"].endswith("... 91808 more characters")
    assert line["names"][-1] == "... 99900 more"


def test_the_end_of_a_long_traceback_stays(logged):
    """It says what happened."""
    log.configure("info", "json")
    try:
        raise ValueError("x" * 100_000 + " the end")
    except ValueError:
        log.get_logger("x").exception("failed")
    text = logged()
    assert len(text) < 48_000
    assert json.loads(text)["exception"].endswith(" the end")


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_lines_for_the_journal_begin_with_their_priority(journal, level, priority):
    """So that `journalctl -p err` finds the errors."""
    written = journal()
    log.configure("debug", "auto")
    getattr(log.get_logger("x"), level)("said", number=1)
    prefix, line = written()[:3], written()[3:]
    assert prefix == f"<{priority}>"
    assert json.loads(line)["number"] == 1


def test_every_line_of_a_text_for_the_journal_has_its_priority(journal):
    """A traceback in text has several."""
    written = journal()
    log.configure("info", "text")
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("x").exception("failed")
    lines = written().splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def test_why_the_daemon_did_not_start_is_an_error_in_the_journal(journal):
    """The one line of a command that fails, too."""
    written = journal()
    print_error(ConfigError("config-missing", "no\nfile"))
    assert written().startswith("<3>error: no\\nfile (config-missing); ")
    assert written().count("\n") == 1


@pytest.mark.parametrize("value", ["", "8", "8:1", "8:x", ":", "x:y"])
def test_another_processs_journal_is_not_ours(monkeypatch, value):
    """JOURNAL_STREAM is inherited by children whose stderr goes elsewhere."""
    monkeypatch.setenv("JOURNAL_STREAM", value)
    assert not is_journal(sys.__stderr__)
    assert not is_journal(io.StringIO())


def test_secrets_are_not_written(logged):
    """By the name of a field, at any depth, and by the look of a text."""
    log.configure("info", "json")
    log.get_logger("x").info(
        "request refused",
        password="hunter2",
        options={"secret_key": "hunter2", "api_key": "hunter2", "tokens": 5},
        url="s3://user:hunter2@bucket/x",
        signed="https://bucket/x?X-Amz-Signature=hunter2&part=1",
        headers=["Authorization: Bearer hunter2hunter2"],
    )
    text = logged()
    assert "hunter2" not in text
    line = json.loads(text)
    assert line["options"]["tokens"] == 5
    assert line["url"] == "s3://***@bucket/x"
    assert line["signed"] == "https://bucket/x?X-Amz-Signature=***&part=1"


def test_a_secret_in_a_traceback_is_not_written(logged):
    """An exception of a library may quote what it was given."""
    log.configure("info", "json")
    try:
        raise ValueError("cannot open s3://user:hunter2@bucket")
    except ValueError:
        log.get_logger("x").exception("failed")
    assert "hunter2" not in logged()


async def test_every_line_of_a_job_carries_its_id(tmp_path, logged):
    """Lines of the job's own task, of its threads, of tasks that these start; two jobs at a time are not mixed up."""
    log.configure("info", "json")
    lines = log.get_logger("export")
    both = trio.Event()

    async def execute(job, _attempt):
        lines.info("begun", path=job.source)
        if job.source == "/b":
            both.set()
        await both.wait()
        await trio.to_thread.run_sync(lambda: lines.info("in a thread", path=job.source))
        await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(lambda: lines.info("back", path=job.source)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_say, lines, job.source)
        raise RuntimeError("a bug")

    async with open_ledger(tmp_path / "journal.sqlite") as ledger, trio.open_nursery() as nursery:
        jobs = {}
        for name in ("a", "b"):
            job = await ledger.accept(NewJob(model=name, origin="drop", source=f"/{name}", identity="1", order=1.0))
            jobs[f"/{name}"] = job.id
        scheduler = Scheduler(ledger, execute, workers=2, policy=lambda _: ModelPolicy())
        nursery.start_soon(scheduler.run)
        while ledger.open_jobs:
            await trio.lowlevel.checkpoint()
        lines.info("of no job")
        await scheduler.drain(0)
    told = [json.loads(line) for line in logged().splitlines()]
    of_exports = [line for line in told if "path" in line]
    assert len(of_exports) == 8
    assert all((line["job"], line["model"]) == (jobs[line["path"]], line["path"][1:]) for line in of_exports)
    assert {line["job"] for line in told if line["event"] in {"internal error", "job failed"}} == set(jobs.values())
    assert next(line for line in told if line["event"] == "of no job").keys().isdisjoint({"job", "model"})


async def _say(lines, path):
    lines.info("in a task", path=path)


def test_what_other_libraries_say_has_the_same_form(logged, monkeypatch):
    """Standard logging, warnings, exceptions in threads and in destructors, and the one that ends the process."""
    root = logging.getLogger()
    handlers, show = root.handlers[:], warnings.showwarning
    for hook in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log.configure("info", "json")
    try:
        log.adopt_others()
        logging.getLogger("trio").error("said %s\n", 1)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning("old", DeprecationWarning, "file.py", 1)
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
        sys.excepthook(ValueError, ValueError("the last"), None)
    finally:
        logging.captureWarnings(False)
        root.handlers[:], warnings.showwarning = handlers, show
    told = [json.loads(line) for line in logged().splitlines()]
    assert [(line["event"].split("\\n")[0], line["level"]) for line in told] == [
        ("said 1", "error"),
        ("file.py:1: DeprecationWarning: old", "warning"),
        ("a thread died", "error"),
        ("bug: the process ends", "critical"),
    ]
    assert "ZeroDivisionError" in told[2]["exception"]


class Stubborn(io.StringIO):
    """A stream that can be written while `takes`."""

    takes = True

    def write(self, text):
        """Refuse as a full disk does, or a pipe without a reader."""
        if not self.takes:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return super().write(text)


def test_a_line_that_cannot_be_written_is_dropped_and_counted(monkeypatch):
    """Nothing is raised into what logs; once lines can be written again, one tells how many were lost."""
    stream = Stubborn()
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("info", "json")
    logger = log.get_logger("x")
    for event, takes in (("a", True), ("b", False), ("c", False), ("d", True), ("e", True)):
        stream.takes = takes
        logger.error(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["a", "d", "log lines were lost", "e"]
    assert lines[2]["lines"] == 2
