"""Notifiers by the real daemon: what receivers and commands are told, in which order, and what becomes of it where they do not take it."""

import base64
import hashlib
import hmac
import json
import re
import signal
import ssl
import time
from pathlib import Path

import pytest
import trio
import trustme
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from notifier_kit import notify, told
from prometheus_client import generate_latest
from receiver_kit import Stalled, receiving

from smdaemon.jobs.ledger import Ledger

KEY = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("impatient")


def blocks(page: Path, label: str) -> list[str]:
    """The code blocks of a page with that label."""
    return re.findall(rf"^```{label}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


async def test_a_webhook_is_told_what_was_published(started):
    """One POST with a CloudEvent of version 1.0 in structured JSON, whose data is the job as the control socket shows it."""
    async with receiving() as receiver, started(model=notify(webhook=receiver.url)) as running:
        running.drop("ckpt-41.npz")
        (request,) = await receiver.came(1)
        assert request.path == "/hook"
        assert request.headers["content-type"] == "application/cloudevents+json"
        event = request.event
        owner = (running.root / "state" / "owner").read_text()
        assert event["specversion"] == "1.0"
        assert event["source"] == f"/smdaemon/{owner}"
        assert (event["type"], event["subject"]) == ("smdaemon.job.published", "ranker")
        assert event["id"].startswith(f"{owner}-")
        assert request.headers["webhook-id"] == event["id"]
        assert event["time"] == event["data"]["updated_at"]
        assert event["data"]["export_dir"] == str(running.models / "41")
        state = await told(running, lambda each: each["delivered"] == 1 and "behind_since" not in each)
        assert state == {"name": "n", "kind": "webhook", "delivered": 1, "failed": 0, "given_up": 0}


async def test_events_come_in_order_and_only_those_asked_for(started):
    """Failed jobs alone, of one model alone; another notifier gets the rest."""
    config = notify(webhook="{}", on=["failed"]) + notify(name="other", webhook="{}/x", models=["nobody*"])
    async with receiving() as receiver, started(model=config.replace("{}", receiver.url)) as running:
        for step in (1, 2, 3):
            running.drop(f"ckpt-{step}.npz")
            await running.ended(2 * step - 1)
            bad = running.write()
            bad.write_bytes(b"PK\3\4 and no more")
            bad.rename(running.runs / f"bad-{step}.npz")
            await running.ended(2 * step)
        requests = await receiver.came(3)
        assert [Path(each.event["data"]["source"]).name for each in requests] == [
            f"bad-{step}.npz" for step in (1, 2, 3)
        ]
        assert {each.event["type"] for each in requests} == {"smdaemon.job.failed"}
        assert requests[0].event["data"]["error"]["code"].startswith("source-")


async def test_what_was_superseded_is_told_where_it_is_asked_for(started, tmp_path):
    """Of a backlog the newest drop is published; the others are told of in the order in which they ended."""
    for step in range(20):
        (tmp_path / "runs" / f"ckpt-{step}.npz").write_bytes(_npz())
    config = 'on_backlog = "latest"\n' + notify(webhook="{}", on=["superseded", "published"])
    async with receiving() as receiver, started(model=config.replace("{}", receiver.url)) as running:
        requests = await receiver.came(20)
        ended = [(job["version"], f"smdaemon.job.{job['state']}") for job in await running.ended(20)]
    assert [(each.event["data"]["version"], each.event["type"]) for each in requests] == ended
    assert (19, "smdaemon.job.published") in ended
    assert "smdaemon.job.superseded" in dict(ended).values()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (500, "answered 500"),
        ((302, {"location": "http://127.0.0.1:1/elsewhere"}), "redirects are not followed"),
        (b"garbage\r\n\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000, "cannot be reached"),
        (None, "did not answer within 1 s"),
        (Stalled(b"HTTP/1.1 200 OK\r\nx: "), "did not answer within 1 s"),
        ((503, {"retry-after": "-1e9"}), "answered 503"),
    ],
)
async def test_what_is_not_taken_is_sent_again(started, answer, reason):
    """The same event with the same id, until it is taken; then the next. The reason stands in the status meanwhile."""
    settings = notify(webhook="{}", timeout_seconds=1 if answer is None or isinstance(answer, Stalled) else 30)
    async with receiving(answer, answer) as receiver, started(model=settings.replace("{}", receiver.url)) as running:
        running.drop("ckpt-1.npz")
        await receiver.came(3)
        running.drop("ckpt-2.npz")
        requests = await receiver.came(4)
        assert receiver.versions == [1, 1, 1, 2]
        assert len({request.headers["webhook-id"] for request in requests}) == 2
        state = await told(running, lambda each: each["delivered"] == 2)
        assert (state["failed"], state["given_up"]) == (2, 0)
        assert "error" not in state
        receiver.otherwise = answer
        running.drop("ckpt-3.npz")
        state = await told(running, lambda each: "error" in each)
        assert reason in state["error"]["message"]
        assert "behind_since" in state


async def test_a_body_without_end_is_not_read(started):
    """A status is an answer, whatever follows it."""
    flood = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 100_000
    async with receiving(flood) as receiver, started(model=notify(webhook=receiver.url)) as running:
        running.drop("ckpt-1.npz")
        assert (await told(running, lambda each: each["delivered"] == 1))["failed"] == 0


async def test_a_receiver_that_is_gone_is_not_asked_twice(started):
    """410 gives the event up at once; the next one is tried all the same."""
    async with receiving(410) as receiver, started(model=notify(webhook=receiver.url)) as running:
        running.drop("ckpt-1.npz")
        await told(running, lambda each: each["given_up"] == 1)
        running.drop("ckpt-2.npz")
        state = await told(running, lambda each: each["delivered"] == 1)
        assert receiver.versions == [1, 2]
        assert (state["failed"], state["given_up"]) == (1, 1)


async def test_what_is_too_old_is_given_up(started):
    """After one attempt at least; the log and the metrics say so."""
    settings = notify(webhook="{}", retry_for_seconds=0)
    async with receiving(500) as receiver, started(model=settings.replace("{}", receiver.url)) as running:
        running.drop("ckpt-1.npz")
        await told(running, lambda each: each["given_up"] == 1)
        running.drop("ckpt-2.npz")
        await told(running, lambda each: each["delivered"] == 1 and "behind_since" not in each)
        assert receiver.versions == [1, 2]
        metrics = generate_latest(running.daemon._view.registry).decode()
        assert 'smdaemon_notifications_given_up_total{notifier="n"} 1.0' in metrics
        assert 'smdaemon_notification_failures_total{notifier="n"} 1.0' in metrics
        assert 'smdaemon_notifications_delivered_total{notifier="n"} 1.0' in metrics
        assert 'smdaemon_notification_lag_seconds{notifier="n"} 0.0' in metrics


@pytest.mark.parametrize("trouble", [500, None])
async def test_a_receiver_that_is_down_holds_up_nobody_else(started, trouble):
    """Exports go on, another notifier is told, and what waits is sent when it is up again: nothing is lost, in order."""
    async with (
        receiving(otherwise=trouble) as down,
        receiving() as up,
        started(model=notify(webhook=down.url, timeout_seconds=1) + notify(name="up", webhook=up.url)) as running,
    ):
        for step in (1, 2, 3):
            running.drop(f"ckpt-{step}.npz")
        await up.came(3)
        assert set(down.versions) <= {up.versions[0]}
        down.requests.clear()
        down.otherwise = 204
        while len(set(down.versions)) < 3:
            await down.came(len(down.requests) + 1)
        assert list(dict.fromkeys(down.versions)) == up.versions


async def test_a_restart_goes_on_where_it_stopped(started):
    """What happened before the notifier was there is not told; what was not delivered is, once more under the same id."""
    async with receiving(otherwise=500) as receiver:
        async with started() as running:
            running.drop("ckpt-1.npz")
            await running.ended()
        config = write_config(running.root, model=notify(webhook=receiver.url))
        async with started(config=config) as running:
            running.drop("ckpt-2.npz")
            (first, *_) = await receiver.came(1)
            running.drop("ckpt-3.npz")
            await running.ended(3)
        receiver.requests.clear()
        receiver.otherwise = 204
        async with started(config=config) as running:
            await receiver.came(2)
            running.drop("ckpt-4.npz")
            await receiver.came(3)
        assert receiver.versions == [2, 3, 4]
        assert receiver.requests[0].headers["webhook-id"] == first.headers["webhook-id"]
        async with started(config=config) as running:
            running.drop("ckpt-5.npz")
            await receiver.came(4)
        assert receiver.versions == [2, 3, 4, 5]


async def test_a_crash_between_delivery_and_note_tells_it_again(started, monkeypatch):
    """At least once: the repeat has the same id, so that a receiver can drop it."""
    async with receiving() as receiver:
        with monkeypatch.context() as patch:

            async def lost(_self, _name, _seq):
                await trio.lowlevel.checkpoint()

            patch.setattr(Ledger, "advance_reader", lost)  # as where the process is killed before it comes to that
            async with started(model=notify(webhook=receiver.url)) as running:
                running.drop("ckpt-1.npz")
                await receiver.came(1)
        async with started(config=running.root / "config.toml"):
            first, second = await receiver.came(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body


async def test_a_killed_daemon_tells_what_it_had_not_told(tmp_path):
    """SIGKILL while a receiver keeps an event waiting; the next daemon tells it."""
    (tmp_path / "runs").mkdir()
    async with receiving(None) as receiver:
        write_config(tmp_path, model=notify(webhook=receiver.url))
        argv = ("run", "--config", "config.toml")
        with SmdaemonProcess(tmp_path, *argv) as process:
            await trio.to_thread.run_sync(process.logged, "running")
            (tmp_path / "runs" / "ckpt-7.npz").write_bytes(_npz())
            await receiver.came(1)
            process.signal(signal.SIGKILL)
            await trio.to_thread.run_sync(process.ended)
        with SmdaemonProcess(tmp_path, *argv) as process:
            first, second = await receiver.came(2)
            await trio.to_thread.run_sync(process.stop)
        assert first.event == second.event
        assert receiver.versions == [7, 7]


def _npz() -> bytes:
    """A small one."""
    import io

    import numpy as np

    file = io.BytesIO()
    np.savez(file, w=np.ones(3, np.float32))
    return file.getvalue()


async def test_a_reload_takes_changes(started):
    """A notifier that is new begins at the present, one that changed goes on where it was, one that is gone is forgotten."""
    async with (
        receiving(otherwise=500) as receiver,
        receiving() as other,
        started(model=notify(webhook=receiver.url)) as running,
    ):
        running.drop("ckpt-1.npz")
        await receiver.came(1)
        write_config(running.root, model=notify(webhook=other.url) + notify(name="new", webhook=other.url + "/new"))
        await running.daemon.reload()
        await other.came(1)
        running.drop("ckpt-2.npz")
        await other.came(3)
        assert [(each.path, each.event["data"]["version"]) for each in other.requests[:1]] == [("/hook", 1)]
        assert sorted(each.path for each in other.requests[1:]) == ["/hook", "/hook/new"]
        write_config(running.root)
        await running.daemon.reload()
        assert (await running.ask(running.client.get, "/v1/status"))["notifiers"] == []
        running.drop("ckpt-3.npz")
        await running.ended(3)
        write_config(running.root, model=notify(webhook=other.url))
        await running.daemon.reload()
        running.drop("ckpt-4.npz")
        await other.came(4)
        assert other.versions[3] == 4


async def test_a_reload_tries_at_once_what_waits(started, monkeypatch):
    """Whoever has mended a receiver need not wait for the next attempt."""
    monkeypatch.setattr("smdaemon.notify.notifier.delay", lambda _attempt, _rng: 3600.0)
    async with receiving(500) as receiver, started(model=notify(webhook=receiver.url)) as running:
        running.drop("ckpt-1.npz")
        await told(running, lambda each: "error" in each)
        await running.daemon.reload()
        await told(running, lambda each: each["delivered"] == 1)


async def test_the_last_events_are_told_before_a_stop(started):
    """What a draining daemon publishes is told by it: there may be no next start."""
    async with (
        receiving() as receiver,
        started(daemon="drain_queue = true", model=notify(webhook=receiver.url)) as running,
    ):
        for step in range(5):
            running.drop(f"ckpt-{step}.npz")
        await receiver.came(1)
    assert receiver.versions == list(range(5))


def secret_file(root: Path, *keys: bytes) -> Path:
    """A file of secrets, as an operator lays it down."""
    path = root / "secret"
    path.touch(mode=0o600)
    path.write_text("".join(f"whsec_{base64.b64encode(key).decode()}\n" for key in keys))
    return path


async def test_requests_are_signed(started, tmp_path):
    """As Standard Webhooks says; with two secrets in the file each verifies. A new secret holds for the next request."""
    path = secret_file(tmp_path, KEY, KEY[::-1])
    async with receiving() as receiver, started(model=notify(webhook=receiver.url, secret_file="secret")) as running:
        running.drop("ckpt-1.npz")
        (request,) = await receiver.came(1)
        moment = int(request.headers["webhook-timestamp"])
        assert abs(time.time() - moment) < 120
        (source,) = blocks(ROOT / "docs" / "notifications.md", "python")
        page = {}
        exec(compile(source, "docs/notifications.md", "exec"), page)  # a receiver that was made by the book
        for key, good in ((KEY, True), (KEY[::-1], True), (bytes(32), False)):
            secret = f"whsec_{base64.b64encode(key).decode()}"
            assert page["verify"](request.headers, request.body, secret) is good
            assert not page["verify"](request.headers, request.body + b" ", secret)
            assert not page["verify"](request.headers, request.body, secret, tolerance_seconds=-1)
        signed = f"{request.headers['webhook-id']}.{moment}.{request.body.decode()}".encode()
        expected = [
            base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in (KEY, KEY[::-1])
        ]
        assert request.headers["webhook-signature"] == " ".join(f"v1,{each}" for each in expected)
        assert path == secret_file(tmp_path, KEY)
        running.drop("ckpt-2.npz")
        requests = await receiver.came(2)
        assert requests[1].headers["webhook-signature"].count("v1,") == 1


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (f"whsec_{base64.b64encode(KEY).decode()}", 0o640, "secret-invalid"),
        ("whsec_not base64!", 0o600, "secret-invalid"),
        ("whsec_c2hvcnQ=", 0o600, "secret-invalid"),
        ("", 0o600, "secret-invalid"),
        (None, 0o600, "secret-invalid"),
    ],
)
async def test_without_a_sound_secret_nothing_is_sent(started, tmp_path, content, mode, code):
    """The status says why, not what is in the file; once it is mended, the event is sent."""
    if content is not None:
        (tmp_path / "secret").write_text(content)
        (tmp_path / "secret").chmod(mode)
    async with receiving() as receiver, started(model=notify(webhook=receiver.url, secret_file="secret")) as running:
        running.drop("ckpt-1.npz")
        state = await told(running, lambda each: "error" in each)
        assert state["error"]["code"] == code
        assert "bm90" not in state["error"]["message"]
        assert receiver.requests == []
        secret_file(tmp_path, KEY).chmod(0o600)
        await receiver.came(1)


async def test_a_webhook_over_tls_checks_who_answers(started, tmp_path, monkeypatch):
    """Against the authorities of the system, or of SSL_CERT_FILE; a certificate for another name is none."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    contexts = []
    for name in ("localhost", "elsewhere.example"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        contexts.append(context)
    async with receiving(ssl_context=contexts[0]) as good, receiving(ssl_context=contexts[1]) as bad:
        urls = [f"https://localhost:{receiver.port}/" for receiver in (good, bad)]
        async with started(model=notify(webhook=urls[0]) + notify(name="bad", webhook=urls[1])) as running:
            running.drop("ckpt-1.npz")
            await good.came(1)
            while True:
                _, refused = (await running.ask(running.client.get, "/v1/status"))["notifiers"]
                if "error" in refused:
                    break
                await trio.lowlevel.checkpoint()
            assert "certificate" in refused["error"]["message"].lower()
            assert bad.requests == []


async def test_the_page_shows_an_event_as_it_is(started):
    """Field for field, in its order."""
    async with receiving() as receiver, started(model=notify(webhook=receiver.url)) as running:
        running.drop("ckpt-41.npz")
        (request,) = await receiver.came(1)
    (shown,) = (json.loads(block) for block in blocks(ROOT / "docs" / "notifications.md", "cloudevent"))
    event = request.event
    assert list(shown) == list(event)
    assert list(shown["data"]) == list(event["data"])
    assert {key: type(value) for key, value in shown["data"].items()} == {
        key: type(value) for key, value in event["data"].items()
    }
    assert [len(part) for part in shown["id"].split("-")[::2]] == [len(part) for part in event["id"].split("-")[::2]]
