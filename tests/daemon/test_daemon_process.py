"""The daemon as a process: signals, its sockets and locks, a kill in the middle of an export, directories that refuse."""

import http.client
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from daemon_kit import write_config
from daemon_process import SmdaemonProcess

from smdaemon.savedmodel.verify import verify


@pytest.fixture
def root(tmp_path) -> Path:
    """A directory with a configuration and a watched directory."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path)
    return tmp_path


def daemon(root: Path, **options: bool) -> SmdaemonProcess:
    """A daemon on `root`; nothing is waited for."""
    return SmdaemonProcess(root, "run", "--config", "config.toml", **options)


def drop(root: Path, name: str, **arrays: np.ndarray) -> None:
    """A finished npz, renamed into the watched directory."""
    np.savez(root / "writing.npz", **(arrays or {"layer/0/kernel": np.ones((1024, 768), np.float32)}))
    (root / "writing.npz").rename(root / "runs" / name)


def published(root: Path) -> list[str]:
    """Everything in the publish directory, drafts too."""
    return sorted(path.name for path in (root / "models").iterdir())


def refused(process: SmdaemonProcess) -> str:
    """The one line of a command that ends with 1."""
    code, out = process.ended()
    assert (code, out, len(process.errors)) == (1, "", 1), process.errors
    return process.errors[0]


def test_sigterm_lets_a_running_export_finish(root):
    """The export that runs is published, then the daemon ends with 0; what drops meanwhile waits for the next start."""
    with daemon(root, held=True) as process:
        process.logged("running")
        drop(root, "ckpt-1.npz")
        process.held()
        process.signal(signal.SIGTERM)
        assert process.logged("draining")["running"] == 1
        drop(root, "ckpt-2.npz")
        process.release()
        assert process.ended() == (0, "")
        assert "stopped" in process.errors[-1]
        assert "Traceback" not in "".join(process.errors)
    assert published(root) == ["1"]
    verify(root / "models" / "1")
    assert not (root / "control.sock").exists()
    with daemon(root) as process:
        process.logged("job published")
        process.stop()
    assert published(root) == ["1", "2"]


def test_sigterm_can_let_the_queue_finish(root):
    """With drain_queue what is queued behind the running export is published before the daemon ends: a pod has no next start."""
    write_config(root, daemon="drain_queue = true")
    with daemon(root, held=True) as process:
        process.logged("running")
        drop(root, "ckpt-1.npz")
        process.held()
        drop(root, "ckpt-2.npz")
        while process.logged("job queued")["job"] != 2:
            pass
        process.signal(signal.SIGTERM)
        process.logged("draining")
        process.release()
        assert process.ended() == (0, "")
    assert published(root) == ["1", "2"]


def test_an_export_beyond_the_deadline_is_resumed(root):
    """After drain_seconds the export is stopped, the daemon ends with 0, no draft is left, and the next start exports."""
    write_config(root, daemon="drain_seconds = 0.05")
    with daemon(root, held=True) as process:
        process.logged("running")
        drop(root, "ckpt-1.npz")
        process.held()
        process.stop()
    assert published(root) == []
    _publishes_at_next_start(root)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(root, second):
    """The running export is not waited for; its job goes on at the next start, and its draft is gone."""
    write_config(root, daemon="drain_seconds = 3600")
    with daemon(root, held=True) as process:
        process.logged("running")
        drop(root, "ckpt-1.npz")
        process.held()
        process.signal(signal.SIGTERM)
        process.logged("draining")
        process.signal(second)
        assert process.ended() == (0, "")
        assert "Traceback" not in "".join(process.errors)
    assert published(root) == []
    _publishes_at_next_start(root)


def test_a_kill_in_the_middle_of_an_export_leaves_one_version(root):
    """After SIGKILL the draft is there and no version; the next start sweeps the one and publishes the other, once."""
    with daemon(root, held=True) as process:
        process.logged("running")
        drop(root, "ckpt-7.npz")
        process.held()
        (draft,) = (root / "models").iterdir()
        assert draft.name.startswith(".smdaemon-")
        assert not (draft / "saved_model.pb").exists()
        process.signal(signal.SIGKILL)
        assert process.ended() == (-signal.SIGKILL, "")
        assert (root / "control.sock").is_socket()
    _publishes_at_next_start(root, version="7")


def _publishes_at_next_start(root: Path, version: str = "1") -> None:
    """The one job is published by a daemon that starts now, and by no further one."""
    for _ in range(2):
        with daemon(root) as process:
            process.logged("running")
            job = process.job()
            assert (job["id"], job["state"]) == (1, "published")
            assert process.client.get("/v1/status")["jobs"] == {"published": 1}
            process.stop()
    assert published(root) == [version]
    verify(root / "models" / version)


def test_sighup_reads_the_configuration_again(root):
    """A change is named in the log and in force; a mistake is told in one line and changes nothing."""
    with daemon(root) as process:
        process.logged("running")
        write_config(root, daemon="workers = 5\nnice = 3", model='tags = ["serve", "gpu"]')
        process.signal(signal.SIGHUP)
        line = process.logged("configuration read")
        assert line["changes"] == ["daemon: workers 2 -> 5", "model 'ranker': tags [] -> ['serve', 'gpu']"]
        assert line["after_restart"] == ["nice"]
        assert process.client.get("/v1/status")["workers"] == 5
        write_config(root, daemon="workers = 0")
        process.signal(signal.SIGHUP)
        assert process.logged("configuration refused")["code"] == "config-invalid"
        assert process.client.get("/v1/status")["workers"] == 5
        process.stop()


def test_sighup_takes_a_new_token(root):
    """The old one is worth nothing then; a file that others can read is refused, and what was in force stays."""
    token = root / "token"

    def renew(text: str, mode: int = 0o600) -> None:
        token.write_text(text)
        token.chmod(mode)

    def acts(shown: str) -> int:
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("POST", "/v1/jobs/1/cancel", headers={"Authorization": f"Bearer {shown}"})
        status = connection.getresponse().status
        connection.close()
        return status

    renew("first-token-of-all")
    write_config(root, daemon=f'control_listen = "127.0.0.1:0"\ncontrol_token_file = "{token}"')
    with daemon(root) as process:
        address = next(each for each in process.logged("running")["control"] if "://" in each).removeprefix("http://")
        assert (acts("first-token-of-all"), acts("second-token-of-all")) == (404, 403)
        renew("second-token-of-all")
        process.signal(signal.SIGHUP)
        process.logged("configuration read")
        assert (acts("first-token-of-all"), acts("second-token-of-all")) == (403, 404)
        renew("third-token-of-all", 0o644)
        process.signal(signal.SIGHUP)
        assert "can be read by others" in process.logged("configuration refused")["reason"]
        token.unlink()
        process.signal(signal.SIGHUP)
        assert process.logged("configuration refused")["code"] == "config-invalid"
        assert (acts("second-token-of-all"), acts("third-token-of-all")) == (404, 403)
        process.stop()


def test_a_socket_that_nobody_answers_on_is_replaced(root):
    """The file of a dead daemon's socket does not keep the next one from starting."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(root / "control.sock"))
    with daemon(root) as process:
        process.logged("running")
        assert process.client.get("/v1/status")["phase"] == "running"
        process.stop()


def test_a_socket_that_is_answered_on_is_left_alone(root):
    """The daemon ends with 1 and one line, and the other process keeps its socket."""
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(root / "control.sock"))
        alive.listen()
        with daemon(root) as process:
            line = refused(process)
        assert line.startswith("error: another process answers on ")
        assert "(socket-in-use); stop the other daemon, or set another control_socket" in line
        assert (root / "control.sock").is_socket()


def test_a_state_directory_has_one_daemon(root):
    """The second daemon ends with 1 and names the first; when that is gone, even by a kill, the next may start."""
    other = root / "other.toml"
    other.write_text((root / "config.toml").read_text().replace("control.sock", "other.sock"))
    with daemon(root) as first:
        pid = first.logged("running") and first.client.get("/v1/status")["pid"]
        with SmdaemonProcess(root, "run", "--config", "other.toml") as second:
            line = refused(second)
        assert f"is in use by process {pid} (state-dir-locked); " in line
        first.signal(signal.SIGKILL)
        first.ended()
    with SmdaemonProcess(root, "run", "--config", "other.toml") as third:
        third.logged("running")
        third.stop()


def _below_a_file(root: Path) -> None:
    (root / "file").write_text("")
    _configure(root, "models", "file/models")


def _missing_parent(root: Path) -> None:
    _configure(root, "models", "volume/models")


def _read_only(root: Path) -> None:
    (root / "models").mkdir(mode=0o555)


def _configure(root: Path, old: str, new: str) -> None:
    config = root / "config.toml"
    config.write_text(config.read_text().replace(f'"{old}"', f'"{new}"'))


@pytest.mark.parametrize(
    ("spoil", "state", "code"),
    [
        (_below_a_file, "waiting", "directory-missing"),
        (_missing_parent, "waiting", "directory-missing"),
        (_read_only, "failed", "permission-denied"),
    ],
)
def test_a_publish_directory_that_refuses_fails_the_job_not_the_daemon(root, spoil, state, code):
    """The job says why and what to do; the daemon runs on and stops cleanly, without a traceback in its log."""
    spoil(root)
    with daemon(root, unprivileged=True) as process:
        process.logged("running")
        drop(root, "ckpt-1.npz")
        job = process.job(state)
        assert job["error"]["code"] == code
        assert job["error"]["remedy"]
        assert process.client.get("/v1/status")["phase"] == "running"
        process.stop()


def _state_below_a_file(root: Path) -> None:
    (root / "file").write_text("")
    _configure(root, "state", "file/state")


def _state_read_only(root: Path) -> None:
    (root / "state").mkdir(mode=0o555)


def _state_without_a_parent(root: Path) -> None:
    _configure(root, "state", "none/state")


def _journal_of_another(root: Path) -> None:
    (root / "state").mkdir()
    (root / "state" / "journal.sqlite").write_text("no database, but long enough to be looked at " * 30)


def _socket_read_only(root: Path) -> None:
    (root / "locked").mkdir(mode=0o555)
    _configure(root, "control.sock", "locked/control.sock")


def _socket_is_a_file(root: Path) -> None:
    (root / "control.sock").write_text("precious")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_state_below_a_file, "directory-missing"),
        (_state_read_only, "permission-denied"),
        (_state_without_a_parent, "directory-missing"),
        (_journal_of_another, "journal-corrupt"),
        (_socket_read_only, "socket-path"),
        (_socket_is_a_file, "socket-path"),
        (lambda root: (root / "config.toml").unlink(), "config-missing"),
        (lambda root: (root / "config.toml").write_text("[daemon]\n"), "config-invalid"),
    ],
)
def test_a_daemon_that_cannot_start_says_why_in_one_line(root, spoil, code):
    """It ends with 1; the line has the code and the remedy; nothing is logged, nothing raised."""
    spoil(root)
    with daemon(root, unprivileged=True) as process:
        line = refused(process)
    assert line.startswith("error: ")
    assert f" ({code}); " in line


def test_a_watched_directory_that_may_not_be_read_degrades_its_model(root):
    """The daemon runs; the status names the fault."""
    (root / "runs").chmod(0)
    with daemon(root, unprivileged=True) as process:
        process.logged("running")
        (model,) = process.client.get("/v1/models")["models"]
        assert (model["health"], model["error"]["code"]) == ("degraded", "permission-denied")
        process.stop()
