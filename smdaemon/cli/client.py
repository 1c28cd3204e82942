"""Talks to the daemon: HTTP over its unix socket, over loopback TCP, or over TLS. Standard library only, so that commands start fast."""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from smdaemon.errors import CODES, ConfigError, EnvironmentFault, SmdaemonError
from smdaemon.loopback import is_loopback

DEFAULT_SOCKET = "/run/smdaemon/control.sock"
SOCKET_VARIABLE = "SMDAEMON_SOCKET"
TOKEN_VARIABLE = "SMDAEMON_TOKEN_FILE"  # noqa: S105 - the name of a variable that names a file
CA_VARIABLE = "SMDAEMON_CA_FILE"

Json = dict[str, Any]


class RemoteError(SmdaemonError):
    """An error that the daemon answered with; code and remedy are the daemon's."""


class ServerEvent(NamedTuple):
    """One server-sent event; `seq` resumes the stream after it."""

    seq: int
    data: Json


def default_address() -> str:
    """Where the daemon is looked for when --socket is not given."""
    return os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the path in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """One daemon's control socket; every call makes a connection of its own.

    `address` is a path, 'http://127.0.0.1:PORT' or 'https://HOST:PORT'; None for $SMDAEMON_SOCKET or the default path.
    Calls raise RemoteError for the daemon's own errors, ConfigError no-daemon and EnvironmentFault permission-denied.
    """

    def __init__(self, address: str | None = None, *, timeout_seconds: float = 30) -> None:
        self.address = address or default_address()
        self._timeout = timeout_seconds

    def get(self, path: str, **query: object) -> Json:
        """The JSON answer of GET `path`; parameters that are None are left out."""
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Json | None = None, **query: object) -> Json:
        """The JSON answer of POST `path`; parameters that are None are left out."""
        return self._call("POST", path, query=query, body=body)

    def events(self, after: int | None = None, *, status: bool = False) -> Iterator[ServerEvent]:
        """The daemon's events after `after` (None: from now on), until the daemon ends the stream.

        With `status` the daemon's status comes too, at once and as it changes. A daemon that says nothing at all for the
        client's time limit is away: it would say at least that it is there.
        """
        connection = self._connection(timeout=self._timeout)
        query = {"after": after, "status": "true" if status else None}
        try:
            response = self._send(connection, "GET", _with_query("/v1/events", query), None)
            if response.status != 200:
                raise _remote_error(response.status, response.read())
            yield from _parse_events(response)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def probe(self, path: str) -> bool:
        """Whether a probe answers that all is well."""
        connection = self._connection(timeout=self._timeout)
        try:
            return self._send(connection, "GET", path, None).status == 200
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, *, query: Json | None = None, body: Json | None = None) -> Json:
        connection = self._connection(timeout=self._timeout)
        try:
            response = self._send(connection, method, _with_query(path, query or {}), body)
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _remote_error(response.status, content)
        try:
            return _object(json.loads(content))
        except (ValueError, RecursionError) as error:
            raise self._unreachable(error) from error

    def _connection(self, timeout: float | None) -> http.client.HTTPConnection:
        if "://" not in self.address:
            return _UnixConnection(self.address, timeout)
        try:
            parts = urlsplit(self.address)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not parts.hostname or port is None:
            raise ConfigError(
                "usage",
                f"the address {self.address!r} is not understood",
                remedy="give a path, http://127.0.0.1:PORT or https://HOST:PORT",
            )
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, port, timeout=timeout, context=_authorities())
        if TOKEN_VARIABLE in os.environ and not is_loopback(parts.hostname):
            raise ConfigError(
                "usage", f"the token is not sent to {self.address!r} in the clear", remedy="use https, or unset it"
            )
        return http.client.HTTPConnection(parts.hostname, port, timeout=timeout)

    @staticmethod
    def _send(
        connection: http.client.HTTPConnection, method: str, target: str, body: Json | None
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json"} | _authorization()
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        connection.request(method, target, content, headers)
        return connection.getresponse()

    def _unreachable(self, error: Exception) -> SmdaemonError:
        if isinstance(error, PermissionError):
            return EnvironmentFault("permission-denied", f"may not connect to {self.address!r}")
        remedy = None
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self._timeout:g} s"
        elif isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {error.verify_message}"
            remedy = (
                f"name the file of the authority that issued it in {CA_VARIABLE}, and the host as the certificate does"
            )
        elif isinstance(error, ssl.SSLError):
            reason, remedy = f"no TLS: {(error.reason or str(error)).lower()}", "a port without TLS takes http://"
        elif isinstance(error, http.client.RemoteDisconnected) and self.address.startswith("http://"):
            reason, remedy = "the connection was closed without an answer", "a port with TLS takes https://"
        elif isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
        else:
            reason = f"what answers there is no smdaemon: {error or type(error).__name__}"
            remedy = "see what listens there, or give the daemon's socket with --socket"
        return ConfigError("no-daemon", f"no daemon answers on {self.address!r}: {reason}", remedy=remedy)


def _authorities() -> ssl.SSLContext:
    """Who may vouch for the daemon: those in the file that $SMDAEMON_CA_FILE names, else those that the system trusts."""
    path = os.environ.get(CA_VARIABLE)
    try:
        return ssl.create_default_context(cafile=path or None)
    except OSError as error:
        raise ConfigError("usage", f"{CA_VARIABLE} names {path!r}, which cannot be used: {error}") from error


def _authorization() -> dict[str, str]:
    """The token in the file that $SMDAEMON_TOKEN_FILE names, as a header; nothing where none is named."""
    path = os.environ.get(TOKEN_VARIABLE)
    if not path:
        return {}
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("usage", f"{TOKEN_VARIABLE} names {path!r}, which cannot be read: {error}") from error
    if not token.isprintable():
        raise ConfigError("usage", f"{TOKEN_VARIABLE} names {path!r}, which holds more than a token")
    return {"Authorization": f"Bearer {token}"}


def _with_query(path: str, query: Json) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{quote(path)}?{urlencode(given)}" if given else quote(path)


def _object(data: object) -> Json:
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - caught with the parser's own ValueError
    return data


def _remote_error(status: int, content: bytes) -> RemoteError:
    try:
        answer = _object(json.loads(content))
    except (ValueError, RecursionError):
        answer = {}
    code = str(answer.get("code") or "usage")
    known = CODES.get(code)
    error = RemoteError(
        code,
        str(answer.get("message") or f"the daemon answered with status {status}"),
        remedy=str(answer.get("remedy") or (known.remedy if known else "see the daemon's log")),
    )
    error.retryable = bool(answer.get("retryable"))
    return error


def _parse_events(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[ServerEvent]:
    """The events of a text/event-stream; comments and fields that smdaemon does not send are passed over."""
    seq, data = 0, ""
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            seq = int(value)
        elif name == "data":
            data += value
        elif not name and data:
            yield ServerEvent(seq, _object(json.loads(data)))
            data = ""
