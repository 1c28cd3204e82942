"""The control port that other machines can reach: TLS, and the token for whatever is asked."""

import http.client
import socket
import ssl

import pytest
import trio
import trustme
from control_fakes import FakeBackend, serving

from smdaemon.cli.client import CA_VARIABLE, TOKEN_VARIABLE, Client, RemoteError
from smdaemon.control.access import Access
from smdaemon.control.server import serve
from smdaemon.control.tls import Tls
from smdaemon.errors import ConfigError

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def authority():
    """One that vouches for the daemon's certificates."""
    return trustme.CA()


def issue(authority, folder, *names):
    """Certificate and key for `names`, as an operator lays them down."""
    issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
    with (folder / "cert.pem").open("wb") as file:
        for blob in issued.cert_chain_pems:
            file.write(blob.bytes())
    (folder / "key.pem").touch(mode=0o600)
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def pems(authority, tmp_path):
    """The files of a certificate for this machine."""
    return issue(authority, tmp_path)


def port_of(addresses) -> int:
    """The port of the one address over TLS."""
    (address,) = (address for address in addresses if address.startswith("https://"))
    return int(address.rpartition(":")[2])


async def served(tls, use, *, listen="0.0.0.0:0"):
    """The result of `use(port)` in a thread, while a server listens where every machine can reach it."""
    access = Access(frozenset(), TOKEN)
    async with serving(None, tcp=listen, tls=tls, access=lambda: access) as backend:
        return await trio.to_thread.run_sync(use, port_of(backend.addresses))


def status_of(authority, port, method, target, token="") -> int:
    """The status of one request over TLS."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=context)
    try:
        connection.request(method, target, headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    finally:
        connection.close()


async def test_over_tls_every_request_takes_the_token(authority, pems):
    """Reading too, metrics among it; the probes alone answer anyone, with one bit."""

    def use(port):
        asked = [("GET", "/v1/status"), ("GET", "/metrics"), ("GET", "/v1/openapi.json"), ("POST", "/v1/jobs/1/cancel")]
        asked += [("GET", "/healthz"), ("GET", "/readyz")]
        return [
            [status_of(authority, port, method, target, token) for method, target in asked]
            for token in ("", TOKEN[:-1] + "x", TOKEN)
        ]

    without, wrong, right = await served(Tls(*pems), use)
    assert without == wrong == [403, 403, 403, 403, 200, 200]
    assert right == [200, 200, 200, 404, 200, 200]


async def test_smdaemons_own_client_speaks_tls(authority, pems, tmp_path, monkeypatch):
    """With the token's file and the authority's; without the authority it does not trust the daemon."""
    (tmp_path / "token").write_text(TOKEN)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv(TOKEN_VARIABLE, str(tmp_path / "token"))

    def use(port):
        client = Client(f"https://localhost:{port}")
        with pytest.raises(ConfigError, match="its certificate is not trusted") as refused:
            client.get("/v1/status")
        with pytest.raises(ConfigError) as plain:
            Client(f"http://localhost:{port}").get("/healthz")
        monkeypatch.setenv(CA_VARIABLE, str(tmp_path / "ca.pem"))
        status = client.get("/v1/status")
        monkeypatch.delenv(TOKEN_VARIABLE)
        with pytest.raises(RemoteError) as denied:
            client.get("/v1/status")
        return refused.value, plain.value, status, denied.value.code

    untrusted, plain, status, denied = await served(Tls(*pems), use)
    assert (untrusted.code, plain.code, denied) == ("no-daemon", "no-daemon", "not-allowed")
    assert CA_VARIABLE in untrusted.remedy
    assert "https://" in plain.remedy
    assert "version" in status


def test_a_token_is_not_sent_in_the_clear(tmp_path, monkeypatch):
    """Not to another machine; nor is an authority taken that there is not."""
    monkeypatch.setenv(TOKEN_VARIABLE, str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="in the clear"):
        Client("http://192.0.2.1:8470").get("/v1/status")
    monkeypatch.setenv(CA_VARIABLE, str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="cannot be used"):
        Client("https://localhost:8470").get("/v1/status")


async def test_who_does_not_speak_tls_is_not_answered(authority, pems):
    """Plain HTTP, old TLS, a client that says nothing and one that leaves at once: the next one is served."""

    def use(port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            plain.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = plain.recv(1000)
        assert b"HTTP" not in said
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(old)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("AES128-SHA:@SECLEVEL=0")  # no forward secrecy
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as raw,
            pytest.raises(ssl.SSLError),
            old.wrap_socket(raw, server_hostname="localhost"),
        ):
            pass
        silent = socket.create_connection(("127.0.0.1", port), timeout=30)
        with silent:
            return status_of(authority, port, "GET", "/v1/status", TOKEN)

    assert await served(Tls(*pems), use) == 200


async def test_a_renewed_certificate_is_taken_without_a_restart(authority, pems, tmp_path):
    """After a reload; one that does not fit its key is refused, and the old one stays."""
    tls = Tls(*pems)

    def use(port):
        before = ssl.get_server_certificate(("127.0.0.1", port))
        pems[1].write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
        with pytest.raises(ConfigError):
            tls.reload()
        kept = ssl.get_server_certificate(("127.0.0.1", port))
        issue(authority, tmp_path)
        tls.reload()
        return before, kept, ssl.get_server_certificate(("127.0.0.1", port))

    before, kept, after = await served(tls, use)
    assert before == kept != after


def test_what_is_no_certificate_is_refused(authority, pems, tmp_path):
    """Missing, of another key, with a password, a key that others can read."""
    cert, key = pems
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others") as refused:
        Tls(cert, key)
    assert refused.value.remedy == f"chmod 600 {key}"
    key.chmod(0o600)
    (tmp_path / "other").mkdir()
    other_cert, other_key = issue(authority, tmp_path / "other")
    locked = tmp_path / "locked.pem"
    locked.touch(mode=0o600)
    locked.write_bytes(encrypted(other_key.read_bytes()))
    for first, second in ((tmp_path / "none", key), (cert, tmp_path / "none"), (cert, other_key), (other_cert, locked)):
        with pytest.raises(ConfigError, match="cannot be used") as refused:
            Tls(first, second)
        assert refused.value.code == "config-invalid"


def encrypted(key: bytes) -> bytes:
    """The key behind a password."""
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


async def test_without_tls_no_other_machine_is_let_in():
    """The refusal says what it takes."""
    with pytest.raises(ConfigError) as refused:
        await serve(FakeBackend(), unix_socket=None, tcp="0.0.0.0:0")
    assert "control_tls_cert" in refused.value.remedy


async def test_over_tls_the_page_is_there_and_knows_nothing(authority, pems):
    """Its files answer anyone, so that a token can be given; all that they read takes it."""

    def use(port):
        targets = ("/page/index.html", "/page/main.js", "/v1/status", "/v1/queue", "/v1/history", "/v1/events")
        return [status_of(authority, port, "GET", target) for target in targets]

    assert await served(Tls(*pems), use) == [200, 200, 403, 403, 403, 403]
