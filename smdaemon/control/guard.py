"""Keeps web pages out: a browser on the same machine can reach a loopback port on behalf of any page that it shows.

A page of another origin is told by the headers that browsers add and pages cannot remove. A page that had its own host name
point to 127.0.0.1 is told by the Host header. Programs send neither, or send a loopback name.
"""

from starlette.requests import Request

from smdaemon.control.pages import is_page
from smdaemon.control.render import HttpError
from smdaemon.loopback import is_loopback

_REMEDY = "use a program such as curl or smdaemon itself, not a web page"


def refuse_foreign_pages(request: Request) -> None:
    """HttpError 403 for a request that a web page of another origin made."""
    # a link on another page may lead to the dashboard, whose files tell nothing
    is_visit = is_page(request.url.path) and request.headers.get("sec-fetch-mode") == "navigate"
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not is_visit:
        raise HttpError(403, "the request comes from a web page of another origin", remedy=_REMEDY)
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise HttpError(403, f"the request comes from a web page of {origin[:80]!r}", remedy=_REMEDY)
    plain_tcp = (
        request.client is not None and request.url.scheme == "http"
    )  # over TLS it takes the token, which no page has
    if plain_tcp and not is_loopback(request.url.hostname or ""):
        raise HttpError(403, f"the host {request.url.hostname!r} is not a loopback name", remedy=_REMEDY)
