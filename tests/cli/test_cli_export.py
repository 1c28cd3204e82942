"""`smdaemon export`: what it makes, what it refuses in one line, what it leaves behind when it is ended, what it imports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemon_process import SmdaemonProcess

from smdaemon.cli import export as cli_export
from smdaemon.cli.main import dispatch
from smdaemon.export.plan import ModePlan, SignaturePlan
from smdaemon.savedmodel.summary import summarize
from smdaemon.savedmodel.verify import verify

ARRAYS = {
    "layer/0/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer/0/bias": np.zeros(4),
    "step": np.array(7),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current directory, with a source a.npz in it."""
    np.savez(tmp_path / "a.npz", **ARRAYS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    """Exit code, stdout and stderr of a command."""
    code = dispatch(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def entries(directory):
    """What lies in a directory, by name."""
    return sorted(path.name for path in directory.iterdir())


def names(path="out"):
    """The names of the variables of an export."""
    return [variable.name for variable in summarize(Path(path)).variables]


def test_the_directory_is_the_saved_model(folder, capsys):
    """EXPORT_DIR itself is a sound SavedModel, readable as the umask says, and nothing lies beside it."""
    code, out, err = run(capsys, "export", "a.npz", "out")
    assert (code, err) == (0, "")
    assert out.startswith("out: 3 tensors, 88 B in ")
    assert verify(folder / "out").tensors == 3
    assert entries(folder) == ["a.npz", "out"]
    assert (folder / "out").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_json_tells_the_result(folder, capsys):
    """--json prints one object: where, how many tensors, how many bytes, how long."""
    code, out, err = run(capsys, "export", "a.npz", "out", "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result.pop("seconds") >= 0
    assert result == {"export_dir": str(folder / "out"), "tensors": 3, "bytes": 88}


def test_quiet_prints_nothing(capsys):
    """--quiet is silent."""
    assert run(capsys, "export", "a.npz", "out", "--quiet") == (0, "", "")


def test_tensors_are_chosen_and_renamed(capsys):
    """--include, --exclude and --rename may be repeated; a new name may hold '='."""
    argv = ["--include", "layer/*", "--include", "step", "--exclude", "*/bias", "--rename", "step=train/s=1"]
    assert run(capsys, "export", "a.npz", "out", *argv)[0] == 0
    assert names() == ["layer/0/kernel", "train/s=1"]


def test_tags_shards_and_separator(folder, capsys):
    """Tags replace `serve`, shards are files, an empty separator leaves the choice to the names."""
    argv = ["--tags", "serve", "gpu", "--shards", "3", "--separator", "", "--no-verify", "--no-sync"]
    assert run(capsys, "export", "a.npz", "out", *argv)[0] == 0
    summary = summarize(folder / "out")
    assert summary.meta_graphs[0].tags == ("gpu", "serve")
    assert sum("data-" in name for name in summary.files) == 3
    assert verify(folder / "out").tensors == 3


def test_names_that_command_the_terminal_are_shown_as_escapes(folder, capsys):
    """Neither the closing line nor an error prints a control character."""
    code, out, _ = run(capsys, "export", "a.npz", "o\x1b[2Jut")
    assert code == 0
    assert out.startswith("o\\x1b[2Jut: 3 tensors")
    code, _, err = run(capsys, "export", "a\n\x1b.npz", "out")
    assert (code, err.count("\n")) == (1, 1)
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("argv", "code", "error"),
    [
        (["none.npz", "out"], 1, "'none.npz' does not exist (source-missing); "),
        (["a.npz", "there"], 1, "there' exists already (export-dir-exists); "),
        (["a.npz", "dangling"], 1, "dangling' exists already (export-dir-exists); "),
        (["a.npz", "."], 1, "exists already (export-dir-exists); "),
        (["a.npz", "no/such/out"], 1, "no/such': no such file or directory (directory-missing); make the directory"),
        (["a.npz", "a.npz/out"], 1, "a.npz': not a directory (directory-missing); "),
        (["a.npz", "x" * 300], 1, ": file name too long (os-error); "),
        (["a.npz", "out", "--format", "zip"], 1, "there is no format 'zip'; known are npz"),
        (["there", "out"], 1, "tells no format (source-unknown-format); "),
        (["a.npz", "out", "--format", "safetensors"], 1, " (source-"),
        (["a.npz", "out", "--include", "zz*"], 1, "the pattern 'zz*' of include matches no tensor (request-invalid); "),
        (["a.npz", "out", "--rename", "no=x"], 1, "rename has 'no', which is not in the source (request-invalid); "),
        (["a.npz", "out", "--rename", "step=layer"], 1, "(name-clash); "),
        (["a.npz", "out", "--rename", "step=.."], 1, "(name-invalid); "),
        (["a.npz", "out", "--rename", "x"], 2, "--rename takes OLD=NEW, not 'x' (usage); see: smdaemon export --help"),
        (["a.npz", "out", "--rename", "=x"], 2, "--rename takes OLD=NEW, not '=x' (usage); "),
        (["a.npz", "out", "--rename", "step="], 2, "--rename takes OLD=NEW, not 'step=' (usage); "),
        (
            ["a.npz", "out", "--rename", "step=a", "--rename", "step=b"],
            2,
            "gives 'step' two names, 'a' and 'b' (usage); ",
        ),
        (["a.npz", "out", "--shards", "-1"], 2, "--shards takes 0 to 99999, not -1 (usage); "),
        (["a.npz", "out", "--shards", "100000"], 2, "--shards takes 0 to 99999, not 100000 (usage); "),
        (["a.npz", "out", "--tags", ""], 2, "--tags takes names, and one is empty (usage); "),
        (["a.npz", "out", "--shards", "two"], 2, "(usage); see: smdaemon export --help"),
        (["a.npz", "out", "--bogus"], 2, "(usage); see: smdaemon export --help"),
        (["a.npz", "out", "more"], 2, "(usage); see: smdaemon export --help"),
        (["a.npz"], 2, "EXPORT_DIR requires an argument (usage); see: smdaemon export --help"),
        ([], 2, "SOURCE requires an argument (usage); see: smdaemon export --help"),
    ],
)
def test_what_is_refused_is_told_in_one_line(folder, capsys, argv, code, error):
    """The line has the code and the remedy; the directory is as it was."""
    (folder / "there").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    before = entries(folder)
    got, out, err = run(capsys, "export", *argv)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert error in err
    assert entries(folder) == before
    assert not entries(folder / "there")


@pytest.mark.parametrize("spoil", [lambda content: content[:-30], lambda content: content[:200], lambda _content: b""])
def test_a_bad_source_leaves_nothing(folder, capsys, spoil):
    """A source that is cut off is refused, and no directory is made for it."""
    (folder / "bad.npz").write_bytes(spoil((folder / "a.npz").read_bytes()))
    code, _, err = run(capsys, "export", "bad.npz", "out")
    assert (code, err.count("\n")) == (1, 1)
    assert "(source-" in err
    assert entries(folder) == ["a.npz", "bad.npz"]


def test_the_name_may_be_taken_meanwhile(folder, capsys, monkeypatch):
    """Who made the directory during the export keeps it, though it is empty."""

    def taken(plan, draft, report):
        (folder / "out").mkdir()
        return real(plan, draft, report)

    real = cli_export.export_source
    monkeypatch.setattr(cli_export, "export_source", taken)
    code, _, err = run(capsys, "export", "a.npz", "out")
    assert (code, "export-dir-exists" in err) == (1, True)
    assert entries(folder) == ["a.npz", "out"]
    assert not entries(folder / "out")


@pytest.mark.parametrize("refusing", ["parent", "source"])
def test_permissions_are_told_in_one_line(folder, refusing):
    """A parent that may not be written and a source that may not be read are faults of the machine, not tracebacks."""
    (folder / "locked").mkdir(mode=0o555 if refusing == "parent" else 0o755)
    if refusing == "source":
        (folder / "a.npz").chmod(0)
    with SmdaemonProcess(folder, "export", "a.npz", "locked/out", unprivileged=True) as process:
        assert process.ended() == (1, "")
        (line,) = process.errors
    assert line.startswith("error: ")
    assert "(permission-denied); " in line
    assert not entries(folder / "locked")


@pytest.mark.parametrize("shards", ["1", "3"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_export_that_is_ended_leaves_nothing_behind(folder, number, code, shards):
    """Ctrl-C, SIGTERM and a hang-up in the middle of a write end with the shell's code, silently, and what was written is gone."""
    with SmdaemonProcess(folder, "export", "a.npz", "out", "--shards", shards, held=True) as process:
        process.held()
        assert len(entries(folder)) == 2
        process.signal(number)
        assert process.ended() == (code, "")
        assert process.errors == []
    assert entries(folder) == ["a.npz"]


def test_an_export_under_nohup_outlives_its_terminal(folder):
    """A hang-up that is ignored stays ignored."""
    with SmdaemonProcess(folder, "export", "a.npz", "out", held=True, launcher=["nohup"]) as process:
        process.held()
        process.signal(signal.SIGHUP)
        process.release()
        assert process.ended()[0] == 0
    assert verify(folder / "out").tensors == 3


def test_python_dash_m(folder):
    """`python -m smdaemon export` is the same command."""
    argv = [sys.executable, "-m", "smdaemon", "export", "a.npz", "out"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("out: 3 tensors")
    assert verify(folder / "out").tensors == 3


def test_a_progress_bar_is_for_terminals(folder, capsys, monkeypatch):
    """On a terminal a bar is drawn on stderr and taken away; stdout has the result alone."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run(capsys, "export", "a.npz", "out", "--json")
    assert (code, json.loads(out)["tensors"]) == (0, 3)
    assert "verifying" in err


@pytest.mark.parametrize("source", ["a.npz", "a.npy", "a.safetensors"])
def test_an_export_loads_neither_the_daemon_nor_numpy(folder, source):
    """A cold export of a small model starts fast: what only the daemon or a caller of values needs is not imported."""
    from safetensors.numpy import save_file

    np.save(folder / "a.npy", np.ones(3))
    save_file({"a": np.ones(3, np.float16)}, folder / "a.safetensors")
    program = f"import sys; from smdaemon.cli.main import dispatch; dispatch(['export', {source!r}, 'out', '--quiet']); print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {
        "trio",
        "starlette",
        "hypercorn",
        "structlog",
        "apsw",
        "prometheus_client",
        "rich",
        "msgspec",
        "numpy",
        "ml_dtypes",
    }
    assert not heavy & set(ran.stdout.split("\n"))
    assert (folder / "out" / "saved_model.pb").is_file()


def test_the_package_alone_loads_nothing():
    """`import smdaemon` imports none of its rooms."""
    program = "import sys; import smdaemon; print(*(m for m in sys.modules if m.startswith('smdaemon') or m in ('numpy', 'trio')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["smdaemon"]


def test_graph_options_reach_the_plan(capsys, monkeypatch):
    """Each flag of a graph sets its field of the plan."""
    plans = []
    monkeypatch.setattr(cli_export, "_export_whole", lambda plan, *_: plans.append(plan) or cli_export.Exported(0, 0))
    options = "--tags serve gpu --template t --name-map a/*=* --missing keep --unused error --graph none --prune --main-op init"
    options += (
        " --mode train=g:train --mode predict=g --signature s:x=x:0,y=y:0->z=z:1 --devices soft --strip-default-attrs"
    )
    options += (
        " --debug-info drop --debug-info-map d.json --as-text --assets-extra n/a=b --warmup w.npz --io-device /job:w"
    )
    code, _, err = run(capsys, "export", "a.npz", "out", *options.split())
    assert (code, err) == (0, "")
    (plan,) = plans
    assert (plan.tags, plan.template, plan.name_map) == (("serve", "gpu"), Path("t"), {"a/*": "*"})
    assert (plan.missing, plan.unused, plan.graph, plan.prune, plan.main_op) == ("keep", "error", "none", True, "init")
    assert plan.modes == {"train": ModePlan(Path("g"), ("train",)), "predict": ModePlan(Path("g"))}
    assert plan.signatures == {"s": SignaturePlan({"x": "x:0", "y": "y:0"}, {"z": "z:1"})}
    assert (plan.devices, plan.strip_default_attrs, plan.debug_info, plan.as_text) == ("soft", True, "drop", True)
    assert (plan.debug_info_map, plan.assets_extra) == (Path("d.json"), {"n/a": Path("b")})
    assert (plan.warmup, plan.io_device) == (Path("w.npz"), "/job:w")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--signature", "nothing"], 2),
        (["--signature", "s:x=x:0"], 2),
        (["--mode", "train"], 2),
        (["--devices", "everywhere"], 1),
        (["--io-device", "/device:GPU:0"], 1),
        (["--template", "missing"], 1),
    ],
)
def test_graph_options_that_cannot_be_understood(capsys, options, code):
    """One line with what is wrong; nothing is written."""
    found, _, err = run(capsys, "export", "a.npz", "out", *options)
    assert (found, err.count("\n")) == (code, 1)
    assert not Path("out").exists()
