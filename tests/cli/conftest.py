"""Commands against the served FakeBackend of tests/control, and as processes of tests/daemon."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent.parent / room) for room in ("control", "daemon")]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The real server over a FakeBackend; $SMDAEMON_SOCKET names its socket."""
    from control_fakes import ServerThread

    path = tmp_path / "control.sock"
    monkeypatch.setenv("SMDAEMON_SOCKET", str(path))
    with ServerThread(path) as served:
        yield served
