"""Disks that break: mounted where that can be done, and skipped with the reason where it cannot.

The short form is part of `make test`; SMDAEMON_FAULTS=all, as `make faults` sets it, tries every fault at every operation.
"""

import os

import pytest
from disk_kit import MountedDisk, unavailable
from faults_kit import TALLY

from smdaemon.jobs import retry


@pytest.fixture(scope="session")
def everything() -> bool:
    """Whether the long form is asked for."""
    return os.environ.get("SMDAEMON_FAULTS") == "all"


@pytest.fixture(scope="session")
def mounted():
    """The disk that all tests use, one after the other: to mount one takes longer than most of them."""
    if reason := unavailable():
        pytest.skip(reason)
    with MountedDisk() as disk:
        yield disk


@pytest.fixture
def disk(mounted):
    """An empty disk without a fault."""
    mounted.ask("reset")
    yield mounted
    mounted.ask("reset")


@pytest.fixture(autouse=True)
def _retries_come_at_once(monkeypatch):
    """What waits for its next attempt waits for milliseconds."""
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(retry, "LONGEST_SECONDS", 0.01)


def pytest_terminal_summary(terminalreporter):
    """Say what was broken, or why nothing was."""
    if reason := unavailable():
        terminalreporter.write_line(f"NO DISK WAS BROKEN, tests/faults were skipped: {reason}")
    elif TALLY:
        told = ", ".join(f"{count} {what}" for what, count in sorted(TALLY.items()))
        terminalreporter.write_line(f"tests/faults: {told}")
