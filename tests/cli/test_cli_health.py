"""`smdaemon health`, as an orchestrator's probe runs it."""

import socket
import subprocess
import sys
import threading

import pytest

from smdaemon.cli.main import dispatch, make_app
from smdaemon.errors import ConfigError


def run(capsys, *argv):
    """Exit code, stdout and stderr of a command."""
    code = dispatch(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("argv", [["health"], ["health", "--ready"], ["health", "--timeout", "9"]])
def test_a_daemon_that_is_well(server, capsys, argv):
    """0, and one word."""
    assert run(capsys, *argv) == (0, "ok\n", "")


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (("is_ready", ["health", "--ready"], ["health"]), "takes no requests: it starts or drains"),
        (("is_healthy", ["health"], ["health", "--ready"]), "makes no progress"),
    ],
)
def test_a_daemon_that_is_not(server, capsys, probes, message):
    """1, and one line that says why; the other probe is another question."""
    attribute, failing, passing = probes
    setattr(server.backend, attribute, False)
    code, out, err = run(capsys, *failing)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: the daemon on '{server.path}' {message} (not-ready); ")
    assert err.count("\n") == 1
    assert run(capsys, *passing)[0] == 0


def test_no_daemon(tmp_path, capsys):
    """1, as every command where nobody answers."""
    code, _, err = run(capsys, "health", "--socket", str(tmp_path / "nobody"))
    assert code == 1
    assert "(no-daemon)" in err


def test_a_daemon_that_does_not_answer_in_time(tmp_path, capsys):
    """It accepts and says nothing: after the timeout that counts as an answer."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        code, _, err = run(capsys, "health", "--socket", str(tmp_path / "s"), "--timeout", "0.05")
    assert code == 1
    assert "no answer within 0.05 s (no-daemon)" in err


def test_what_answers_is_no_daemon(tmp_path, capsys):
    """Neither is this well."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()

        def answer():
            with other.accept()[0] as caller:
                caller.sendall(b"220 mail.example.org\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        code, _, err = run(capsys, "health", "--socket", str(tmp_path / "s"))
        thread.join()
    assert code == 1
    assert "(no-daemon)" in err


def test_the_same_with_and_without_the_parser(server, capsys):
    """A probe is run without the parser of command lines; its way does the same."""
    argv = ["health", "--ready", "--socket", str(server.path)]
    plain = run(capsys, *argv)
    make_app()(argv, exit_on_error=False, print_error=False)
    assert plain == (0, capsys.readouterr().out, "")
    server.backend.is_ready = False
    plain = run(capsys, *argv)
    with pytest.raises(ConfigError) as caught:
        make_app()(argv, exit_on_error=False, print_error=False)
    assert plain[0] == 1
    assert caught.value.message in plain[2]


@pytest.mark.parametrize("flags", [[], ["--ready"], ["--ready", "--socket", "/nobody"], ["--socket", "/nobody"]])
def test_a_probe_does_not_import_the_parser(flags):
    """That would take two thirds of its time, every few seconds."""
    program = f"import sys; from smdaemon.cli.main import dispatch; print(dispatch({['health', *flags]!r})); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, modules = ran.stdout.splitlines()
    assert code == "1"
    assert "smdaemon.cli.probe" in modules.split()
    assert not {"cyclopts", "structlog", "trio"} & set(modules.split())


@pytest.mark.parametrize("argv", [["health", "--raedy"], ["health", "now"], ["health", "--socket"]])
def test_a_command_line_that_is_off(capsys, argv):
    """2, by the parser."""
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "(usage)" in err
