"""Web pages are kept out: by what browsers say of them, and by the name that they have reached the socket under."""

import pytest
import trio
from control_fakes import serving

REFUSED, LET_IN = 403, 404


@pytest.fixture
async def ask(tmp_path):
    """Asks for an action, over TCP and over the unix socket, with the header lines given; their two statuses."""

    async def status(stream: trio.SocketStream, head: bytes) -> int:
        async with stream:
            await stream.send_all(b"POST /v1/jobs/1/cancel HTTP/1.1\r\nConnection: close\r\n" + head + b"\r\n")
            return int((await stream.receive_some()).split()[1])

    path = tmp_path / "s"
    async with serving(path, tcp="127.0.0.1:0") as backend:
        port = int(backend.addresses[0].rpartition(":")[2])

        async def both(*lines: str) -> tuple[int, int]:
            head = "".join(f"{line}\r\n" for line in lines).encode()
            over_tcp = await status(await trio.open_tcp_stream("127.0.0.1", port), head)
            return over_tcp, await status(await trio.open_unix_socket(path), head)

        yield both


@pytest.mark.parametrize("line", ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"])
async def test_foreign_pages_are_refused(ask, line):
    """A web page cannot reach the daemon through the browser of somebody on the same machine, nor through a forwarded port."""
    assert await ask("Host: localhost") == (LET_IN, LET_IN)
    assert await ask("Host: localhost", line) == (REFUSED, REFUSED)


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8470",
        "rebound.example:99999",
        "{x}.example",
        '"x".example',
        "[rebound.example]",
        "rebound:8470",
        "192.0.2.7:8470",
        "localhost:x",
        "a b",
    ],
)
async def test_a_page_that_points_a_name_of_its_own_here_is_refused(ask, host):
    """Over a forwarded unix socket, too; a name that cannot be understood is nobody's."""
    assert await ask(f"Host: {host}") == (REFUSED, REFUSED)


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8470", "127.0.0.1:8470", "127.0.0.2", "[::1]:8470", ""])
async def test_loopback_names_are_let_in(ask, host):
    """With a port or without; a browser always names a host, so that a request without one is a program's."""
    assert await ask(f"Host: {host}") == (LET_IN, LET_IN)


@pytest.mark.parametrize("host", ["d", "smdaemon", "unix_socket"])
async def test_a_program_makes_up_a_word_for_a_unix_socket(ask, host):
    """As in curl --unix-socket PATH http://d/; a browser that came through a forwarded port would say the port, too."""
    assert await ask(f"Host: {host}") == (REFUSED, LET_IN)
