"""A real daemon on a loopback port, and a real Chromium before it; skipped with the reason where there is none."""

import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / room) for room in ("control", "daemon")]

from browser_kit import Page, missing, start_browser
from daemon_kit import write_config
from daemon_process import SmdaemonProcess

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One Chromium for all tests, which find it with nothing stored."""
    if why := missing():
        pytest.skip(why)
    driver = start_browser(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


def free_port() -> int:
    """A port that nobody listens on, for a daemon that is to come back to it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Serving:
    """A daemon that serves the dashboard on `origin`; it may be stopped and started again."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.token = TOKEN
        self.origin = f"http://127.0.0.1:{free_port()}"
        self._stack = stack
        (root / "runs").mkdir()
        (root / "token").touch(mode=0o600)
        (root / "token").write_text(TOKEN)

    def configure(self, *, daemon: str = "", model: str = "") -> Path:
        """Write the configuration, with further lines for its tables."""
        address = self.origin.removeprefix("http://")
        lines = f'control_listen = "{address}"\ncontrol_token_file = "token"\n{daemon}'
        return write_config(self.root, daemon=lines, model=model)

    def start(self, *, held: bool = False) -> SmdaemonProcess:
        """The daemon, once it runs."""
        process = SmdaemonProcess(self.root, "run", "--config", "config.toml", held=held)
        self._stack.enter_context(process)
        process.logged("running")
        self.process = process
        self.client = process.client
        return process


@pytest.fixture
def serving(tmp_path):
    """A daemon's directories, ready to be configured and started."""
    with ExitStack() as stack:
        yield Serving(tmp_path, stack)


@pytest.fixture
def page(browser, serving):
    """The daemon's dashboard, not opened yet; with nothing that an earlier test left, and nothing left behind."""
    browser.set_window_size(1280, 900)
    shown = Page(browser, serving.origin)
    shown.read_logs()
    shown.asked.clear()
    shown.complaints.clear()
    yield shown
    browser.get("about:blank")
