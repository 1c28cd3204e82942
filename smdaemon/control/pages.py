"""The dashboard's files: a page that holds no data, and reads all that it shows from the API like any other client.

No request leaves the machine, and a Content-Security-Policy without exceptions sees to it: no inline script, nothing of another origin.
"""

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

PREFIX = "/page/"
INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


@cache
def _all() -> dict[str, _File]:
    """Every file of the page by its name; read once."""
    return dict(_below(files("smdaemon.control").joinpath("page"), ""))


def _below(folder: Traversable, prefix: str) -> list[tuple[str, _File]]:
    found: list[tuple[str, _File]] = []
    for each in folder.iterdir():
        name = prefix + each.name
        if each.is_dir():
            found += _below(each, f"{name}/")
        elif (suffix := f".{name.rpartition('.')[2]}") in _TYPES:
            content = each.read_bytes()
            found.append((name, _File(content, _TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')))
    return found


def is_page(path: str) -> bool:
    """Whether a path is of the dashboard's own files, which tell nothing of the daemon."""
    return path == "/" or path.startswith(PREFIX)


def wants_page(request: Request) -> bool:
    """Whether a browser asks: programs do not say that they take HTML."""
    return "text/html" in request.headers.get("accept", "")


def page_response(request: Request, name: str) -> Response:
    """One file of the dashboard; 404 for another name, 304 where the client has it already."""
    file = _all().get(name)
    if file is None:
        return PlainTextResponse("there is no such file\n", 404)
    headers = {**HEADERS, "ETag": file.tag, "Vary": "Accept"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def is_complete() -> bool:
    """Whether what the page stands on is here: not in a source tree that nobody ran `make` in."""
    return "vendor/preact.js" in _all()
