"""Raw HTTP over a unix socket, for what the client of smdaemon would never send."""

import http.client
import json
import socket


class UnixHttp(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self):
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class Answer:
    """Status, headers and content of an answer."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.content = response.read()

    @property
    def json(self):
        """The content as JSON."""
        return json.loads(self.content)


def ask(path, method, target, body=None, headers=None):
    """One request on a connection of its own."""
    connection = UnixHttp(path)
    try:
        connection.request(method, target, body, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()
