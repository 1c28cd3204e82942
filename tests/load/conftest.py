"""A daemon in a process of its own, under load. The long form is `make load`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "daemon"))

from daemon_kit import write_config
from daemon_process import SmdaemonProcess


@pytest.fixture
def scale(request) -> float:
    """1 in the long form; the short one does a part of it."""
    return request.config.getoption("--load-scale")


@pytest.fixture
def serving(tmp_path):
    """A function that starts the daemon, with lines for its model."""
    started = []

    def start(model: str = "", daemon: str = "") -> SmdaemonProcess:
        (tmp_path / "runs").mkdir(exist_ok=True)
        write_config(tmp_path, model=model, daemon=daemon)
        process = SmdaemonProcess(tmp_path, "run", "--config", "config.toml", patience_seconds=3600)
        started.append(process)
        process.logged("running")
        return process

    yield start
    for process in started:
        process.__exit__()
