"""The whole daemon under more than anyone should ask of it: nothing is lost, nothing is published twice, and it goes on answering.

Nothing here is timed: how fast it is stands in `benchmarks/`.
"""

import http.client
import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from smdaemon.cli.client import Client
from smdaemon.savedmodel.verify import verify

PATIENCE_SECONDS = 60


def drop_many(root: Path, steps: range) -> None:
    """So many finished drops, renamed into place one after the other."""
    np.savez(root / "seed.npz", w=np.ones((4, 4), np.float32))
    seed = (root / "seed.npz").read_bytes()
    for step in steps:
        (root / "writing").write_bytes(seed)
        (root / "writing").rename(root / "runs" / f"ckpt-{step}.npz")


def wait_for_states(client: Client, wanted: int, *states: str) -> Counter[str]:
    """How many jobs ended in which state, once so many are in `states`."""
    ended: Counter[str] = Counter()
    for event in client.events(after=0):
        if event.data["job"]["state"] in {"published", "failed", "superseded", "cancelled"}:
            ended[event.data["job"]["state"]] += 1
            if sum(ended[state] for state in states) >= wanted:
                return ended
    raise AssertionError(f"the stream of events ended after {ended}")


def all_jobs(client: Client) -> list[dict]:
    """Every job there is, page by page."""
    jobs, before = [], None
    while True:
        page = client.get("/v1/jobs", limit=1000, before=before)
        jobs += page.get("jobs", [])
        before = page.get("next_before")
        if not before:
            return jobs


@pytest.mark.parametrize("moment", ["before the start", "while it runs"])
def test_a_flood_of_drops_is_published_to_the_last(serving, tmp_path, scale, moment):
    """20,000 at once: each a version of its own, in order, none twice; the sources are as they were."""
    count = int(20_000 * scale)
    if moment == "before the start":
        (tmp_path / "runs").mkdir()
        drop_many(tmp_path, range(1, count + 1))
    process = serving('on_backlog = "all"\nrecursive = false')
    if moment == "while it runs":
        drop_many(tmp_path, range(1, count + 1))
    ended = wait_for_states(process.client, count, "published", "failed")
    assert ended == {"published": count}
    assert len(list((tmp_path / "runs").iterdir())) == count
    numbers = sorted(int(path.name) for path in (tmp_path / "models").iterdir())
    assert numbers == list(range(1, count + 1))
    for number in (1, count // 2, count):
        verify(tmp_path / "models" / str(number))
    status = process.client.get("/v1/status")
    assert status["phase"] == "running"
    process.stop()


def test_a_flood_with_latest_publishes_the_newest(serving, tmp_path, scale):
    """20,000 lie there: the newest is published first, the others are superseded and each says so."""
    count = int(20_000 * scale)
    (tmp_path / "runs").mkdir()
    drop_many(tmp_path, range(1, count + 1))
    process = serving('on_backlog = "latest"')
    ended = wait_for_states(process.client, count, "published", "superseded", "failed")
    assert ended["failed"] == 0
    assert ended["published"] + ended["superseded"] == count
    numbers = [int(path.name) for path in (tmp_path / "models").iterdir()]
    assert count in numbers
    assert len(numbers) == ended["published"]
    verify(tmp_path / "models" / str(count))
    process.stop()


def test_a_burst_of_requests_is_published_once_each(serving, tmp_path, scale):
    """1,000 over eight connections at once, every one sent twice: one job for each, and its version."""
    count = int(1_000 * scale)
    process = serving('on_drop = "ignore"\nversion = "step"')
    np.savez(tmp_path / "runs" / "weights.npz", w=np.ones((4, 4), np.float32))

    def ask(version: int) -> list[str]:
        """What came of asking for one version, twice."""
        client = Client(str(tmp_path / "control.sock"))
        answers = []
        for _ in range(2):
            try:
                answers.append(
                    str(
                        client.post("/v1/exports", {"model": "ranker", "source": "weights.npz", "version": version})[
                            "id"
                        ]
                    )
                )
            except Exception as error:  # noqa: BLE001 - it is looked at below
                answers.append(getattr(error, "code", repr(error)))
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(1, count + 1)))
    assert all(first.isdigit() and second == "request-duplicate" for first, second in answers), answers[:5]
    assert len({first for first, _ in answers}) == count
    assert wait_for_states(process.client, count, "published", "failed") == {"published": count}
    jobs = all_jobs(process.client)
    assert sorted(job["version"] for job in jobs) == list(range(1, count + 1))
    assert sorted(int(path.name) for path in (tmp_path / "models").iterdir()) == list(range(1, count + 1))
    process.stop()


def test_a_slow_reader_of_events_misses_nothing_and_holds_up_nobody(serving, tmp_path, scale):
    """One that does not read while everything happens: the exports go on, and it is given each move afterwards, in order, once."""
    count = int(2_000 * scale)
    process = serving('on_backlog = "all"')
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE_SECONDS)
        slow.connect(str(tmp_path / "control.sock"))
        slow.sendall(b"GET /v1/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        drop_many(tmp_path, range(1, count + 1))
        assert wait_for_states(process.client, count, "published", "failed") == {"published": count}
        newest = max(event.seq for event in ended_stream(process.client, count))
        numbers = read_numbers(slow, newest)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == newest
    assert len(numbers) == len(ended_stream(process.client, count))
    process.stop()


def ended_stream(client: Client, count: int) -> list:
    """All events up to the one with which the last of `count` jobs was published."""
    events, published = [], 0
    for event in client.events(after=0):
        events.append(event)
        published += event.data["job"]["state"] == "published"
        if published == count:
            return events
    raise AssertionError("the stream ended")


def read_numbers(stream: socket.socket, last: int) -> list[int]:
    """The numbers of the events that come, up to `last`."""
    numbers, rest = [], b""
    while not numbers or numbers[-1] < last:
        received = stream.recv(65536)
        assert received, f"the stream ended after {numbers[-1:]}"
        *lines, rest = (rest + received).split(b"\n")
        numbers += [int(line.removeprefix(b"id: ")) for line in lines if line.startswith(b"id: ")]
    return numbers


def test_a_crowd_of_clients_that_idle_disturbs_nobody(serving, tmp_path):
    """500 that asked for status once and stay, 100 more that listen to events: drops are published, the next one is answered."""
    process = serving()
    with ExitStack() as held:
        for number in range(600):
            client = held.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(PATIENCE_SECONDS)
            client.connect(str(tmp_path / "control.sock"))
            path = "/v1/status" if number < 500 else "/v1/events"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 200"
        drop_many(tmp_path, range(1, 4))
        assert wait_for_states(process.client, 3, "published", "failed") == {"published": 3}
        assert process.client.get("/v1/status")["phase"] == "running"
    process.stop()


def test_a_client_that_sends_a_byte_now_and_then_holds_up_nobody(serving, tmp_path):
    """A request that trickles in is answered when it is whole; others are answered meanwhile."""
    process = serving()
    body = json.dumps({"model": "ranker", "source": "weights.npz", "version": 9}).encode()
    np.savez(tmp_path / "weights.npz", w=np.ones(3, np.float32))
    request = b"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(PATIENCE_SECONDS)
        slow.connect(str(tmp_path / "control.sock"))
        for at in range(0, len(request), 1):
            slow.sendall(request[at : at + 1])
            if at % 20 == 0:
                assert process.client.get("/v1/status")["phase"] == "running"
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["code"]) == (400, "source-missing")
    process.stop()


def test_a_client_that_never_sends_its_body_is_given_up(serving, tmp_path):
    """Sixty requests without an end, and without anyone waiting for them: the daemon stops all the same."""
    process = serving()
    with ExitStack() as held:
        for _ in range(60):
            client = held.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(tmp_path / "control.sock"))
            client.sendall(b"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert process.client.get("/v1/status")["phase"] == "running"
        process.stop()


def test_trainers_and_drops_and_requests_at_once(serving, tmp_path, scale):
    """Eight threads of each kind of export, against one model: as many versions as exports, none lost."""
    from smdaemon.handoff import attach

    count = max(int(200 * scale), 5)
    process = serving('version = "sequence"\non_backlog = "all"', 'handoff_socket = "handoff.sock"')
    np.savez(tmp_path / "runs" / "weights.npy.npz", w=np.ones(8, np.float32))
    outcomes: list[str] = []

    def hand_over() -> None:
        with attach(tmp_path / "handoff.sock") as sidecar:
            for number in range(count):
                handle = sidecar.save(number, {"w": np.full(8, number, np.float32)}, model="ranker", on_busy="wait")
                outcomes.append(handle.result(PATIENCE_SECONDS).state)

    def drop() -> None:
        drop_many(tmp_path, range(1, count + 1))

    def request() -> None:
        client = Client(str(tmp_path / "control.sock"))
        for number in range(count):
            client.post("/v1/exports", {"model": "ranker", "source": "weights.npy.npz", "tags": [f"t{number}"]})

    threads = [threading.Thread(target=target) for target in (hand_over, drop, request)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = wait_for_states(process.client, 3 * count + 1, "published", "failed")
    assert ended == {"published": 3 * count + 1}  # the request's source is a drop too
    assert outcomes == ["published"] * count
    assert len(list((tmp_path / "models").iterdir())) == 3 * count + 1
    process.stop()
