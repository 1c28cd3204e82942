"""Models that name devices, made once."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def device_models(tmp_path_factory) -> Path:
    """The folder of the models of placement_models.py, by name."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("device_models")
    script = Path(__file__).with_name("placement_models.py")
    made = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return folder
