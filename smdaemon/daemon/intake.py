"""What appeared becomes a durable job: drops, request files, requests over the socket."""

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from smdaemon.confinement import confined, open_regular, status_of, unlinked
from smdaemon.errors import ConfigError, DropError, EnvironmentFault, SmdaemonError, shortage
from smdaemon.export.plan import check_choices
from smdaemon.handoff.exports import Handed
from smdaemon.jobs.job import Job, JobError, NewJob, Origin
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.results import result_path
from smdaemon.jobs.rows import encodable
from smdaemon.log import get_logger
from smdaemon.proto.mapping import REQUEST_PARSERS, dict_to_message, request_ending
from smdaemon.proto.v1 import ExportRequest
from smdaemon.publish.local import MAX_VERSION
from smdaemon.settings import Config, ModelSettings
from smdaemon.sources.base import Identity
from smdaemon.sources.checkpoint_state import checkpoint_prefix, is_checkpoint
from smdaemon.sources.files import source_fault
from smdaemon.sources.formats import identity_of, open_source
from smdaemon.sources.segment import HANDOFF
from smdaemon.sources.step import step_of
from smdaemon.tensorbundle.files import index_path
from smdaemon.tensorbundle.writer import SHARDS_LIMIT
from smdaemon.watch.watcher import Drop

_log = get_logger(__name__)
MAX_REQUEST_BYTES = 1 << 20
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class UnreadableError(Exception):
    """A file of one drop cannot be read for the moment: `fault` says why. Others can be taken meanwhile."""

    def __init__(self, fault: EnvironmentFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Intake:
    """Accepts exports. Whatever is accepted is in the journal before the caller is told."""

    def __init__(self, ledger: Ledger, config: Callable[[], Config]) -> None:
        self._ledger = ledger
        self._config = config

    async def drop(self, model_name: str, drop: Drop) -> None:
        """Take what the watch of a model found; a drop that was accepted before is passed over.

        Raises EnvironmentFault where the journal refuses, UnreadableError where only this drop cannot be taken for the moment.
        An unforeseen exception fails the drop's job: else it would end the daemon, and be met again at each start.
        """
        model = self._config().model_named(model_name)
        if model is None:
            return  # a reload removed the model while its watch was reporting
        if drop.kind == "output" and model.on_drop == "ignore":
            return
        try:
            await self._take(model, drop)
        except (SmdaemonError, UnreadableError):
            raise
        except Exception as error:  # whatever one drop meets, the daemon goes on with the others
            short = shortage(error)
            if short is not None:
                raise UnreadableError(short) from error
            await self._fail(model, drop, error)

    async def _take(self, model: ModelSettings, drop: Drop) -> None:
        if drop.bug is not None:
            raise drop.bug
        try:
            new, problem = await self._understood(model, drop)
        except EnvironmentFault as error:
            raise UnreadableError(error) from error
        await self._ledger.accept(new, problem)

    async def _fail(self, model: ModelSettings, drop: Drop, error: Exception) -> None:
        """Accept a drop as failed by a bug; once, however often it is met."""
        new = NewJob(
            model=model.name,
            origin="request" if drop.kind == "request" else "drop",
            source=str(drop.path),
            identity=str(drop.identity),
            order=drop.identity.mtime_ns / 1e9,
            result_path=str(result_path(drop.path)) if drop.kind == "request" else "",
        )
        job = await self._ledger.accept(new, JobError.of_bug(error))
        if job is not None:
            _log.error("internal error", job=job.id, model=model.name, path=str(drop.path), exc_info=error)

    async def _understood(self, model: ModelSettings, drop: Drop) -> tuple[NewJob, JobError | None]:
        """The job that a drop becomes; EnvironmentFault where a file cannot be read for the moment."""
        if drop.kind == "request":
            return await self._request_file(model, drop)
        request, source, content = ExportRequest(format=drop.format), drop.path, ""
        problem: SmdaemonError | None = None
        try:
            source = await _looking(_within, drop.path, model)
            content = await _looking(_look, source, model, request)
        except SmdaemonError as error:
            if error.retryable:
                raise
            problem = error
        return await _job_of(
            model, request, source, origin="drop", identity=str(drop.identity), content=content, problem=problem
        )

    async def request(self, request: ExportRequest) -> Job:
        """Take a request from the socket. Raises DropError or ConfigError where it cannot be accepted."""
        check_request(request)
        model = self._model_of(request, None)
        request = await _looking(resolved, request, Path(model.watch), model)
        source = Path(request.source)
        content = await _looking(_look, source, model, request)
        accepted = await self._ledger.accept(
            *await _job_of(model, request, source, origin="api", identity=content, content=content)
        )
        if accepted is None:
            raise ConfigError("request-duplicate", f"{request.source!r} was asked for with these options before")
        return accepted

    async def handoff(self, handed: Handed) -> tuple[Job, bool]:
        """Take what a trainer committed: its job, and whether it is new; where it was taken before, it is the job that it became.

        Raises DropError or ConfigError where it cannot be accepted.
        """
        if handed.step is not None and abs(handed.step) > MAX_VERSION:
            raise _too_great(handed.step)
        step = "" if handed.step is None else handed.step
        source = f"handoff:{handed.trainer.replace('/', '_')}/{step}"
        request = dict_to_message({**handed.options, "model": handed.model, "source": source}, ExportRequest)
        check_request(request)
        model = self._model_of(request, None)
        request.source = ""  # which is no path
        request = await _looking(resolved, request, Path(model.watch), model)
        request.source = source
        version = request.version if request.HasField("version") else None
        if version is None and model.version == "step":
            version = handed.step
        new = NewJob(
            model=model.name,
            origin="handoff",
            source=source,
            identity=handed.export,
            format=HANDOFF,
            request=request.SerializeToString(deterministic=True),
            # as `_order_of` has it for drops, beside which it waits
            order=float(handed.step) if model.version == "step" and handed.step is not None else time.time(),
            version=version,
        )
        if (accepted := await self._ledger.accept(new)) is not None:
            return accepted, True
        job = await self._ledger.handoff(handed.export)
        if job is None:
            raise DropError("request-duplicate", f"the export {handed.export!r} was accepted before and is forgotten")
        return job, False

    async def _request_file(self, watching: ModelSettings, drop: Drop) -> tuple[NewJob, JobError | None]:
        """The job of a request file; one that cannot be understood becomes a failed job, with a result file that says why."""
        model, request, source, content = watching, ExportRequest(), drop.path, ""
        problem: SmdaemonError | None = None
        try:
            request = await _looking(read_request, drop.path, _root_of(watching))
            model = self._model_of(request, watching)
            request = await _looking(resolved, request, drop.path.parent, model)
            source = Path(request.source)
            content = await _looking(_look, source, model, request)
        except SmdaemonError as error:
            problem = error
            if error.retryable:
                if source == drop.path:
                    raise  # the request cannot be read now: who watches asks again
                problem = None  # its source cannot: the export will wait for it
        return await _job_of(
            model,
            request,
            source,
            origin="request",
            identity=str(drop.identity),
            content=content,
            result=str(result_path(drop.path)),
            problem=problem,
        )

    def _model_of(self, request: ExportRequest, watching: ModelSettings | None) -> ModelSettings:
        """The model that a request is for: the one it names, else the one whose directory it lies in."""
        if not request.model and watching is not None:
            return watching
        model = self._config().model_named(request.model)
        if model is None:
            raise ConfigError("request-model-unknown", f"no model is called {request.model!r}")
        return model


async def _looking(look: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Look at files in a thread. It changes nothing, so that a stop leaves one that hangs to itself."""
    return await trio.to_thread.run_sync(look, *arguments, abandon_on_cancel=True)


async def _job_of(
    model: ModelSettings,
    request: ExportRequest,
    source: Path,
    *,
    origin: Origin,
    identity: str,
    content: str,
    result: str = "",
    problem: SmdaemonError | None = None,
) -> tuple[NewJob, JobError | None]:
    """What the journal is to accept, with a problem that is known already. EnvironmentFault as `_order_of`.

    `content` was looked at before: so a step that is found now is that of this content, or the export will find another.
    """
    order, version = await _looking(_order_of, model, request, source)
    if request.HasField("version"):
        version = request.version
    if version is not None and version > MAX_VERSION:
        problem, version = problem or _too_great(version), None
    new = NewJob(
        model=model.name,
        origin=origin,
        source=str(source),
        identity=identity,
        format=request.format or model.format,
        request=request.SerializeToString(deterministic=True),
        result_path=result,
        order=order,
        version=version,
        content=content,
    )
    return new, None if problem is None else JobError.of(problem)


def _too_great(step: int) -> DropError:
    remedy = 'give it a smaller number, or choose version = "timestamp" or "sequence"'
    return DropError(
        "version-invalid", f"the step {step} is no version: the greatest possible is {MAX_VERSION}", remedy=remedy
    )


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


def _root_of(model: ModelSettings) -> Path | None:
    """What the model's drops are confined to; None where links in it are followed."""
    return None if model.follow_links else Path(model.watch)


def _within(path: Path, model: ModelSettings) -> Path:
    """What a path beneath the watched directory leads to; DropError `source-outside` where that is elsewhere and links are not followed."""
    root = Path(model.watch)
    if not model.follow_links:
        return unlinked(path, root)
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - ".." is taken away as a word
    if not whole.is_relative_to(os.path.abspath(root)):  # noqa: PTH100 - as above
        raise DropError("source-outside", f"{str(path)!r} lies outside {str(root)!r}")
    return whole


def _asked_for(path: Path, model: ModelSettings) -> Path:
    """A path of a request. DropError `request-invalid`, `request-source-outside`."""
    if "\0" in str(path):
        raise DropError("request-invalid", f"the path {str(path)!r} holds NUL")
    try:
        return _within(path, model)
    except DropError as error:
        raise DropError("request-source-outside", error.message) from error


def _main_file(source: Path) -> Path:
    """The file whose name and stamps speak for a source: of a checkpoint its index, however the checkpoint is named."""
    return index_path(checkpoint_prefix(source)) if is_checkpoint(source) else source


def _look(source: Path, model: ModelSettings, request: ExportRequest) -> str:
    """Which content lies at a source. DropError where there is none, EnvironmentFault where that cannot be told."""
    with confined(_root_of(model)):
        try:
            return str(identity_of(source, request.format or model.format))
        except DropError as error:
            if error.code != "source-unknown-format":
                raise
        try:
            return str(Identity.of(status_of(source)))  # the export will say what is wrong with it
        except OSError as error:
            raise source_fault(error, source) from error


def _order_of(model: ModelSettings, request: ExportRequest, source: Path) -> tuple[float, int | None]:
    """How new a source is among its model's, and its step where the model's versions are steps.

    A source that cannot be opened is given its time; the export will say what is wrong with it. Raises EnvironmentFault where only a
    look into it could tell its step, and that is to be tried again: without a step the export would fail for good.
    """
    step = None
    with suppress(SmdaemonError, OSError), confined(_root_of(model)):
        source = _main_file(source)
    if model.version == "step":
        step = step_of(source, {}, Path(model.watch))
        if step is None:
            step = _step_inside(source, request.format or model.format, model)
    if step is not None:
        return float(step), step
    try:
        return source.stat().st_mtime, None
    except OSError:
        return 0.0, None


def _step_inside(source: Path, format_name: str, model: ModelSettings) -> int | None:
    """The step that the metadata of a source tells; None too where it is unsound. EnvironmentFault that is to be tried again."""
    try:
        with confined(_root_of(model)), open_source(source, format_name) as opened:
            return step_of(source, opened.metadata, Path(model.watch))
    except EnvironmentFault as error:
        if error.retryable:
            raise
    except (SmdaemonError, OSError):
        pass
    return None
