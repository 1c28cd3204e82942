"""A daemon in this process, on directories of its own."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from daemon_kit import Running, write_config

from smdaemon.cli.client import Client
from smdaemon.config import load_config
from smdaemon.daemon.daemon import Daemon

PATIENCE_SECONDS = 60


@pytest.fixture
def started(tmp_path):
    """A context manager that runs a daemon on `tmp_path`; keyword arguments are lines of its configuration."""
    (tmp_path / "runs").mkdir()

    @asynccontextmanager
    async def start(*, config: Path | None = None, **lines: str):
        path = config or write_config(tmp_path, **lines)
        daemon = Daemon(path, load_config(path))
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                await nursery.start(daemon.run)
                yield Running(daemon, Client(str(tmp_path / "control.sock")), tmp_path)
                daemon.stop()

    return start


@pytest.fixture
def impatient(monkeypatch):
    """Notifiers try again at once."""
    monkeypatch.setattr("smdaemon.notify.notifier.delay", lambda _attempt, _rng: 0.01)
