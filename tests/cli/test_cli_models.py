"""`smdaemon inspect` and `smdaemon verify`: SavedModels of ours and of TensorFlow, and those that are broken."""

import json

import numpy as np
import pytest
from daemon_process import SmdaemonProcess

from smdaemon.cli.main import dispatch

DATA = "variables/variables.data-00000-of-00001"
INDEX = "variables/variables.index"


@pytest.fixture
def model(tmp_path, capsys):
    """An export of two tensors."""
    np.savez(tmp_path / "a.npz", **{"layer/0/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(3)})
    assert dispatch(["export", str(tmp_path / "a.npz"), str(tmp_path / "model"), "--quiet"]) == 0
    return tmp_path / "model"


def run(capsys, *argv):
    """Exit code, stdout and stderr of a command."""
    code = dispatch([str(each) for each in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_shows_the_model(model, capsys):
    """The page has tags, variables with dtype and shape, files and the fingerprint."""
    code, out, err = run(capsys, "inspect", model)
    assert (code, err) == (0, "")
    for line in (
        "meta graph: serve",
        "variables: 2, 72 B",
        "  b               float64    (3)  24 B",
        "  layer/0/kernel  float32    (3, 4)  48 B",
        "files: 4, ",
    ):
        assert line in out
    assert "fingerprint: " in out


def test_inspect_json(model, capsys):
    """--json is one object with the same."""
    code, out, _ = run(capsys, "inspect", model, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["meta_graphs"][0]["tags"] == ["serve"]
    assert [variable["shape"] for variable in summary["variables"]] == [[3], [3, 4]]
    assert summary["total_bytes"] == sum(path.stat().st_size for path in model.rglob("*") if path.is_file())


def test_inspect_shows_signatures_and_devices(shared, capsys):
    """A model of TensorFlow's shows what it serves and where its nodes are to run."""
    code, out, _ = run(capsys, "inspect", shared / "fixtures" / "saved_model_half_plus_two_gpu" / "00000123")
    assert code == 0
    assert "signature serving_default (tensorflow/serving/predict)" in out
    assert "    output y: float32 (?, 1) from " in out
    assert "  device /device:GPU:0: " in out


def test_names_that_command_the_terminal_are_shown_as_escapes(tmp_path, capsys):
    """A hostile name of a tensor, a file or a directory reaches the terminal as escapes only."""
    np.savez(tmp_path / "a.npz", **{"x\x1b[31m\u202e/w": np.ones(2)})
    target = tmp_path / "m\x1b[2J"
    assert run(capsys, "export", tmp_path / "a.npz", target)[0] == 0
    (target / "note\x1b]0;title\x07").write_text("")
    for argv in (["inspect", target], ["inspect", target, "--json"], ["verify", target], ["verify", target / "no\x07"]):
        _, out, err = run(capsys, *argv)
        assert out or err
        assert not {"\x1b", "\x07", "\u202e"} & set(out + err)


def test_verify_says_sound(model, capsys):
    """A sound model is told in one line, or as JSON."""
    assert run(capsys, "verify", model) == (0, f"{model}: sound (2 tensors, 72 B, fingerprint matches)\n", "")
    code, out, _ = run(capsys, "verify", model, "--json")
    assert (code, json.loads(out)) == (0, {"tensors": 2, "bytes": 72, "fingerprint": "matches"})


@pytest.mark.parametrize("name", [DATA, INDEX, "saved_model.pb", "fingerprint.pb"])
def test_verify_finds_any_flipped_byte(model, capsys, name):
    """Whichever byte of a file is wrong, the model is refused with one line that has a code."""
    content = (model / name).read_bytes()
    unseen = []
    for position in range(0, len(content), max(1, len(content) // 97)):
        broken = bytearray(content)
        broken[position] ^= 0xFF
        (model / name).write_bytes(broken)
        code, out, err = run(capsys, "verify", model, "--json")
        if code == 0:
            unseen.append(position)
        else:
            assert (code, out, err.count("\n")) == (1, "", 1)
            assert "(bundle-" in err or "(savedmodel-" in err
    assert not unseen


def test_verify_misses_a_shard(tmp_path, capsys):
    """A model that lacks one of its data files is refused, and the file is named."""
    np.savez(tmp_path / "a.npz", a=np.ones(3), b=np.ones(4))
    target = tmp_path / "model"
    assert run(capsys, "export", tmp_path / "a.npz", target, "--shards", "2")[0] == 0
    (target / "variables" / "variables.data-00001-of-00002").unlink()
    code, _, err = run(capsys, "verify", target)
    assert (code, err.count("\n")) == (1, 1)
    assert "variables.data-00001-of-00002" in err
    assert "(bundle-missing-shard); copy all variables.data-* files" in err


@pytest.mark.parametrize("name", [DATA, INDEX, "saved_model.pb", "fingerprint.pb"])
@pytest.mark.parametrize("size", [1, 60])
def test_files_that_are_cut_off_are_refused(model, capsys, name, size):
    """A file that ends too soon is an error of one line to verify; inspect shows it or refuses it alike."""
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[:size])
    code, _, err = run(capsys, "verify", model)
    assert (code, err.count("\n")) == (1, 1)
    assert "(bundle-" in err or "(savedmodel-" in err
    code, _, err = run(capsys, "inspect", model)
    assert code in {0, 1}
    assert err.count("\n") == code


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("name", ["a.npz", "empty", "none", "x" * 300])
def test_what_is_no_saved_model_is_refused(tmp_path, capsys, command, name):
    """A file, an empty directory, nothing, and a name that cannot be: one line, exit code 1."""
    (tmp_path / "a.npz").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, command, tmp_path / name)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert ("(savedmodel-missing); " in err) or len(name) == 300


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("name", [".", "saved_model.pb", INDEX, "variables"])
def test_what_may_not_be_read_is_told_in_one_line(model, command, name):
    """Permissions are a fault of the machine with a code."""
    (model / name).chmod(0)
    try:
        with SmdaemonProcess(model.parent, command, "model", unprivileged=True) as process:
            assert process.ended() == (1, "")
            (line,) = process.errors
    finally:
        (model / name).chmod(0o755)
    assert "(permission-denied); give the daemon's user access to it" in line


@pytest.mark.parametrize("argv", [["inspect"], ["verify"], ["inspect", "a", "b"], ["verify", "a", "--bogus"]])
def test_usage(capsys, argv):
    """Wrong arguments are a usage error that names the command's help."""
    code, out, err = run(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"(usage); see: smdaemon {argv[0]} --help" in err
