"""Query parameters, strictly: an unknown or repeated one, or a bad number, is an error and never ignored."""

from starlette.requests import Request

from smdaemon.control.render import HttpError


def only(request: Request, *known: str) -> None:
    """HttpError 400 unless each parameter is one of `known` and stands once."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            takes = f"the path takes {', '.join(known)}" if known else "the path takes none"
            raise HttpError(400, f"unknown query parameter {name!r}", remedy=takes)
        if name in seen:
            raise HttpError(400, f"the query parameter {name!r} stands twice")
        seen.add(name)


def text(request: Request, name: str) -> str | None:
    """The parameter, None where it is missing or empty."""
    return request.query_params.get(name) or None


def whole(request: Request, name: str, *, low: int, high: int) -> int | None:
    """The parameter as a whole number from `low` to `high`, None where it is missing; HttpError 400."""
    value = request.query_params.get(name)
    return None if value is None else parse_whole(name, value, low=low, high=high)


def flag(request: Request, name: str) -> bool:
    """The parameter as true or false, false where it is missing; HttpError 400."""
    value = request.query_params.get(name, "false")
    if value not in {"true", "false"}:
        raise HttpError(400, f"{name} is {value[:40]!r}", remedy="give true or false")
    return value == "true"


def parse_whole(name: str, value: str, *, low: int, high: int) -> int:
    """`value` as a whole number from `low` to `high`; HttpError 400 names `name`."""
    if value.isascii() and value.isdigit() and len(value) <= 19 and low <= int(value) <= high:
        return int(value)
    raise HttpError(400, f"{name} is {value[:40]!r}", remedy=f"give a whole number from {low} to {high}")
