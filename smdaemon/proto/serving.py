"""The message classes of package `tensorflow.serving`, made at first use; their types stand in the stub beside this file."""

from typing import Any

from smdaemon.proto.pool import lookup


def __getattr__(name: str) -> Any:
    try:
        found = lookup(f"tensorflow.serving.{name}")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = found
    return found
