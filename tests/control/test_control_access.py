"""Who may act over the control socket: the owner, those that are named, and over TCP whoever shows the token."""

import http.client
import os

import pytest
import trio
from control_fakes import serving
from control_http import ask

from smdaemon.control.access import Access, access_of
from smdaemon.errors import ConfigError, EnvironmentFault, SmdaemonError

TOKEN = "0123456789abcdef0123"


async def served(access: Access, tmp_path, use):
    """The result of `use(path, tcp)` in a thread, while a server of that access listens on both."""
    path = tmp_path / "s"
    async with serving(path, tcp="127.0.0.1:0", access=lambda: access) as backend:
        tcp, _ = backend.addresses
        return await trio.to_thread.run_sync(use, path, tcp.removeprefix("http://"))


def over_tcp(tcp: str, method: str, token: str = "") -> int:
    """The status of a request over TCP."""
    connection = http.client.HTTPConnection(tcp, timeout=30)
    target = "/v1/status" if method == "GET" else "/v1/jobs/1/cancel"
    connection.request(method, target, headers={"Authorization": f"Bearer {token}"} if token else {})
    status = connection.getresponse().status
    connection.close()
    return status


async def test_a_stranger_may_read_and_not_act(tmp_path):
    """The kernel says who asks; the refusal names the user and the remedy."""
    reads, acts = await served(
        Access(frozenset()),
        tmp_path,
        lambda path, _: (ask(path, "GET", "/v1/status"), ask(path, "POST", "/v1/jobs/1/cancel")),
    )
    assert reads.status == 200
    assert (acts.status, acts.json["code"]) == (403, "not-allowed")
    assert f"user {os.getuid()}" in acts.json["message"]
    assert "control_users" in acts.json["remedy"]


async def test_a_user_that_is_named_may_act(tmp_path):
    """What is refused then is the job that there is not."""
    acts = await served(access_of([str(os.getuid())]), tmp_path, lambda path, _: ask(path, "POST", "/v1/jobs/1/cancel"))
    assert (acts.status, acts.json["code"]) == (404, "job-unknown")


async def test_over_tcp_acting_takes_the_token(tmp_path):
    """Reading is free on loopback; without a token configured nobody acts."""

    def use(_path, tcp):
        return [over_tcp(tcp, "GET"), *(over_tcp(tcp, "POST", token) for token in ("", "wrong", TOKEN[:-1], TOKEN))]

    assert await served(Access(frozenset(), TOKEN), tmp_path, use) == [200, 403, 403, 403, 404]
    assert await served(Access(frozenset()), tmp_path / "..", use) == [200, 403, 403, 403, 403]


def test_users_are_named_by_name_or_id():
    """One that there is not is nobody; the daemon's own user and root always may."""
    assert access_of(["daemon", "4711", "no-such-user"]).users == {os.getuid(), 0, 1, 4711}


def test_the_token_is_the_owners_alone_and_long(tmp_path):
    """A token that others can read, or that can be guessed, is refused when the daemon starts."""
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    assert access_of([], str(path)).token == TOKEN
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        access_of([], str(path))
    path.chmod(0o600)
    for content in ("short", "ümlaut" * 10):
        path.write_text(content)
        with pytest.raises(ConfigError, match="letters"):
            access_of([], str(path))
    with pytest.raises(ConfigError, match="is not there"):
        access_of([], str(tmp_path / "missing"))
    with pytest.raises(EnvironmentFault):
        access_of([], str(tmp_path))


def test_a_token_never_stands_in_an_error(tmp_path):
    """What is refused is not repeated."""
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o600)
    with pytest.raises(SmdaemonError) as refused:
        access_of([], str(path))
    assert "secret" not in f"{refused.value} {refused.value.remedy}"
