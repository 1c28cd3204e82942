"""Prometheus metrics: most are read from the daemon's status when they are asked for, so they cannot drift from it."""

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from smdaemon.proto import v1

# From a tiny model to one of hundreds of GiB, in seconds.
_EXPORT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
# From a snapshot on the device to a copy of hundreds of GiB.
_STALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUEUED_STATES = ("detected", "queued", "waiting")
_ENDS = ("published", "failed", "superseded", "cancelled")

Ended = collections.Counter[tuple[str, str]]
"""Jobs that ended, by model and final state."""


class Metrics:
    """The daemon's metrics on a registry of their own. `status` and `healthy` are called for every scrape, in the scraping thread."""

    def __init__(self, status: Callable[[], v1.Status], healthy: Callable[[], bool] = lambda: True) -> None:
        self.registry = CollectorRegistry()
        self._ended: Ended = collections.Counter()
        self._exported_bytes = Counter(
            "smdaemon_exported_bytes",
            "Bytes of tensors in the exports that this process published.",
            ["model"],
            registry=self.registry,
        )
        self._export_seconds = Histogram(
            "smdaemon_export_seconds",
            "Seconds from the acceptance of a job to its publication.",
            ["model"],
            buckets=_EXPORT_SECONDS,
            registry=self.registry,
        )
        self._stall_seconds = Histogram(
            "smdaemon_handoff_stall_seconds",
            "Seconds that a save kept its trainer.",
            ["model"],
            buckets=_STALL_SECONDS,
            registry=self.registry,
        )
        self._versions_removed = Counter(
            "smdaemon_versions_removed",
            "Old versions that retention removed since the start of the daemon.",
            ["model"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(StatusCollector(status, healthy, self._ended))

    def observe_export(self, model: str, seconds: float, nbytes: int) -> None:
        """Count one published export of `nbytes` bytes that took `seconds` seconds."""
        self._exported_bytes.labels(model).inc(nbytes)
        self._export_seconds.labels(model).observe(seconds)

    def observe_end(self, model: str, state: str) -> None:
        """Count one job that came to its final state."""
        self._ended[model, state] += 1

    def observe_stall(self, model: str, seconds: float) -> None:
        """Count one save that kept its trainer for `seconds`."""
        self._stall_seconds.labels(model).observe(seconds)

    def observe_removals(self, model: str, count: int) -> None:
        """Count versions that were removed."""
        self._versions_removed.labels(model).inc(count)


class StatusCollector(Collector):
    """Turns one `v1.Status`, and what has ended so far, into metric families."""

    def __init__(self, status: Callable[[], v1.Status], healthy: Callable[[], bool], ended: Ended) -> None:
        self._status = status
        self._healthy = healthy
        self._ended = ended

    def describe(self) -> list[Metric]:
        """Nothing is claimed beforehand: registering must not ask a daemon that is still starting for its status."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of the daemon, then those with a label for the model."""
        status = self._status()
        yield _ended_family(status, self._ended)
        yield _gauge("smdaemon_healthy", "1 while the daemon makes progress, as /healthz says it too.", self._healthy())
        yield from _daemon_families(status)
        yield from _model_families(status)
        yield from _notifier_families(status)
        if status.HasField("handoff"):
            yield from _handoff_families(status.handoff)
        if status.HasField("serving"):
            yield _gauge(
                "smdaemon_serving_config_failed",
                "1 while TensorFlow Serving's model config file cannot be brought up to date.",
                status.serving.HasField("error"),
            )


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _daemon_families(status: v1.Status) -> Iterator[Metric]:
    yield InfoMetricFamily("smdaemon_build", "The version of smdaemon that runs.", value={"version": status.version})
    yield _gauge(
        "smdaemon_start_time_seconds",
        "When the daemon started, in seconds since 1970.",
        _seconds(status.started_at),
    )
    yield _gauge(
        "smdaemon_config_loaded_time_seconds",
        "When the configuration in force was read, in seconds since 1970.",
        _seconds(status.config_loaded_at),
    )
    yield _gauge(
        "smdaemon_config_reload_failed",
        "1 while the last reload of the configuration is refused.",
        status.HasField("config_error"),
    )
    yield _gauge("smdaemon_ready", "1 while requests are taken, as /readyz says it too.", status.phase == "running")
    yield _gauge("smdaemon_draining", "1 while the daemon finishes its work to stop.", status.phase == "draining")
    yield _gauge(
        "smdaemon_host_memory_limit_bytes",
        "The budget of host memory for exports.",
        status.host_memory_bytes,
    )
    yield _gauge(
        "smdaemon_host_memory_used_bytes",
        "What exports hold of the budget of host memory.",
        status.host_memory_used_bytes,
    )
    yield _gauge("smdaemon_workers", "Exports that may run at the same time.", status.workers)
    yield _gauge("smdaemon_workers_busy", "Exports that run now.", status.workers_busy)


def _ended_family(status: v1.Status, ended: Ended) -> Metric:
    # from 0 on for every configured model: Prometheus sees no increase in a series that begins with 1
    pairs = {(model.name, state) for model in status.models for state in _ENDS} | set(ended)
    family = CounterMetricFamily(
        "smdaemon_jobs_ended", "Jobs that came to that end since the start of the daemon.", labels=["model", "state"]
    )
    for model, state in sorted(pairs):
        family.add_metric([model, state], ended[model, state])
    return family


def _handoff_families(handoff: v1.Handoff) -> Iterator[Metric]:
    yield _gauge("smdaemon_handoff_trainers", "Trainers that are connected.", handoff.trainers)
    yield _gauge("smdaemon_handoff_segments", "Segments of shared memory that trainers have.", handoff.segments)
    yield _gauge("smdaemon_handoff_memory_limit_bytes", "Shared memory that trainers may have.", handoff.memory_bytes)
    yield _gauge("smdaemon_handoff_memory_used_bytes", "Shared memory that trainers have.", handoff.memory_used_bytes)
    yield _gauge("smdaemon_handoff_exports", "Exports whose tensors are held in shared memory.", handoff.exports)
    yield CounterMetricFamily("smdaemon_handoff_saves", "Saves that trainers committed.", value=handoff.saves)
    yield CounterMetricFamily("smdaemon_handoff_skipped", "Saves that trainers skipped.", value=handoff.skipped)
    yield CounterMetricFamily(
        "smdaemon_handoff_refused", "Segments of shared memory that trainers were refused.", value=handoff.refused
    )


def _model_families(status: v1.Status) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("smdaemon_jobs", "Jobs in the journal by state.", labels=["model", "state"])
    queue = GaugeMetricFamily("smdaemon_queue_depth", "Jobs that wait for a worker or a retry.", labels=["model"])
    version = GaugeMetricFamily(
        "smdaemon_newest_version", "The newest version that this daemon published.", labels=["model"]
    )
    published = GaugeMetricFamily(
        "smdaemon_newest_version_time_seconds",
        "When the newest version was published, in seconds since 1970.",
        labels=["model"],
    )
    healthy = GaugeMetricFamily(
        "smdaemon_watch_healthy",
        "1 while the model's directory is watched without fault, and there is at least min_free where it is published.",
        labels=["model"],
    )
    retention = GaugeMetricFamily(
        "smdaemon_retention_failed", "1 while old versions of the model cannot be removed.", labels=["model"]
    )
    oldest = GaugeMetricFamily(
        "smdaemon_oldest_open_job_time_seconds",
        "When the oldest job that has not ended was accepted, in seconds since 1970; absent while all have ended.",
        labels=["model"],
    )
    free = GaugeMetricFamily("smdaemon_disk_free_bytes", "Room where the model is published.", labels=["model"])
    disk = GaugeMetricFamily(
        "smdaemon_disk_bytes", "Size of the file system where the model is published.", labels=["model"]
    )
    watch = InfoMetricFamily("smdaemon_watch", "How the model's directory is watched.", labels=["model"])
    for model in status.models:
        for state in sorted(model.jobs):
            jobs.add_metric([model.name, state], model.jobs[state])
        queue.add_metric([model.name], sum(model.jobs.get(state, 0) for state in _QUEUED_STATES))
        healthy.add_metric([model.name], model.health == "ok")
        retention.add_metric([model.name], model.HasField("retention_error"))
        watch.add_metric([model.name], {"method": model.watch_method})
        if model.HasField("newest_version"):
            version.add_metric([model.name], model.newest_version)
        if model.HasField("newest_at"):
            published.add_metric([model.name], _seconds(model.newest_at))
        if model.HasField("oldest_open_at"):
            oldest.add_metric([model.name], _seconds(model.oldest_open_at))
        if model.disk_bytes:
            free.add_metric([model.name], model.disk_free_bytes)
            disk.add_metric([model.name], model.disk_bytes)
    yield from (jobs, queue, oldest, version, published, healthy, retention, free, disk, watch)


def _notifier_families(status: v1.Status) -> Iterator[Metric]:
    delivered = CounterMetricFamily(
        "smdaemon_notifications_delivered", "Events that a notifier delivered.", labels=["notifier"]
    )
    failed = CounterMetricFamily(
        "smdaemon_notification_failures", "Attempts to deliver an event that failed.", labels=["notifier"]
    )
    given_up = CounterMetricFamily(
        "smdaemon_notifications_given_up", "Events that were never delivered.", labels=["notifier"]
    )
    lag = GaugeMetricFamily(
        "smdaemon_notification_lag_seconds",
        "The age of the oldest event that is still to be delivered; 0 where there is none.",
        labels=["notifier"],
    )
    for notifier in status.notifiers:
        delivered.add_metric([notifier.name], notifier.delivered)
        failed.add_metric([notifier.name], notifier.failed)
        given_up.add_metric([notifier.name], notifier.given_up)
        behind = max(0.0, time.time() - _seconds(notifier.behind_since)) if notifier.HasField("behind_since") else 0.0
        lag.add_metric([notifier.name], behind)
    yield from (delivered, failed, given_up, lag)


def _seconds(stamp: Any) -> float:
    """A Timestamp in seconds since 1970."""
    return float(stamp.seconds + stamp.nanos / 1e9)
