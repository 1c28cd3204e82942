"""Structured logging: one event a line, coloured for a person on a terminal, JSON for everything else.

Every value is made printable first: names come from files that others wrote, and a newline or an escape sequence in one must
neither forge a log line nor move a terminal's cursor. What looks like a secret is not written at all.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from smdaemon.journald import is_journal, with_priority
from smdaemon.recent_lines import RecentLines

RECENT = RecentLines()

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

# journald cuts a line into several above 48 KiB, and half a JSON object is none.
_LONGEST_TEXT = 8192
_LONGEST_TRACEBACK = 24_576
_LONGEST_LIST = 100

_SECRET_NAMES = re.compile(
    r"(^|_)(password|passwd|secret|token|credentials?|authorization|cookie|(secret|api|access|private)_?key)$",
    re.IGNORECASE,
)
# user:password@ of a URL, the signature of a signed one, what follows the word of an HTTP header
_SECRET_TEXT = re.compile(
    r"(?P<keep>\b\w+://)[^\s/@:]*:[^\s/@]*(?=@)"
    r"|(?P<keep2>[?&](?:X-Amz-(?:Signature|Credential|Security-Token)|sig|signature|token|AWSAccessKeyId)=)[^\s&'\"]+"
    r"|(?P<keep3>\b(?:Bearer|Basic) )[\w.~+/=-]{8,}",
    re.IGNORECASE,
)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `room=name`; keyword arguments of its methods become fields."""
    logger: FilteringBoundLogger = structlog.get_logger(room=name)
    return logger


def bound(**fields: object) -> AbstractContextManager[None]:
    """For the length of a block, every line of this task and of the threads that it waits for carries `fields`."""
    return structlog.contextvars.bound_contextvars(**fields)


def configure(level: LogLevel = "info", fmt: LogFormat = "auto") -> None:
    """Send everything at or above `level` to stderr; `auto` is text on a terminal and JSON elsewhere.

    Colours are for terminals without NO_COLOR; lines for systemd's journal begin with their priority.
    """
    text = fmt == "text" or (fmt == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor
    if text:
        renderer = structlog.dev.ConsoleRenderer(
            colors=_wants_colours(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            without_secrets,
            printable,
            RECENT,
            *([_indented] if text else []),
            _prioritised(renderer) if is_journal(sys.stderr) else renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_Lines(sys.stderr),
    )


class _Lines:
    """Writes lines to a stream. One that cannot be written is dropped: whoever logs is at something else, which is to go on.

    How many were dropped is told once a line can be written again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._lost = 0

    def __call__(self, *_arguments: object) -> "_Lines":
        """The logger, as structlog asks for it."""
        return self

    def msg(self, line: str) -> None:
        """Write one."""
        with self._lock:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except OSError:  # its disk is full, or nobody reads it any more
                self._lost += 1
                return
            lost, self._lost = self._lost, 0
        if lost:
            get_logger(__name__).warning("log lines were lost", lines=lost)

    debug = info = warning = error = critical = exception = log = msg


def adopt_others() -> None:
    """Have warnings and errors of other libraries, and exceptions that nobody catches, logged in the same form. For a whole process."""
    logging.getLogger().handlers[:] = [_Adopting(logging.WARNING)]
    logging.captureWarnings(True)
    log = get_logger("python")
    sys.excepthook = lambda _kind, error, _traceback: log.critical("bug: the process ends", exc_info=error)
    sys.unraisablehook = lambda told: log.error("exception ignored", of=repr(told.object), exc_info=told.exc_value)
    threading.excepthook = lambda told: log.error("a thread died", thread=str(told.thread), exc_info=told.exc_value)


class _Adopting(logging.Handler):
    """Standard logging's records as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        log = get_logger(record.name)
        log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: values keep what is printable, everything else is written as its escape; what is endless is cut."""
    for key, value in event.items():
        if key in ("exception", "stack"):
            event[key] = _printable_lines(str(value))
        else:
            event[key] = _printable(value)
    return event


def without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: a safety net. Nothing here logs a secret; an error message of a library may quote one."""
    return {key: "***" if _SECRET_NAMES.search(key) else _without_secrets(value) for key, value in event.items()}


def escaped(text: str) -> str:
    """`text` with every character that is not printable written as its Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _printable(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_text(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        shown = [_printable(inner) for inner in list(value)[:_LONGEST_LIST]]
        return shown if len(value) <= _LONGEST_LIST else [*shown, f"... {len(value) - _LONGEST_LIST} more"]
    return _text(value)


def _text(value: object) -> str:
    text = str(value)
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}... {len(text) - _LONGEST_TEXT} more characters"
    return text if text.isprintable() else escaped(text)


def _printable_lines(text: str) -> str:
    """A traceback: its lines stay lines; of one that is too long the end stays, which says what happened."""
    if len(text) > _LONGEST_TRACEBACK:
        text = f"...\n{text[-_LONGEST_TRACEBACK:]}"
    return "\n".join(escaped(line) for line in text.split("\n"))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(lambda found: f"{found['keep'] or found['keep2'] or found['keep3']}***", value)
    if isinstance(value, Mapping):
        return {
            key: "***" if _SECRET_NAMES.search(str(key)) else _without_secrets(inner) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    return value


def _indented(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For text: no line of a traceback, whose message others may have written, can pass for a line of the log."""
    if "exception" in event:
        event["exception"] = "\n".join(f"    {line}" for line in event["exception"].split("\n"))
    return event


def _prioritised(render: structlog.typing.Processor) -> structlog.typing.Processor:
    def processor(logger: WrappedLogger, method: str, event: EventDict) -> str:
        level = str(event["level"])
        return with_priority(str(render(logger, method, event)), level)

    return processor


def _wants_colours() -> bool:
    """https://no-color.org: on a terminal, unless the variable says something."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
