"""The examples run as they stand, each with the daemon that it starts."""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smdaemon.savedmodel.verify import verify

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 240


def has(module: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(module) is not None


def run(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """An example as a process of its own."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


def losses(output: str) -> list[float]:
    """The losses that were printed."""
    return [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)]


def published(output: str) -> list[Path]:
    """The versions that were published."""
    return [Path(path) for path in re.findall(r" published +(\S+)", output)]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("numpy_loop.py", 400),
        pytest.param("flax_loop.py", 200, marks=pytest.mark.skipif(not has("flax"), reason="no flax")),
        pytest.param("torch_loop.py", 400, marks=pytest.mark.skipif(not has("torch"), reason="no torch")),
    ],
)
def test_an_example_trains_publishes_and_verifies(name, steps):
    """The loss goes down, each save is a version, the last is sound; nothing is left behind."""
    ran = run(name, "--steps", steps)
    assert ran.returncode == 0, ran.stderr
    first, *_, last = losses(ran.stdout)
    assert last < first
    versions = published(ran.stdout)
    assert len(versions) == 4
    assert f"verified {versions[-1]}: " in ran.stdout
    assert not versions[-1].parents[1].exists()
    if name == "flax_loop.py" and has("tensorflow"):
        assert "TensorFlow serves what JAX computes" in ran.stdout


def test_an_example_hands_over_to_a_running_daemon(monkeypatch):
    """Named by its socket and its model; the versions outlive the trainer."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    scratch_daemon = importlib.import_module("scratch_daemon")
    with scratch_daemon.daemon(argparse.Namespace(socket=None)) as place:
        ran = run("numpy_loop.py", "--steps", 4, "--socket", place.socket, "--model", place.model)
        assert ran.returncode == 0, ran.stderr
        assert verify(published(ran.stdout)[-1]).tensors == 4


@pytest.mark.skipif(has("torch"), reason="torch is here")
def test_without_torch_its_example_says_how_to_get_it():
    """And nothing is started."""
    ran = run("torch_loop.py")
    assert ran.returncode == 1
    assert "pip install torch" in ran.stderr
    assert "Traceback" not in ran.stderr
