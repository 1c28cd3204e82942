"""Keeps web pages out: a browser can reach a loopback port, or a socket behind a forwarded one, on behalf of any page that it shows.

A page of another origin is told by the headers that browsers add and pages cannot remove. A page that had its own host name
point to 127.0.0.1 is told by the Host header. Programs send neither, or send a loopback name, or for a unix socket any word.
"""

import re

from starlette.requests import Request

from smdaemon.control.pages import is_page
from smdaemon.control.render import HttpError
from smdaemon.loopback import is_loopback

_REMEDY = "use a program such as curl or smdaemon itself, not a web page"
_PORT = re.compile(r":[0-9]+\Z")
# What programs make up for a unix socket, as in curl's http://d/. No page is reached so: where a port is forwarded, its name has a dot
# or the port behind it.
_WORD = re.compile(r"[A-Za-z0-9_-]+")


def refuse_foreign_pages(request: Request) -> None:
    """HttpError 403 for a request that a web page of another origin made."""
    # a link on another page may lead to the dashboard, whose files tell nothing
    is_visit = is_page(request.url.path) and request.headers.get("sec-fetch-mode") == "navigate"
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not is_visit:
        raise HttpError(403, "the request comes from a web page of another origin", remedy=_REMEDY)
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise HttpError(403, f"the request comes from a web page of {origin[:80]!r}", remedy=_REMEDY)
    host = request.headers.get("host", "")
    encrypted = request.url.scheme == "https"  # then it takes the token, which no page has
    if host and not encrypted and not _names_this_machine(host, unix_socket=request.client is None):
        raise HttpError(403, f"the host {host[:80]!r} is not a loopback name", remedy=_REMEDY)


def _names_this_machine(host: str, *, unix_socket: bool) -> bool:
    """Whether a Host header is no other machine's name; what cannot be understood is one."""
    if unix_socket and _WORD.fullmatch(host):
        return True
    return is_loopback(_PORT.sub("", host).lower())
