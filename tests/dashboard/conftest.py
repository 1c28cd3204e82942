"""A real daemon on a loopback port, and a real Chromium before it; skipped with the reason where there is none."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / room) for room in ("control", "daemon")]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One Chromium for all tests, which find it with nothing stored."""
    from browser_kit import missing, start_browser

    from smdaemon.control import pages

    if why := missing() if pages.is_complete() else "what the dashboard stands on is not here; make installs it by npm":
        pytest.skip(why)
    driver = start_browser(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def serving(tmp_path):
    """A daemon's directories, ready to be configured and started."""
    from serving_kit import Serving

    with ExitStack() as stack:
        yield Serving(tmp_path, stack)


@pytest.fixture
def page(browser, serving):
    """The daemon's dashboard, not opened yet. In the end it must have asked nobody but its daemon, and nothing stays in the browser."""
    from browser_kit import Page

    browser.set_window_size(1280, 900)
    shown = Page(browser, serving.origin)
    shown.forget_logs()
    yield shown
    shown.read_logs()
    browser.execute_script("sessionStorage.clear(); localStorage.clear()")
    browser.get("about:blank")
    assert shown.origins() == {serving.origin}
    assert [each for each in shown.complaints if "ERR_CONNECTION" not in each] == []
