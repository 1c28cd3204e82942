"""The metrics that Prometheus scrapes."""

from control_fakes import FakeBackend
from prometheus_client import generate_latest

from smdaemon.control.metrics import Metrics
from smdaemon.jobs.states import TERMINAL
from smdaemon.proto import v1


def samples(metrics):
    """Every sample as {(name, labels): value}."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def test_status_is_read_at_each_scrape():
    """What the status says now is what is scraped now."""
    status = v1.Status(version="9", workers=4)
    metrics = Metrics(lambda: status)
    assert samples(metrics)["smdaemon_workers", ()] == 4
    status.workers = 5
    status.models.add(name="m", health="ok", jobs={"queued": 2, "waiting": 1, "published": 7})
    scraped = samples(metrics)
    assert scraped["smdaemon_workers", ()] == 5
    assert scraped["smdaemon_queue_depth", (("model", "m"),)] == 3
    assert scraped["smdaemon_jobs", (("model", "m"), ("state", "published"))] == 7
    assert ("smdaemon_newest_version", (("model", "m"),)) not in scraped


def test_models():
    """Each model tells its newest version, when it was published, and whether it is watched."""
    scraped = samples(FakeBackend().metrics)
    ranker = (("model", "ranker"),)
    assert scraped["smdaemon_newest_version", ranker] == 41
    assert scraped["smdaemon_newest_version_time_seconds", ranker] == 1_700_000_500
    assert scraped["smdaemon_watch_healthy", ranker] == 1
    assert scraped["smdaemon_watch_info", (("method", "inotify"), *ranker)] == 1
    assert scraped["smdaemon_watch_healthy", (("model", "tower\x1b[31m"),)] == 0


def test_notifiers_and_serving():
    """Each notifier tells what it delivered, failed and gave up, and how far it is behind; Serving's file whether it is up to date."""
    scraped = samples(FakeBackend().metrics)
    registry = (("notifier", "registry"),)
    assert scraped["smdaemon_notifications_delivered_total", registry] == 12
    assert scraped["smdaemon_notification_failures_total", registry] == 3
    assert scraped["smdaemon_notifications_given_up_total", registry] == 1
    assert scraped["smdaemon_notification_lag_seconds", registry] > 1000
    assert scraped["smdaemon_serving_config_failed", ()] == 1
    idle = samples(Metrics(lambda: v1.Status(notifiers=[v1.Notifier(name="registry")])))
    assert idle["smdaemon_notification_lag_seconds", registry] == 0
    assert ("smdaemon_serving_config_failed", ()) not in idle


def test_observed_exports():
    """Exports are counted in bytes and put in a histogram of seconds."""
    metrics = Metrics(v1.Status)
    metrics.observe_export("m", 0.2, 1000)
    metrics.observe_export("m", 0.3, 500)
    scraped = samples(metrics)
    assert scraped["smdaemon_exported_bytes_total", (("model", "m"),)] == 1500
    assert scraped["smdaemon_export_seconds_bucket", (("le", "0.25"), ("model", "m"))] == 1
    assert scraped["smdaemon_export_seconds_count", (("model", "m"),)] == 2


def test_ends_are_counted_from_zero():
    """Every end of every configured model is there before the first job: an increase can be seen in it."""
    status = v1.Status(models=[v1.Model(name="m")])
    metrics = Metrics(lambda: status)
    failed = (("model", "m"), ("state", "failed"))
    assert samples(metrics)["smdaemon_jobs_ended_total", failed] == 0
    metrics.observe_end("m", "failed")
    metrics.observe_end("gone", "published")
    scraped = samples(metrics)
    assert scraped["smdaemon_jobs_ended_total", failed] == 1
    assert scraped["smdaemon_jobs_ended_total", (("model", "gone"), ("state", "published"))] == 1
    ends = {dict(labels)["state"] for name, labels in scraped if name == "smdaemon_jobs_ended_total"}
    assert ends == {state.value for state in TERMINAL}


def test_what_waits_and_what_room_there_is():
    """The oldest open job and the disk are told where there are any, and left out elsewhere."""
    status = v1.Status(models=[v1.Model(name="m", disk_free_bytes=5, disk_bytes=9), v1.Model(name="n")])
    status.models[0].oldest_open_at.FromSeconds(7)
    scraped = samples(Metrics(lambda: status))
    assert scraped["smdaemon_oldest_open_job_time_seconds", (("model", "m"),)] == 7
    assert scraped["smdaemon_disk_free_bytes", (("model", "m"),)] == 5
    assert scraped["smdaemon_disk_bytes", (("model", "m"),)] == 9
    told = {name for name, labels in scraped if dict(labels).get("model") == "n"}
    assert not told & {"smdaemon_oldest_open_job_time_seconds", "smdaemon_disk_free_bytes", "smdaemon_disk_bytes"}


def test_ready_and_healthy():
    """A daemon that starts is not ready; one that is stuck is not healthy, though it still answers a scrape."""
    status = v1.Status(phase="starting")
    stuck = samples(Metrics(lambda: status, lambda: False))
    assert (stuck["smdaemon_ready", ()], stuck["smdaemon_healthy", ()]) == (0, 0)
    status.phase = "running"
    well = samples(Metrics(lambda: status))
    assert (well["smdaemon_ready", ()], well["smdaemon_healthy", ()]) == (1, 1)


def test_every_metric_is_documented():
    """Each family has a help text that ends like a sentence, and a name of ours or of the process."""
    metrics = FakeBackend().metrics
    for family in metrics.registry.collect():
        assert family.documentation.endswith(".")
        assert family.name.startswith(("smdaemon_", "process_"))
    assert b"# HELP smdaemon_workers_busy" in generate_latest(metrics.registry)
