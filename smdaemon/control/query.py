"""Query parameters: what a path takes, said once, for the description and for reading them.

Strictly: an unknown or repeated one, or a bad number, is an error and never ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from starlette.requests import Request

from smdaemon.control.render import HttpError


class Parameter(Protocol):
    """One parameter of a path."""

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        ...

    def read(self, name: str, value: str | None) -> Any:
        """What `value` means, None for a parameter that is missing; HttpError 400 names `name`."""
        ...


@dataclass(frozen=True)
class Text:
    """Any text; an empty one is none."""

    @property
    def schema(self) -> dict[str, Any]:
        """See `Parameter`."""
        return {"type": "string"}

    def read(self, _name: str, value: str | None) -> str | None:
        """See `Parameter`."""
        return value or None


@dataclass(frozen=True)
class OneOf:
    """A member of an enumeration; an empty text is none."""

    members: type[StrEnum]

    @property
    def schema(self) -> dict[str, Any]:
        """See `Parameter`."""
        return {"type": "string", "enum": list(self.members)}

    def read(self, name: str, value: str | None) -> StrEnum | None:
        """See `Parameter`."""
        try:
            return self.members(value) if value else None
        except ValueError:
            known = ", ".join(self.members)
            raise HttpError(400, f"{str(value)[:40]!r} is not a {name}", remedy=f"{name}s are {known}") from None


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`; `default` where it is missing."""

    low: int
    high: int
    default: int | None = None

    @property
    def schema(self) -> dict[str, Any]:
        """See `Parameter`."""
        default = {} if self.default is None else {"default": self.default}
        return {"type": "integer", "minimum": self.low, "maximum": self.high, **default}

    def read(self, name: str, value: str | None) -> int | None:
        """See `Parameter`."""
        if value is None:
            return self.default
        if value.isascii() and value.isdigit() and len(value) <= 19 and self.low <= int(value) <= self.high:
            return int(value)
        raise HttpError(400, f"{name} is {value[:40]!r}", remedy=f"give a whole number from {self.low} to {self.high}")


@dataclass(frozen=True)
class Flag:
    """True or false; false where it is missing."""

    @property
    def schema(self) -> dict[str, Any]:
        """See `Parameter`."""
        return {"type": "boolean", "default": False}

    def read(self, name: str, value: str | None) -> bool:
        """See `Parameter`."""
        if value not in {None, "true", "false"}:
            raise HttpError(400, f"{name} is {str(value)[:40]!r}", remedy="give true or false")
        return value == "true"


def read(request: Request, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The value of each of `parameters`; HttpError 400 where one stands twice, is unsound, or is none of them."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in parameters:
            takes = f"the path takes {', '.join(parameters)}" if parameters else "the path takes none"
            raise HttpError(400, f"unknown query parameter {name!r}", remedy=takes)
        if name in given:
            raise HttpError(400, f"the query parameter {name!r} stands twice")
        given[name] = value
    return {name: parameter.read(name, given.get(name)) for name, parameter in parameters.items()}
