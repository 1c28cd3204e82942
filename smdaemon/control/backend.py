"""What the daemon offers the control socket: all that the HTTP side knows of the rest of smdaemon."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry

from smdaemon.jobs.states import State
from smdaemon.proto import v1


class Backend(Protocol):
    """The daemon as the control socket sees it. Called only from the trio thread that serves."""

    @property
    def registry(self) -> CollectorRegistry:
        """Where the daemon's metrics are collected."""

    @property
    def stopping(self) -> trio.Event:
        """Set when the daemon drains: no new connection is accepted and event streams end."""

    def status(self) -> v1.Status:
        """The daemon as a whole."""

    def history(self) -> v1.History:
        """The last hour in samples, for plots."""

    def models(self) -> v1.ModelList:
        """The configured models, as in the status."""

    def ready(self) -> bool:
        """Whether requests are taken: started and not draining."""

    def healthy(self) -> bool:
        """Whether the services make progress."""

    async def jobs(self, *, model: str | None, state: State | None, before: int | None, limit: int) -> v1.JobList:
        """At most `limit` jobs with ids below `before`, newest first."""

    def queue(self, model: str | None, limit: int) -> v1.JobList:
        """At most `limit` jobs that have not ended: what runs, then what waits, the oldest first."""

    async def job(self, job_id: int, /) -> v1.Job:
        """One job with its history; ConfigError job-unknown."""

    async def submit(self, request: v1.ExportRequest, /) -> v1.Job:
        """Accept an export; the job is durable on return."""

    async def cancel(self, job_id: int, /) -> v1.Job:
        """Cancel an open job; ConfigError job-unknown, job-not-cancellable."""

    async def retry(self, job_id: int, /) -> v1.Job:
        """Run a failed or cancelled job again; ConfigError job-unknown, job-not-retryable."""

    async def versions(self, model: str, /) -> v1.VersionList:
        """The published versions of a model, newest first; ConfigError request-model-unknown."""

    async def pin(self, model: str, version: int, /, *, pinned: bool) -> v1.Version:
        """Keep a version whatever the rules of retention say, or no longer; ConfigError version-unknown."""

    async def prune(self, model: str, /, *, dry_run: bool) -> v1.Pruned:
        """Apply the rules of retention now, or say what that would do."""

    async def rollback(self, model: str, to: int | None, /) -> v1.Job:
        """Accept a job that publishes an older version once more, without `to` the newest good one before the newest.

        ConfigError version-unknown, request-duplicate.
        """

    def events(
        self, after: int | None, /, *, status: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[v1.Event]]:
        """The moves of all jobs with seq above `after` (None: only those from now on), then live ones.

        Events with seq 0 tell the progress of what runs, a few times a second; with `status` also the status, when it has changed.
        """
