"""The control socket on broken HTTP: an answer that is no server's error, or the end of the connection; and the next client is served."""

import random
import socket
import sys
from pathlib import Path

from fuzz_kit import broken
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parents[1] / "control"))
from control_fakes import ServerThread
from control_http import ask

BODY = b'{"model": "ranker", "source": "a.npz", "version": 3, "tags": ["serve"]}'
SEEDS = [
    b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-protobuf;q=0.5, */*\r\nConnection: close\r\n\r\n",
    b"GET /v1/jobs?model=ranker&limit=10&before=7 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /v1/jobs/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /page/style.css HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: x\r\nConnection: close\r\n\r\n",
    b"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY),
    b"POST /v1/exports HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(BODY), BODY),
    b'POST /v1/models/ranker/pin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{"version": 41}',
]


def test_broken_requests_are_answered_or_ended(tmp_path, request, capsys):
    """Never with 500, never with silence once the client has said all that it had to say."""
    examples, seed = request.config.getoption("--fuzz-examples"), request.config.getoption("--fuzz-seed")
    rng = random.Random(f"{seed} http")
    statuses: dict[bytes, int] = {}
    with capture_logs() as logs, ServerThread(tmp_path / "s") as server:
        for number in range(len(SEEDS) + examples):
            content = SEEDS[number] if number < len(SEEDS) else broken(rng, SEEDS)
            answer = said(server.path, content)
            status = answer[9:12] if answer.startswith(b"HTTP/1.1 ") else b""
            assert status != b"500", (content, answer)
            statuses[status] = statuses.get(status, 0) + 1
            if number < len(SEEDS):
                assert status.startswith((b"2", b"3", b"4")), (content, answer)
        assert ask(server.path, "GET", "/healthz").status == 200
    assert not [line for line in logs if line["log_level"] in {"error", "critical"}]
    assert statuses.get(b"400"), "nothing was refused: nothing was broken"
    if examples > 1000:
        with capsys.disabled():
            print(
                f"\nhttp: {examples} requests, answered with {', '.join(sorted(status.decode() or 'the end' for status in statuses))}"
            )


def said(path, content: bytes) -> bytes:
    """What comes back for these bytes, behind which the client sends nothing more. Of a stream of events the beginning."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        try:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before it was read to its end
        received = b""
        try:
            while (part := client.recv(65536)) and b"text/event-stream" not in received:
                received += part
        except ConnectionResetError:
            pass
        return received
