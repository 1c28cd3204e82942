"""Checkpoints that become servable versions with JAX functions, through the daemon: by drop, by request, in its own process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemon_kit import write_config

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from functions_kit import CHECKPOINTS, X, Y, flat, served, write_bundle

from smdaemon.cli.client import Client
from smdaemon.config import load_config
from smdaemon.errors import ConfigError
from smdaemon.jobs.states import TERMINAL

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The function bundle."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "predict.functions")


@pytest.mark.parametrize("write", CHECKPOINTS)
async def test_every_checkpoint_becomes_a_servable_version(started, tmp_path, bundle, write):
    """The trainer describes its function once; whatever format its checkpoints have, each is served by it."""
    async with started(model=f'function = "{bundle}"') as running:
        path = write(tmp_path / "ckpt-3")
        path.rename(running.runs / path.name)
        (job,) = await running.ended()
        assert (job["state"], job["version"], job["tensors"]) == ("published", 3, 3), job
    np.testing.assert_allclose(served(tf, running.models / "3"), Y, rtol=1e-6)


async def test_later_checkpoints_are_later_versions(started, tmp_path):
    """The same functions with the values of each; a name map finds them below the state of a trainer."""
    write_bundle(tmp_path / "predict.functions")  # a relative path starts at the configuration
    lines = 'function = "predict.functions"\nserving_tensorflow = "2.21"\nname_map = {"params.*" = "*"}'
    async with started(model=lines) as running:
        for step in (1, 2):
            running.drop(f"ckpt-{step}.npz", **flat("/", "params.", factor=step))
            jobs = await running.ended(step)
            assert jobs[-1]["state"] == "published", jobs
    np.testing.assert_allclose(served(tf, running.models / "1"), Y, rtol=1e-6)
    np.testing.assert_allclose(served(tf, running.models / "2"), Y * 4, rtol=1e-6)
    models = [(running.models / step / "saved_model.pb").read_bytes() for step in ("1", "2")]
    assert models[0] == models[1]


async def test_a_checkpoint_that_does_not_fit_says_all_of_it(started, bundle):
    """Wrong shapes and missing names are listed together in the job; no version appears."""
    async with started(model=f'function = "{bundle}"\nunused = "error"') as running:
        running.drop(
            "ckpt-1.npz", **{"dense/kernel": np.zeros((9, 9), np.float32), "dense/bias": np.zeros(2, np.float32)}
        )
        (job,) = await running.ended()
        assert not list(running.models.glob("[0-9]*"))
    assert (job["state"], job["error"]["code"]) == ("failed", "parameters-mismatch")
    assert "dense/kernel" in job["error"]["message"]
    assert "scale" in job["error"]["message"]


async def test_a_request_names_the_functions(started):
    """The bundle lies among the drops; it is no drop itself, and the request's word is final."""
    async with started(model='on_drop = "ignore"') as running:
        write_bundle(running.runs / "predict.functions")
        running.drop("ckpt-5.npz", **flat(prefix="model/"))
        request = {"source": "ckpt-5.npz", "function": "predict.functions", "name_map": {"model/*": "*"}}
        (running.runs / "five.export.json").write_text(json.dumps(request | {"serving_tensorflow": "2.20"}))
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 5), job
    np.testing.assert_allclose(served(tf, running.models / "5"), Y, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"function": "no-such"}, "source-missing"),
        ({"function": "/etc/passwd"}, "request-source-outside"),
        ({"function": "ckpt-1.npz"}, "function-invalid"),
        ({"function": "new.functions", "serving_tensorflow": "2.19"}, "function-too-new"),
        ({"function": "new.functions", "serving_tensorflow": "1.15"}, "function-target-unknown"),
        ({"function": "new.functions", "template": "ckpt-1.npz"}, "request-invalid"),
        ({"function": "new.functions", "missing": "keep"}, "request-invalid"),
    ],
)
async def test_bad_functions_of_a_request_have_their_code(started, fields, code):
    """Nothing is published; the job says why."""
    async with started(model='on_drop = "ignore"') as running:
        write_bundle(running.runs / "new.functions", serving_tensorflow="2.21")
        running.drop("ckpt-1.npz", **flat())
        (running.runs / "bad.export.json").write_text(json.dumps({"source": "ckpt-1.npz", **fields}))
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", code), job
        assert not list(running.models.glob("[0-9]*"))


@pytest.mark.parametrize("other", ['template = "t"', 'modes = {train = {template = "t"}}'])
def test_a_model_with_functions_and_another_graph_is_refused(tmp_path, other):
    """The configuration's line is told before anything starts."""
    path = write_config(tmp_path, model=f'function = "predict.functions"\n{other}')
    with pytest.raises(ConfigError, match="function gives a graph") as caught:
        load_config(path)
    assert caught.value.code == "config-conflict"
    assert "config.toml:" in str(caught.value)


def test_the_daemon_imports_neither_jax_nor_tensorflow(tmp_path, bundle):
    """A whole life of its process with an export of functions in it."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, model=f'function = "{bundle}"')
    script, report = Path(__file__).with_name("imports_of_daemon.py"), tmp_path / "report"
    command = [sys.executable, str(script), str(report), "run", "--config", "config.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if '"running"' in line:
                    break
            np.savez(tmp_path / "writing.npz", **flat())
            (tmp_path / "writing.npz").rename(tmp_path / "runs" / "ckpt-1.npz")
            states = (event.data["job"]["state"] for event in Client(str(tmp_path / "control.sock")).events(after=0))
            assert next(state for state in states if state in TERMINAL) == "published"
            process.send_signal(signal.SIGTERM)
            assert process.stderr.read()
            assert process.wait() == 0
        finally:
            process.kill()
    assert report.read_text() == ""
    np.testing.assert_allclose(served(tf, tmp_path / "models" / "1", X), Y, rtol=1e-6)
