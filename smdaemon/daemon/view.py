"""What the control socket may see and ask of the daemon: an implementation of `control.backend.Backend`."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from heapq import nsmallest
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry

from smdaemon import __version__
from smdaemon.control.metrics import Metrics
from smdaemon.daemon.feed import StatusNews, feed
from smdaemon.daemon.handoffs import Handoffs
from smdaemon.daemon.history import History
from smdaemon.daemon.intake import Intake
from smdaemon.daemon.notifications import Notifications
from smdaemon.daemon.pulse import Pulse
from smdaemon.daemon.serving import Serving
from smdaemon.daemon.space import SpaceWatch
from smdaemon.daemon.versions import Versions
from smdaemon.errors import ConfigError, SmdaemonError
from smdaemon.export.budget import ByteBudget
from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.ledger import Ledger
from smdaemon.jobs.messages import error_message, line_message, set_time, to_message
from smdaemon.jobs.scheduler import Scheduler
from smdaemon.jobs.states import ACTIVE, TERMINAL, State
from smdaemon.log import RECENT
from smdaemon.proto import v1
from smdaemon.settings import Config, ModelSettings
from smdaemon.watch.watcher import WatchState


@dataclass
class Condition:
    """The daemon's own condition, changed only by the daemon."""

    config: Config
    config_file: str
    phase: str
    started_at: float
    config_loaded_at: float
    config_error: SmdaemonError | None = None


class Watches(Protocol):
    """Who knows how each model's directory is watched."""

    def state_of(self, model: str) -> WatchState | None:
        """The state of that model's watch; None while it has none."""
        ...


class View:
    """The daemon as the control socket sees it. Reading the status never touches the disk."""

    def __init__(
        self,
        *,
        condition: Condition,
        ledger: Ledger,
        scheduler: Scheduler,
        intake: Intake,
        watches: Watches,
        budget: ByteBudget,
        handoffs: Handoffs,
        versions: Versions,
        space: SpaceWatch,
        pulse: Pulse,
        notifications: Notifications,
        serving: Serving,
    ) -> None:
        self._condition = condition
        self._ledger = ledger
        self._scheduler = scheduler
        self._intake = intake
        self._watches = watches
        self._budget = budget
        self._handoffs = handoffs
        self._versions = versions
        self._space = space
        self._pulse = pulse
        self._notifications = notifications
        self._serving = serving
        self._stopping = trio.Event()
        self._metrics = Metrics(self.status, self.healthy)
        self.past = History(self.status, lambda: scheduler.bytes_written)
        ledger.observe(self._observe)
        handoffs.observers += [self._metrics.observe_stall, self.past.observe_stall]
        versions.observers.append(self._metrics.observe_removals)

    @property
    def registry(self) -> CollectorRegistry:
        """Where the metrics are collected."""
        return self._metrics.registry

    @property
    def stopping(self) -> trio.Event:
        """Set when the daemon drains."""
        return self._stopping

    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._condition.phase == "running"

    def healthy(self) -> bool:
        """Whether the daemon makes progress; a broken service takes the whole daemon down, a stuck one shows here."""
        return self._pulse.alive

    def status(self) -> v1.Status:
        """The daemon as a whole."""
        condition = self._condition
        status = v1.Status(
            version=__version__,
            pid=os.getpid(),
            phase=condition.phase,
            config_file=condition.config_file,
            models=self.models().models,
            jobs=_counted(self._ledger.counts()),
            host_memory_bytes=self._budget.total,
            host_memory_used_bytes=self._budget.used,
            workers=condition.config.daemon.workers,
            workers_busy=self._scheduler.busy,
        )
        set_time(status.started_at, condition.started_at)
        set_time(status.config_loaded_at, condition.config_loaded_at)
        if condition.config.daemon.handoff_socket:
            status.handoff.CopyFrom(self._handoffs.status())
        status.notifiers.extend(self._notifications.status())
        if (serving := self._serving.status()) is not None:
            status.serving.CopyFrom(serving)
        if condition.config_error is not None:
            status.config_error.CopyFrom(error_message(condition.config_error))
        return status

    def models(self) -> v1.ModelList:
        """The configured models."""
        oldest: dict[str, float] = {}  # one walk: there may be thousands of open jobs
        for job in self._ledger.open_jobs.values():
            oldest[job.model] = min(job.created_at, oldest.get(job.model, job.created_at))
        return v1.ModelList(
            models=[self._model(model, oldest.get(model.name)) for model in self._condition.config.model]
        )

    def _model(self, settings: ModelSettings, oldest: float | None) -> v1.Model:
        model = v1.Model(
            name=settings.name,
            watch=settings.watch,
            publish=settings.publish,
            health="degraded",
            jobs=_counted(self._ledger.counts(settings.name)),
        )
        watch = self._watches.state_of(settings.name)
        if watch is not None:
            model.watch_method, model.health = watch.method, watch.health
            if watch.error is not None:
                model.error.CopyFrom(error_message(watch.error))
        room = self._space.rooms.get(settings.name)
        if room is not None:
            model.disk_free_bytes, model.disk_bytes = room.free, room.size
        if (shortage := self._space.low.get(settings.name)) is not None:
            model.health = "degraded"
            model.error.CopyFrom(error_message(shortage))
        newest = self._ledger.newest_published.get(settings.name)
        if newest is not None and newest.version is not None:
            model.newest_version, model.newest_bytes = newest.version, newest.bytes_total
            set_time(model.newest_at, newest.updated_at)
        if oldest is not None:
            set_time(model.oldest_open_at, oldest)
        problem = self._versions.problems.get(settings.name)
        if problem is not None:
            model.retention_error.CopyFrom(error_message(problem))
        return model

    def history(self) -> v1.History:
        """The last hour, in samples."""
        return self.past.message()

    async def jobs(self, *, model: str | None, state: State | None, before: int | None, limit: int) -> v1.JobList:
        """At most `limit` jobs with ids below `before`, newest first."""
        found = await self._ledger.page(model, state, before, limit)
        more = found[-1].id if len(found) == limit else 0
        return v1.JobList(jobs=[self._message(job) for job in found], next_before=more)

    def queue(self, model: str | None, limit: int) -> v1.JobList:
        """At most `limit` jobs that have not ended: what runs, then what waits, the oldest first."""
        found = [job for job in self._ledger.open_jobs.values() if model in (None, job.model)]
        first = nsmallest(limit, found, key=lambda job: (job.state not in ACTIVE, job.id))
        return v1.JobList(jobs=[self._message(job) for job in first])

    async def job(self, job_id: int, /) -> v1.Job:
        """One job with its history."""
        job = await self._ledger.get(job_id)
        if job is None:
            raise ConfigError("job-unknown", f"there is no job {job_id}")
        message = self._message(job)
        history = await self._ledger.history(job_id)
        message.history.extend(to_message(job, history=history).history)
        message.validator_output = job.validator_output
        message.log.extend(line_message(line) for line in RECENT.of(job_id))
        return message

    async def submit(self, request: v1.ExportRequest, /) -> v1.Job:
        """Accept an export."""
        return self._message(await self._intake.request(request))

    async def cancel(self, job_id: int, /) -> v1.Job:
        """Cancel an open job."""
        return self._message(await self._scheduler.cancel(job_id))

    async def retry(self, job_id: int, /) -> v1.Job:
        """Run a failed or cancelled job again; ConfigError `job-not-retryable` for what was handed over and is held no more."""
        job = await self._ledger.get(job_id)
        if job is not None and job.origin == "handoff" and job.state in TERMINAL and not self._handoffs.holds(job):
            message = f"job {job_id} is {job.state}, and its tensors, which a trainer handed over, are no longer held"
            raise ConfigError("job-not-retryable", message, remedy="save once more")
        return self._message(await self._scheduler.retry(job_id))

    async def versions(self, model: str, /) -> v1.VersionList:
        """The published versions of a model."""
        return await self._versions.listed(model)

    async def pin(self, model: str, version: int, /, *, pinned: bool) -> v1.Version:
        """Keep a version whatever the rules of retention say, or no longer."""
        return await self._versions.pin(model, version, pinned=pinned)

    async def prune(self, model: str, /, *, dry_run: bool) -> v1.Pruned:
        """Apply the rules of retention now, or say what that would do."""
        return await self._versions.prune(model, dry_run=dry_run)

    async def rollback(self, model: str, to: int | None, /) -> v1.Job:
        """Accept a job that publishes an older version once more."""
        return self._message(await self._versions.rollback(model, to))

    @asynccontextmanager
    async def events(self, after: int | None, /, *, status: bool = False) -> AsyncIterator[AsyncIterator[v1.Event]]:
        """The moves after `after`, from the journal and then live, and between them the progress of what runs (seq 0).

        With `status` also the status, at once and whenever it has changed, once a second at most. Where `after` is beyond the newest
        move it is of another journal, one that was moved away: all moves come then.
        """
        newest = self._ledger.bus.last_seq
        seen = newest if after is None else after
        if seen > newest:
            seen = 0
        news = StatusNews(self._status_event) if status else _no_news
        async with aclosing(feed(self._ledger, seen, self._progress, news)) as moves:
            yield moves

    def _status_event(self) -> v1.Event:
        return v1.Event(status=self.status(), sample=self.past.newest)

    def _progress(self) -> Iterator[v1.Event]:
        for attempt in self._scheduler.attempts():
            yield v1.Event(job=self._message(attempt.job))

    def _message(self, job: Job) -> v1.Job:
        attempt = self._scheduler.attempt(job.id)
        if attempt is None:
            message = to_message(job)
            starts_all_the_same = job.restores is not None or job.publication is not None
            shortage = None if starts_all_the_same else self._space.low.get(job.model)
            if job.state is State.QUEUED and shortage is not None:
                message.reason = f"the queue is paused: {shortage.message}"
            return message
        progress = attempt.progress
        return to_message(job, bytes_done=progress.bytes_done, bytes_per_second=progress.rate)

    def _observe(self, move: Moved) -> None:
        job = move.job
        if job.state in TERMINAL:
            self._metrics.observe_end(job.model, job.state.value)
        if job.state is State.PUBLISHED:
            self._metrics.observe_export(job.model, job.updated_at - job.created_at, job.bytes_total)


def _no_news() -> Iterator[v1.Event]:
    return iter(())


def _counted(counts: dict[State, int]) -> dict[str, int]:
    return {state.value: count for state, count in counts.items()}
