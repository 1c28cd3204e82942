"""A served FakeBackend for every test of the control socket."""

import pytest
from control_fakes import ServerThread

from smdaemon.cli.client import Client


@pytest.fixture
def server(tmp_path):
    """The real server on a unix socket in tmp_path, over a FakeBackend."""
    with ServerThread(tmp_path / "control.sock") as served:
        yield served


@pytest.fixture
def client(server):
    """The real client of that server."""
    return Client(str(server.path))
