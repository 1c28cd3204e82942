"""Sockets that the service manager opened: served, never removed, refused where they cannot serve."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from structlog.testing import capture_logs

from smdaemon import systemd
from smdaemon.cli.client import Client
from smdaemon.daemon.inherited import inherited
from smdaemon.errors import ConfigError
from smdaemon.handoff import attach
from smdaemon.settings import DaemonSettings

HANDOFF = 'handoff_socket = "handoff.sock"'
PATIENCE_SECONDS = 60


@pytest.fixture
def root(tmp_path):
    """Directories, and a configuration with a handoff socket."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, daemon=HANDOFF)
    return tmp_path


@pytest.fixture
def activate():
    """The real systemd-socket-activate."""
    found = shutil.which("systemd-socket-activate")
    if found is None:
        pytest.skip(
            "systemd-socket-activate is not installed (apt-get install systemd): activation is not tried with it"
        )
    return found


def settings(root: Path, **changes: object) -> DaemonSettings:
    """Settings with sockets in `root`."""
    known = {"control_socket": str(root / "control.sock"), "handoff_socket": str(root / "handoff.sock")}
    return DaemonSettings(state_dir=str(root / "state"), **(known | changes))


def listening(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A listening unix socket, blocking, as systemd hands them over."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_the_control_socket_by_systemd_socket_activate(root, activate):
    """The real launcher starts the daemon at the first connection; its socket is served, and is there when the daemon has ended."""
    launcher = [activate, "-l", str(root / "control.sock"), "--fdname=control"]
    with SmdaemonProcess(root, "run", "--config", "config.toml", launcher=launcher) as process:
        process.said("Listening on ")
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(root / "control.sock"))
        process.logged("running")
        status = process.client.get("/v1/status")
        assert status["phase"] == "running"
        process.stop()
    assert (root / "control.sock").is_socket()
    assert not (root / "handoff.sock").exists()  # that one was the daemon's own


def test_the_handoff_socket_by_systemd_socket_activate(root, activate):
    """A trainer that connects starts the daemon, and hands over."""
    launcher = [activate, "--seqpacket", "-l", str(root / "handoff.sock"), "--fdname=handoff"]
    with SmdaemonProcess(root, "run", "--config", "config.toml", launcher=launcher) as process:
        process.said("Listening on ")
        with attach(root / "handoff.sock") as sidecar:
            outcome = sidecar.save(3, {"w": np.ones(100, np.float32)}, model="ranker").result(PATIENCE_SECONDS)
        assert (outcome.state, outcome.version) == ("published", 3)
        process.stop()
    assert (root / "handoff.sock").is_socket()
    assert not (root / "control.sock").exists()


def test_both_sockets_a_port_and_a_stranger(root):
    """All in one list: each goes where its name says, the stranger is closed with a warning, and callers are answered at all addresses."""
    control, handoff = listening(root / "control.sock"), listening(root / "handoff.sock", socket.SOCK_SEQPACKET)
    port = socket.create_server(("127.0.0.1", 0))
    stranger = listening(root / "stranger.sock")
    handed = [
        ("control", control.fileno()),
        ("smdaemon.socket", stranger.fileno()),
        ("handoff", handoff.fileno()),
        ("control", port.fileno()),
    ]
    with SmdaemonProcess(root, "run", "--config", "config.toml", handed=handed) as process:
        address = f"http://127.0.0.1:{port.getsockname()[1]}"
        assert process.logged("descriptor of an unknown name closed")["name"] == "smdaemon.socket"
        assert process.logged("running")["control"] == [str(root / "control.sock"), address]
        owner, anyone = process.client.get("/v1/status"), Client(address).get("/v1/status")
        assert (owner.pop("may_act"), anyone.pop("may_act")) == (True, False)
        assert owner == anyone
        with attach(root / "handoff.sock") as sidecar:
            assert sidecar.connected
        process.stop()
    for each in (control, handoff, port, stranger):
        each.close()
    assert sorted(path.name for path in root.glob("*.sock")) == ["control.sock", "handoff.sock", "stranger.sock"]


def test_a_connection_made_while_the_daemon_is_away_is_answered(root):
    """What makes a restart invisible: the socket stays open, and who connects meanwhile waits."""
    control = listening(root / "control.sock")
    handed = [("control", control.fileno())]
    with SmdaemonProcess(root, "run", "--config", "config.toml", handed=handed) as process:
        process.logged("running")
        process.stop()
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(root / "control.sock"))
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with SmdaemonProcess(root, "run", "--config", "config.toml", handed=handed) as process:
            early.settimeout(PATIENCE_SECONDS)
            assert early.recv(100).startswith(b"HTTP/1.1 200")
            process.logged("running")
            process.stop()
    control.close()


def test_a_socket_that_cannot_serve_ends_the_start_in_one_line(root):
    """A stream socket named handoff: refused, with the remedy."""
    wrong = listening(root / "wrong.sock")
    with SmdaemonProcess(root, "run", "--config", "config.toml", handed=[("handoff", wrong.fileno())]) as process:
        code, _ = process.ended()
    wrong.close()
    assert code == 1
    (line,) = process.errors
    assert line.startswith(
        "error: the socket handed over as 'handoff' is not a SOCK_SEQPACKET unix socket: AF_UNIX, SOCK_STREAM"
    )
    assert "(socket-inherited); correct ListenStream=" in line


def _sequenced(root: Path) -> socket.socket:
    return listening(root / "s", socket.SOCK_SEQPACKET)


def _datagram(root: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(str(root / "s"))
    return bound


def _silent(root: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(root / "s"))
    return bound


def _port(_root: Path) -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("control", _sequenced, "is not a stream socket"),
        ("control", _datagram, "is not a stream socket"),
        ("control", _silent, "does not listen"),
        ("handoff", _port, "is not a SOCK_SEQPACKET unix socket"),
        ("handoff", _silent, "is not a SOCK_SEQPACKET unix socket"),
    ],
)
def test_sockets_of_the_wrong_kind_are_refused_and_closed(root, name, make, message):
    """Family, type, and whether it listens at all."""
    fd = make(root).detach()
    with pytest.raises(ConfigError) as refused, inherited([(name, fd)], settings(root)):
        pytest.fail("it was taken")
    assert refused.value.code == "socket-inherited"
    assert message in refused.value.message
    assert closed(fd)


def closed(fd: int) -> bool:
    """Whether nothing is open under that number."""
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_a_file_is_no_socket(root):
    """Whatever its name says."""
    with (root / "config.toml").open() as file:
        with pytest.raises(ConfigError) as refused, inherited([("control", file.fileno())], settings(root)):
            pytest.fail("it was taken")
        assert refused.value.code == "socket-inherited"


def test_a_handoff_socket_that_nobody_asked_for_is_a_contradiction(root):
    """The .socket unit is enabled, the configuration says none: trainers would wait for ever on it."""
    fd = _sequenced(root).detach()
    with pytest.raises(ConfigError) as refused, inherited([("handoff", fd)], settings(root, handoff_socket="")):
        pytest.fail("it was taken")
    assert refused.value.code == "config-conflict"
    assert closed(fd)


def test_a_path_that_is_not_the_configured_one_is_told(root):
    """The socket that was handed over is served; commands that look at the configured path would not find it."""
    fd = listening(root / "elsewhere.sock").detach()
    with capture_logs() as logged, inherited([("control", fd)], settings(root)) as found:
        assert found.control_is_unix
        assert not found.control_is_network
        assert not found.control[0].getblocking()
    assert [(line["event"], line["handed_over"]) for line in logged] == [
        ("listening elsewhere than configured", [str(root / "elsewhere.sock")])
    ]


def test_what_was_kept_is_sorted_out_by_name(root):
    """Segments and plans of the descriptor store come in the same list."""
    kept = [os.memfd_create("a"), os.memfd_create("b")]
    handed = [
        ("handoff-segment-x-1", kept[0]),
        ("control", listening(root / "s").detach()),
        ("handoff-plan-x-1", kept[1]),
    ]
    with inherited(handed, settings(root)) as found:
        assert found.stored == [handed[0], handed[2]]
        assert len(found.control) == 1
    for fd in kept:
        os.close(fd)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "2"},
        {"LISTEN_FDS": "2", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ""},
    ],
)
def test_what_is_not_for_us_is_not_taken(environment):
    """Variables of another process, or nonsense; they are gone afterwards, so that no child takes them for its own."""
    assert systemd.handed_over(environment) == []
    assert environment == {}


def test_names_that_are_missing_are_empty(monkeypatch):
    """Without LISTEN_FDNAMES nothing says what a descriptor is for; it is not passed on to children."""
    fd = os.memfd_create("x", 0)
    monkeypatch.setattr(systemd, "FIRST_FD", fd)
    os.set_inheritable(fd, True)
    assert systemd.handed_over({"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}) == [("", fd)]
    assert not os.get_inheritable(fd)
    os.close(fd)
