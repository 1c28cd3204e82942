"""Fixtures that several rooms' tests use."""

import importlib.util
import signal
from pathlib import Path
from types import ModuleType

import pytest


def pytest_configure() -> None:
    """Under nohup a hang-up is ignored, by every process that a test starts too: the tests are to mean the same there."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and judges beside the repository; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="session")
def cpp_load(shared: Path) -> ModuleType:
    """TensorFlow's C++ loader: `load(export_dir)` and `run(model, feeds, fetches)`."""
    # its libraries are opened by hand after TensorFlow's Python has opened them
    pytest.importorskip("tensorflow")
    spec = importlib.util.spec_from_file_location("cpp_load", shared / "judges" / "cpp_load.py")
    if spec is None or spec.loader is None:
        pytest.skip("the judge cpp_load.py is absent")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_addoption(parser):
    """How long the slow suites are: options are only taken from this file; `make crash`, `make fuzz` and `make load` make them long."""
    parser.addoption("--crash-rounds", type=int, default=8, help="daemons that are killed under load")
    parser.addoption("--crash-stride", type=int, default=9, help="of the boundaries each N-th is tried")
    parser.addoption("--crash-seed", type=int, default=1, help="where and when they are killed")
    parser.addoption("--load-scale", type=float, default=0.02, help="what part of the long form's load is made")
    parser.addoption("--fuzz-examples", type=int, default=300, help="broken inputs for each parser")
    parser.addoption("--fuzz-seed", type=int, default=1, help="how they are broken")
