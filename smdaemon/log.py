"""Structured logging: one event a line, coloured for a person on a terminal, JSON for everything else.

Every value is made printable first: names come from files that others wrote, and a newline or an escape sequence in one must
neither forge a log line nor move a terminal's cursor.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `room=name`; keyword arguments of its methods become fields."""
    logger: FilteringBoundLogger = structlog.get_logger(room=name)
    return logger


def configure(level: LogLevel = "info", fmt: LogFormat = "auto") -> None:
    """Send everything at or above `level` to stderr; `auto` is text on a terminal and JSON elsewhere."""
    text = fmt == "text" or (fmt == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor
    if text:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        renderer = structlog.processors.JSONRenderer(sort_keys=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if text else [structlog.processors.format_exc_info]),
            printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: strings keep what is printable, everything else is written as its escape."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "stack") and not value.isprintable():
            event[key] = escaped(value)
    return event


def escaped(text: str) -> str:
    """`text` with every character that is not printable written as its Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
