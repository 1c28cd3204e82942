"""The units on a machine where systemd is the first process; each test is a check that was made there (inside.py)."""

import ast
import os
import shutil
from pathlib import Path

import machine
import pytest

INSIDE = Path(__file__).with_name("inside.py")
CHECKS = [
    each.name
    for each in ast.parse(INSIDE.read_text()).body
    if isinstance(each, ast.FunctionDef) and each.name.startswith("check_")
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What each check came to, from one run of a machine."""
    if "SMDAEMON_SYSTEMD" not in os.environ:
        pytest.skip("NO MACHINE IS STARTED: make systemd does it")
    if reason := machine.obstacle():
        pytest.skip(f"NO MACHINE IS STARTED: {reason}")
    folder = tmp_path_factory.mktemp("machine")
    base = machine.debian(machine.ROOT / "build" / "systemd")
    results = machine.run(base, machine.payload(folder), folder)
    shutil.copy(folder / "results.jsonl", base)  # for its figures
    if not results:
        pytest.fail((folder / "console.log").read_text(errors="replace")[-4000:])
    return results


@pytest.mark.root
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_machine_of_its_own(found, name):
    """The check was made, and what it looked at was as it should be."""
    assert found[name]["error"] == "", found[name]["error"]
