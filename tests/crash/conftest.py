"""The kits stand beside the tests; these folders are no packages."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "daemon")]


def pytest_addoption(parser):
    """How long the long form is: `make crash`."""
    parser.addoption("--crash-rounds", type=int, default=8, help="daemons that are killed under load")
    parser.addoption("--crash-stride", type=int, default=9, help="of the boundaries each N-th is tried")
    parser.addoption("--crash-seed", type=int, default=1, help="where and when they are killed")
