"""What appeared becomes a durable job: drops, request files, requests over the socket."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from smdaemon.daemon.requests import check_request, read_request, resolved
from smdaemon.daemon.source_look import SourceLook, look_at_drop, look_at_source, root_of
from smdaemon.errors import ConfigError, DropError, EnvironmentFault, SmdaemonError, shortage
from smdaemon.handoff.exports import Handed
from smdaemon.jobs.job import Job, JobError, NewJob, Origin
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.results import result_path
from smdaemon.log import get_logger
from smdaemon.proto.mapping import dict_to_message
from smdaemon.proto.v1 import ExportRequest
from smdaemon.publish.local import MAX_VERSION
from smdaemon.settings import Config, ModelSettings
from smdaemon.sources.segment import HANDOFF
from smdaemon.watch.watcher import Drop

_log = get_logger(__name__)
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
        found = await _looking(look_at_drop, drop.path, drop.format or model.format, model)
        return _job_of(model, ExportRequest(format=drop.format), found, origin="drop", identity=str(drop.identity))

    async def request(self, request: ExportRequest) -> Job:
        """Take a request from the socket. Raises DropError or ConfigError where it cannot be accepted."""
        check_request(request)
        model = self._model_of(request, None)
        request = await _looking(resolved, request, Path(model.watch), model)
        found = await _looking(look_at_source, Path(request.source), request.format or model.format, model)
        if found.problem is not None:
            raise found.problem
        accepted = await self._ledger.accept(*_job_of(model, request, found, origin="api", identity=found.content))
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
            # as `look_at_source` has it for drops, beside which it waits
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
        model, request, source = watching, ExportRequest(), drop.path
        problem: SmdaemonError | None = None
        try:
            request = await _looking(read_request, drop.path, root_of(watching))
            model = self._model_of(request, watching)
            request = await _looking(resolved, request, drop.path.parent, model)
            source = Path(request.source)
        except SmdaemonError as error:
            if error.retryable:
                raise  # the request cannot be read now: who watches asks again
            problem = error
        found = await _looking(look_at_source, source, request.format or model.format, model, problem)
        if found.problem is not None and found.problem.retryable:
            found = replace(found, problem=None)  # the source cannot be read now: the export will wait for it
        identity, result = str(drop.identity), str(result_path(drop.path))
        return _job_of(model, request, found, origin="request", identity=identity, result=result)

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


def _job_of(
    model: ModelSettings, request: ExportRequest, found: SourceLook, *, origin: Origin, identity: str, result: str = ""
) -> tuple[NewJob, JobError | None]:
    """What the journal is to accept, with a problem that is known already."""
    problem = found.problem
    version = request.version if request.HasField("version") else found.step
    if version is not None and version > MAX_VERSION:
        problem = problem or _too_great(version)
        version = None
    new = NewJob(
        model=model.name,
        origin=origin,
        source=str(found.source),
        identity=identity,
        format=request.format or model.format,
        request=request.SerializeToString(deterministic=True),
        result_path=result,
        order=found.order,
        version=version,
        content=found.content,
    )
    return new, None if problem is None else JobError.of(problem)


def _too_great(step: int) -> DropError:
    remedy = 'give it a smaller number, or choose version = "timestamp" or "sequence"'
    return DropError(
        "version-invalid", f"the step {step} is no version: the greatest possible is {MAX_VERSION}", remedy=remedy
    )
