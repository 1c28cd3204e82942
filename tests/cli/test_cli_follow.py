"""How a daemon is followed: what is read anew, and what a stream that is none means."""

import pytest

from smdaemon.cli.client import Client, ServerEvent
from smdaemon.cli.follow import Follower
from smdaemon.errors import ConfigError


def job_of(number, state):
    """As much of a job as a follower looks at."""
    return {"id": number, "state": state}


class Daemon:
    """A daemon with a queue of so many jobs, which it works off while it is followed; as a client sees it."""

    address = "/d"

    def __init__(self, jobs):
        self.queued = list(range(1, jobs + 1))
        self.asked = 0

    def status(self):
        """How many wait."""
        return {"jobs": {"queued": len(self.queued)}}

    def get(self, path, limit=None, **_):
        """The answer of that path."""
        if path == "/v1/queue":
            self.asked += 1
            return {"jobs": [job_of(number, "queued") for number in self.queued[:limit]]}
        return {"/v1/status": self.status(), "/v1/history": {"samples": []}, "/v1/jobs": {"jobs": []}}[path]

    def events(self, *, status):
        """One job after another is published; the status is told every ten."""
        assert status
        yield ServerEvent(0, {"status": self.status()})
        for number in self.queued[:-50]:
            self.queued.remove(number)
            yield ServerEvent(number, {"job": job_of(number, "published")})
            if number % 10 == 0:
                yield ServerEvent(0, {"status": self.status()})


def test_more_of_a_long_queue_is_read_as_it_is_worked_off():
    """As many as are shown are always known where there are as many; and it is not read for each of them."""
    daemon = Daemon(1000)
    known = []
    follower = Follower(daemon, lambda: known.append((len(follower.known().open_jobs), len(daemon.queued))))
    follower._follow()
    assert all(shown >= min(there, 80) for shown, there in known)
    assert daemon.asked < 20


DEEP = b"data: " + b"[" * 100_000 + b"\n"


@pytest.mark.parametrize("line", [b"data: {}x\n", b"data: 7\n", b"id: x\n", b"data: \xff\n", DEEP])
def test_a_stream_that_is_none_is_no_daemon(monkeypatch, line):
    """Something else may answer there: it is told as such, and asked again as a daemon that is away."""

    class Answer(list):
        status = 200

    client = Client("/d")
    monkeypatch.setattr(client, "_send", lambda *_: Answer([line, b"\n"]))
    with pytest.raises(ConfigError, match="what answers there is no smdaemon") as caught:
        list(client.events())
    assert caught.value.code == "no-daemon"
