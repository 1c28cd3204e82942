"""The export in a process of its own: without TensorFlow, with several devices, and the same bytes as here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax_kit import KEY, B, W, X, run_v2
from jax_process_models import described, saved


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The folder that the other process wrote, and what it said."""
    folder = tmp_path_factory.mktemp("elsewhere")
    program = Path(__file__).with_name("jax_elsewhere.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads(ended.stdout.splitlines()[-1])


def files(path):
    """The contents of a model by the names of its files; the fingerprint has a number of its own, if any."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_tensorflow_is_not_imported(elsewhere):
    """Its import fails there, nobody tries, and the model that is written runs in TensorFlow."""
    tf = pytest.importorskip("tensorflow")
    folder, told = elsewhere
    assert told["strays"] == []
    np.testing.assert_allclose(run_v2(tf, folder / "model", {"x": X})["output_0"], X @ W + B, rtol=1e-6)


def test_the_same_call_gives_the_same_bytes(tmp_path, elsewhere):
    """Twice here, and in another process with other devices."""
    saved(tmp_path / "one")
    saved(tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(elsewhere[0] / "model")
    assert described() == described() == (elsewhere[0] / "it.functions").read_bytes()


def test_functions_of_several_devices_are_refused(elsewhere):
    """Exports, their bytes, and a function whose constraints span a mesh; the error tells how many."""
    _, told = elsewhere
    assert told["devices"] == 2
    assert [code for code, _, _ in told["refused"]] == ["function-unsupported"] * 3
    assert all(f"{KEY!r}" in message and "2 devices" in message for _, message, _ in told["refused"])
    assert all("without a mesh" in remedy for _, _, remedy in told["refused"])
