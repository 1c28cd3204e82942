"""What a request asks for, whether it came as a file or over the socket: read, checked, every path in it made absolute."""

import math
import os
from pathlib import Path

from smdaemon.confinement import confined, open_regular
from smdaemon.daemon.source_look import within
from smdaemon.errors import ConfigError, DropError
from smdaemon.export.plan import check_choices
from smdaemon.jobs.rows import encodable
from smdaemon.proto.mapping import REQUEST_PARSERS, request_ending
from smdaemon.proto.v1 import ExportRequest
from smdaemon.settings import ModelSettings
from smdaemon.sources.files import source_fault
from smdaemon.tensorbundle.writer import SHARDS_LIMIT

MAX_REQUEST_BYTES = 1 << 20


def read_request(path: Path, root: Path | None = None) -> ExportRequest:
    """The request in a file NAME.export.json, .toml or .binpb; with a `root`, no link in it is followed.

    Raises DropError `request-invalid` where it is not one, `source-missing` where it is gone, `source-link` where a link leads to it,
    EnvironmentFault where it cannot be read.
    """
    try:
        with confined(root), os.fdopen(open_regular(path), "rb") as file:
            content = file.read(MAX_REQUEST_BYTES + 1)
    except OSError as error:
        raise source_fault(error, path) from error
    if len(content) > MAX_REQUEST_BYTES:
        raise DropError("request-invalid", f"{path.name!r} is longer than {MAX_REQUEST_BYTES} bytes")
    request = REQUEST_PARSERS[request_ending(path.name) or ".export.json"](content)
    check_request(request)
    return request


def check_request(request: ExportRequest) -> None:
    """What the types of a request cannot say; DropError `request-invalid`."""
    if not request.source:
        raise DropError("request-invalid", "the request names no source", remedy='add "source"')
    if not 0 <= request.shards <= SHARDS_LIMIT:
        raise DropError("request-invalid", f"shards: {request.shards} is not between 0 and {SHARDS_LIMIT}")
    choices = {"missing": ("error", "keep"), "unused": ("ignore", "error"), "graph": ("auto", "none")}
    choices["debug_info"] = ("keep", "drop")
    for name, known in choices.items():
        if getattr(request, name) not in ("", *known):
            told = " nor ".join(map(repr, known))
            raise DropError("request-invalid", f"{name}: {getattr(request, name)!r} is neither {told}")
    for name, value in request.metrics.items():
        if not math.isfinite(value):  # JSON has no such numbers, protobuf has
            raise DropError("request-invalid", f"metrics: {name!r} is {value}, which is no finite number")
    try:
        check_choices(request.devices or "keep", request.io_device, "the request")
    except ConfigError as error:
        raise DropError("request-invalid", error.message, remedy=error.remedy) from error


def resolved(request: ExportRequest, folder: Path, model: ModelSettings) -> ExportRequest:
    """`request` with every path absolute, taken from `folder`; each must lie beneath the directory that the model watches.

    A link is followed now, once; with `follow_links` it is left as it is, and may lead elsewhere.
    Raises DropError `request-invalid`, `request-source-outside`.
    """
    made = ExportRequest()
    made.CopyFrom(request)

    def beneath(path: str) -> str:
        found = str(_asked_for(folder / path, model))
        if encodable(found) != found:
            message = f"the path {found!r} is not UTF-8, and a request holds text"
            raise DropError("request-invalid", message, remedy="rename what it leads through")
        return found

    for name in ("source", "template", "function", "warmup", "debug_info_map", "meta_graph"):
        if getattr(request, name):
            setattr(made, name, beneath(getattr(request, name)))
    for destination, path in request.assets_extra.items():
        made.assets_extra[destination] = beneath(path)
    for name, mode in request.modes.items():
        made.modes[name].template = beneath(mode.template)
    return made


def _asked_for(path: Path, model: ModelSettings) -> Path:
    """A path of a request. DropError `request-invalid`, `request-source-outside`."""
    if "\0" in str(path):
        raise DropError("request-invalid", f"the path {str(path)!r} holds NUL")
    try:
        return within(path, model)
    except DropError as error:
        raise DropError("request-source-outside", error.message) from error
