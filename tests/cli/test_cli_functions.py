"""`smdaemon export --function`: a checkpoint and a function bundle become a SavedModel that TensorFlow serves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from functions_kit import Y, flat, served, write_bundle

from smdaemon.cli.main import dispatch

HEAVY = {"jax", "jaxlib", "flax", "tensorflow", "keras", "trio", "starlette"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The function bundle, for TensorFlow 2.20 and later."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "predict.functions", serving_tensorflow="2.20")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, bundle):
    """The current directory, with a checkpoint and the bundle in it."""
    np.savez(tmp_path / "a.npz", **flat(prefix="params/"), step=np.int64(3))
    (tmp_path / "it.functions").write_bytes(bundle.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *options):
    """Exit code, stdout and stderr of an export of a.npz."""
    code = dispatch(["export", "a.npz", "out", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_export_is_served(capsys, folder):
    """--function and --name-map make of SOURCE what TensorFlow runs; --json tells what was written."""
    tf = pytest.importorskip("tensorflow")
    options = ["--function", "it.functions", "--name-map", "params/*=*", "--serving-tensorflow", "2.21", "--json"]
    code, out, err = run(capsys, *options)
    assert (code, err) == (0, "")
    assert json.loads(out)["tensors"] == 3
    np.testing.assert_allclose(served(tf, folder / "out"), Y, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--function", "nothing"], "(source-missing)"),
        (["--function", "a.npz"], "(function-invalid)"),
        (["--function", "it.functions"], "a name map of 'params/*' to '*' would take it"),
        (["--function", "it.functions", "--serving-tensorflow", "2.19"], "(function-too-new)"),
        (["--function", "it.functions", "--serving-tensorflow", "2.2"], "(function-target-unknown)"),
        (["--function", "it.functions", "--template", "t"], "(request-invalid)"),
        (["--function", "it.functions", "--mode", "train=t"], "(request-invalid)"),
        (["--function", "it.functions", "--missing", "keep"], "(request-invalid)"),
        (["--function", "it.functions", "--name-map", "params/*=*", "--unused", "error"], "'step' is no parameter"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(capsys, folder, options, says):
    """With its code and the remedy; nothing is written."""
    code, out, err = run(capsys, *options)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err
    assert not (folder / "out").exists()


def test_an_export_with_functions_imports_no_jax(folder):
    """Neither JAX nor TensorFlow nor the daemon is loaded for it."""
    argv = ["export", "a.npz", "out", "--quiet", "--function", "it.functions", "--name-map", "params/*=*"]
    program = f"import sys; from smdaemon.cli.main import dispatch; dispatch({argv}); print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.partition(".")[0] for name in ran.stdout.split("\n")}
    assert (folder / "out" / "saved_model.pb").is_file()


def test_inspect_shows_what_was_exported(capsys):
    """The signature and the call of the model, as of any SavedModel."""
    run(capsys, "--function", "it.functions", "--name-map", "params/*=*")
    assert dispatch(["inspect", "out"]) == 0
    shown = capsys.readouterr().out
    for fact in ("serving_default", "x: float32 (?, 3)", "y", "dense/kernel", "XlaCallModule"):
        assert fact in shown
