"""JAX's arrays that are spread over several devices: see sharded_program.py, which runs in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from smdaemon.errors import DropError
from smdaemon.staging.jax_gpu import JaxGpuStager
from smdaemon.staging.stagers import specs_of

PROGRAM = Path(__file__).with_name("sharded_program.py")


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """What went wrong in each case; nothing where it held."""
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("mode", ["auto", "direct"])
@pytest.mark.parametrize("way", ["cpu", "raw", "pinned", "tpu"])
def test_each_part_lands_at_its_place(results: dict[str, str], way: str, mode: str) -> None:
    """Cut along any dimensions, on devices in any order, beside others on one device or on all."""
    assert results[f"{way}-{mode}"] == ""


@pytest.mark.parametrize(
    "case", ["raw_from_each_device", "donated", "inside_a_mesh", "replicas_are_not_copied", "keys"]
)
def test_many_devices_are_like_one(results: dict[str, str], case: str) -> None:
    """Replicas are copied once, each part from its own device; a step may donate; the trainer's mesh is no hindrance."""
    assert results[case] == ""


@pytest.mark.parametrize("replicated", [True, False])
def test_parts_on_other_hosts_are_refused(replicated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the tensor and how to gather it; what is the same on all hosts is taken here."""
    x = jnp.ones((2, 3))
    monkeypatch.setattr(type(x), "is_fully_addressable", False)
    monkeypatch.setattr(type(x), "is_fully_replicated", replicated)
    specs = lambda: specs_of({"w": x}, {"w": JaxGpuStager(lambda: None)})  # noqa: E731 - asked for in two ways
    if replicated:
        assert specs()["w"].shape == (2, 3)
        return
    with pytest.raises(DropError, match=r"'w': parts of the array of shape \[2, 3\]") as caught:
        specs()
    assert caught.value.code == "handoff-tensor"
    assert "process_allgather" in caught.value.remedy
    assert jax.process_count() == 1
