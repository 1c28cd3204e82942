"""The command as a whole: help, version, exit codes, lazy imports, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import smdaemon
from smdaemon.cli import main as cli_main
from smdaemon.cli.main import GROUPS, dispatch, main
from smdaemon.errors import EnvironmentFault

COMMANDS = [command for commands in GROUPS.values() for command in commands]


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(capsys, argv):
    """The help has one line for every command."""
    assert dispatch(argv) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name:<14}{command.help}\n" in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    "name",
    ["check-config", "status", "jobs", "show", "cancel", "retry", "versions", "pin", "prune", "rollback", "completion"],
)
def test_help_of_a_command(capsys, name):
    """Every command has a help of its own, which its line in the list agrees with."""
    assert dispatch([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: smdaemon {name}" in out


@pytest.mark.parametrize("argv", [["--version"], ["status", "--version"]])
def test_version(capsys, argv):
    """The version is printed, wherever it is asked for."""
    assert dispatch(argv) == 0
    assert capsys.readouterr().out.split()[-1] == smdaemon.__version__


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["sttus"], "error: there is no command 'sttus'; did you mean 'status' (usage); see: smdaemon --help\n"),
        (["--socket", "x"], "error: there is no command '--socket' (usage); see: smdaemon --help\n"),
        (["a\x1b\nb"], "error: there is no command 'a\\x1b\\nb' (usage); see: smdaemon --help\n"),
    ],
)
def test_unknown_command(capsys, argv, line):
    """A command that there is not is a usage error with the nearest one."""
    assert dispatch(argv) == 2
    assert capsys.readouterr().err == line


def test_main_exits_with_the_code(capsys):
    """The entry point ends the process with the code."""
    with pytest.raises(SystemExit) as caught:
        main(["nothing"])
    assert caught.value.code == 2


def test_nothing_heavy_for_help():
    """Help and version import none of the libraries that the commands need."""
    program = "import sys; from smdaemon.cli.main import dispatch; dispatch(['--help']); print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"cyclopts", "rich", "trio", "google.protobuf", "numpy", "http.client", "starlette", "structlog"}
    assert not heavy & set(ran.stdout.split("\n"))


def test_asking_the_daemon_needs_no_daemon_libraries():
    """A command that asks the daemon imports neither the server nor protobuf."""
    program = (
        "import sys; from smdaemon.cli.main import dispatch; "
        "dispatch(['show', '1', '--socket', '/nowhere']); print(*sys.modules, sep='\\n')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "no-daemon" in ran.stderr
    assert not {"trio", "google.protobuf", "numpy", "starlette", "structlog"} & set(ran.stdout.split("\n"))


def test_closed_pipe_is_no_error():
    """A reader that leaves early, such as head, causes no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-m", "smdaemon", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_interrupt(monkeypatch):
    """Ctrl-C ends a command with the code that shells report for it."""

    def interrupted(_argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main, "_call", interrupted)
    assert dispatch(["status"]) == 130


def test_environment_fault_fails(monkeypatch, capsys):
    """A fault of the machine is a failure, not a usage error."""

    def faulty(_argv):
        raise EnvironmentFault("disk-full", "no space left on '/a\x07'")

    monkeypatch.setattr(cli_main, "_call", faulty)
    assert dispatch(["run"]) == 1
    assert capsys.readouterr().err.startswith("error: no space left on '/a\\x07' (disk-full); free some space")


def test_bug_shows_its_traceback(monkeypatch):
    """What was not foreseen is not made into an error line."""

    def buggy(_argv):
        raise ZeroDivisionError

    monkeypatch.setattr(cli_main, "_call", buggy)
    with pytest.raises(ZeroDivisionError):
        dispatch(["run"])


@pytest.mark.parametrize(("text", "code", "part"), [("good", 0, "ok: 1 model\n"), ("bad", 1, "config-")])
def test_check_config(tmp_path, capsys, text, code, part):
    """A configuration is counted, or its mistake is told in one line."""
    texts = {
        "good": '[daemon]\nstate_dir = "state"\ncontrol_socket = "s"\n[[model]]\nname = "m"\nwatch = "w"\npublish = "p"\n',
        "bad": "[daemon\n",
    }
    (tmp_path / "w").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(texts[text])
    assert dispatch(["check-config", "--config", str(path)]) == code
    captured = capsys.readouterr()
    assert part in captured.out + captured.err
    assert (captured.out + captured.err).count("\n") == 1


def test_check_config_bears_what_cannot_be_looked_at(tmp_path, capsys, monkeypatch):
    """A socket at the very top, and a directory that does not let the caller in."""

    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("smdaemon.daemon.preflight.is_directory", refuse)
    path = tmp_path / "config.toml"
    path.write_text('[daemon]\nstate_dir = "state"\ncontrol_socket = "/c.sock"\n')
    assert dispatch(["check-config", "--config", str(path)]) == 0
    said = capsys.readouterr().err
    assert "the directory above that of control_socket cannot be looked at: '/': permission denied" in said


def test_check_config_warns_of_what_this_machine_has_not(tmp_path, capsys):
    """A daemon starts all the same, and waits for it: each thing is named, in one line."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[daemon]\nstate_dir = "a/state"\ncontrol_socket = "b/c/s"\ncontrol_users = ["no-such-user"]\n'
        '[[model]]\nname = "m"\nwatch = "w"\npublish = "d/p"\ntemplate = "t"\nvalidator = ["no-such-command"]\n'
        '[model.assets_extra]\n"x/y" = "z"\n[model.modes.eval]\ntemplate = "e"\n'
        '[[notify]]\nname = "n"\ncommand = ["./hook"]\n[[notify]]\nname = "h"\nwebhook = "https://h/"\nsecret_file = "k"\n'
        '[serving]\nconfig_file = "f/models.config"\n'
    )
    assert dispatch(["check-config", "--config", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "ok: 1 model, 12 warnings\n"
    said = captured.err.replace(str(tmp_path), "").splitlines()
    assert said == [
        f"warning: {each}"
        for each in (
            "the directory above state_dir is not there: '/a'",
            "the directory above that of control_socket is not there: '/b'",
            "control_users: there is no user 'no-such-user'",
            "model 'm': watch is not there: '/w'",
            "model 'm': the directory above publish is not there: '/d'",
            "model 'm': template is not there: '/t'",
            "model 'm': assets_extra 'x/y' is not there: '/z'",
            "model 'm': the template of mode eval is not there: '/e'",
            "model 'm': validator: no such command: 'no-such-command'",
            "notifier 'n': command: no such command: '/hook'",
            "notifier 'h': secret_file is not there: '/k'",
            "the directory of config_file is not there: '/f'",
        )
    ]


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ('control_token_file = "token"', "is not there"),
        ('control_token_file = "readable"', "can be read by others"),
        (
            'control_token_file = "private"\ncontrol_tls_cert = "private"\ncontrol_tls_key = "private"',
            "cannot be used",
        ),
        ('control_group = "no-such-group"', "there is no group"),
    ],
)
def test_check_config_refuses_what_a_start_refuses(tmp_path, capsys, lines, part):
    """Files and groups are looked at as a start does."""
    for name, mode in (("readable", 0o644), ("private", 0o600)):
        (tmp_path / name).write_text("0123456789abcdef0123\n")
        (tmp_path / name).chmod(mode)
    path = tmp_path / "config.toml"
    path.write_text(f'[daemon]\nstate_dir = "state"\ncontrol_socket = "s"\n{lines}\n')
    assert dispatch(["check-config", "--config", str(path)]) == 1
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys, shell):
    """The script completes every command and the options of each."""
    assert dispatch(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command.name in script for command in COMMANDS)
    assert "socket" in script


def test_completion_is_installed(tmp_path, capsys, monkeypatch):
    """--install puts the script where the shell looks for it and leaves start-up files alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert dispatch(["completion", "bash", "--install"]) == 0
    path = capsys.readouterr().out.removeprefix("written to ").strip()
    assert path.startswith(str(tmp_path))
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [Path(path)]


@pytest.mark.parametrize("flag", ["--config", "-c"])
def test_run_without_a_configuration(tmp_path, capsys, flag):
    """The daemon does not start without a configuration; one line says so."""
    assert dispatch(["run", flag, str(tmp_path / "none.toml")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "(config-missing); give the path of a readable file with --config" in err


def test_a_full_or_closed_stdout_is_no_crash():
    """Output that cannot be written is one line on stderr and exit code 1; without a stdout there is nobody to tell."""
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        refused = subprocess.run(
            [sys.executable, "-m", "smdaemon", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [b"error: what was to be printed could not be: no space left on device"]
    closed = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'smdaemon', '--help'])"
    silent = subprocess.run([sys.executable, "-c", closed], stderr=subprocess.PIPE, check=False)
    assert (silent.returncode, silent.stderr) == (0, b"")
