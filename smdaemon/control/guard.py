"""Keeps web pages out: a browser on the same machine can reach a loopback port on behalf of any page that it shows.

A page of another origin is told by the headers that browsers add and pages cannot remove. A page that had its own host name
point to 127.0.0.1 is told by the Host header. Programs send neither, or send a loopback name.
"""

import ipaddress

from starlette.requests import Request

from smdaemon.control.render import HttpError

_REMEDY = "use a program such as curl or smdaemon itself, not a web page"


def refuse_foreign_pages(request: Request) -> None:
    """HttpError 403 for a request that a web page of another origin made."""
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise HttpError(403, "the request comes from a web page of another origin", remedy=_REMEDY)
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise HttpError(403, f"the request comes from a web page of {origin[:80]!r}", remedy=_REMEDY)
    over_tcp = request.client is not None
    if over_tcp and not is_loopback(request.url.hostname or ""):
        raise HttpError(403, f"the host {request.url.hostname!r} is not a loopback name", remedy=_REMEDY)


def is_loopback(host: str) -> bool:
    """Whether `host` is 'localhost' or an address of the loopback network."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
