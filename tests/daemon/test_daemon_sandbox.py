"""The daemon inside the sandbox of its unit: drops, requests, handoffs, exports in a child process, and what it must not be able to do."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from sandboxed import NOBODY

from smdaemon.export.isolated import LARGE_GRAPH_BYTES
from smdaemon.handoff import attach
from smdaemon.savedmodel import write_weights
from smdaemon.savedmodel.verify import verify
from smdaemon.tensorbundle import ArrayTensor

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "smdaemon.service"
PATIENCE_SECONDS = 60
KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
pytestmark = pytest.mark.root


def obstacle() -> str:
    """Why the sandbox cannot be had here; empty where it can."""
    if os.geteuid() != 0:
        return "it takes root to make a sandbox"
    for tool in ("unshare", "systemd-analyze"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "mount", "-t", "proc", "-o", "hidepid=invisible", "proc", "/proc"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip()


@pytest.fixture
def sandbox(tmp_path_factory):
    """A directory that the sandbox may write, and the launcher that makes the sandbox."""
    if reason := obstacle():
        pytest.skip(f"THE UNIT'S SANDBOX IS NOT TRIED: {reason}")
    root = Path("/tmp").resolve() / f"smdaemon-sandbox-{os.getpid()}"  # pytest's own directories are for root alone
    root.mkdir(mode=0o755)
    (root / "runs").mkdir()
    write_config(root, daemon=f'handoff_socket = "handoff.sock"\nhandoff_users = ["{os.getuid()}"]')
    for path in (root, *root.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    script = Path(__file__).with_name("sandboxed.py")
    yield root, ["unshare", "--mount", "--net", sys.executable, str(script), str(UNIT), str(root)]
    shutil.rmtree(root)


def drop(root: Path, name: str, **arrays: np.ndarray) -> None:
    """A drop that the daemon's user may read."""
    np.savez(root / "writing.npz", **arrays)
    (root / "writing.npz").rename(root / "runs" / name)


def large_template(root: Path) -> Path:
    """A SavedModel whose graph is so large that its export runs in a child process: by a field that nobody knows."""
    template = root / "template"
    write_weights(template, {"kernel": ArrayTensor(np.zeros_like(KERNEL))})
    padding = LARGE_GRAPH_BYTES + 1
    length = bytes(
        [
            padding >> shift & 0x7F | (0x80 if padding >> shift + 7 else 0)
            for shift in range(0, 28, 7)
            if padding >> shift
        ]
    )
    with (template / "saved_model.pb").open("ab") as file:
        file.write(b"\xc2\x3e" + length + bytes(padding))  # field 1000, length-delimited
    return template


def test_the_daemon_works_inside_its_units_sandbox(sandbox):
    """A drop, an export in a child process, a handoff whose segment both read by /proc/PID/fd; versions can be read by others; a clean stop."""
    root, launcher = sandbox
    with SmdaemonProcess(root, "run", "--config", "config.toml", launcher=launcher) as process:
        process.logged("running")
        drop(root, "ckpt-1.npz", kernel=KERNEL)
        assert process.logged("job published")["job"] == 1
        request = {
            "model": "ranker",
            "source": str(root / "runs" / "ckpt-2.npz"),
            "template": str(large_template(root / "runs")),
        }
        (root / "runs" / ".later.npz").write_bytes((root / "runs" / "ckpt-1.npz").read_bytes())
        (root / "runs" / ".later.npz").rename(root / "runs" / "ckpt-2.npz")
        process.client.post("/v1/exports", request | {"version": 12})
        published = [process.logged("job published")["job"] for _ in range(2)]
        assert len(published) == 2
        with attach(root / "handoff.sock") as sidecar:
            options = {"template": request["template"], "version": 13}
            outcome = sidecar.save(3, {"kernel": KERNEL}, model="ranker", **options).result(PATIENCE_SECONDS)
            assert (outcome.state, outcome.version) == ("published", 13), outcome
            outcome = sidecar.save(4, {"kernel": KERNEL}, model="ranker", on_busy="wait").result(PATIENCE_SECONDS)
            assert (outcome.state, outcome.version) == ("published", 4), outcome
        process.stop()
    for version in ("1", "2", "4", "12", "13"):
        verify(root / "models" / version)
    found = (root / "models" / "1").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NOBODY, 0o755)


def test_a_port_is_refused_inside_the_sandbox_in_one_line(sandbox):
    """control_listen has no effect but an error: a port is the socket unit's to open."""
    root, launcher = sandbox
    write_config(root, daemon='control_listen = "127.0.0.1:0"')
    with SmdaemonProcess(root, "run", "--config", "config.toml", launcher=launcher) as process:
        code, _ = process.ended()
    assert code == 1
    assert "address family not supported" in process.errors[-1].lower()


def test_a_port_that_is_handed_over_is_served_inside_the_sandbox(sandbox):
    """The way to have one: it was opened outside."""
    from smdaemon.cli.client import Client

    root, launcher = sandbox
    listener = socket.create_server(("127.0.0.1", 0))
    handed = [("control", listener.fileno())]
    with SmdaemonProcess(root, "run", "--config", "config.toml", launcher=launcher, handed=handed) as process:
        process.logged("running")
        assert Client(f"http://127.0.0.1:{listener.getsockname()[1]}").get("/v1/status")["phase"] == "running"
        process.stop()
    listener.close()


def test_what_the_sandbox_forbids_is_forbidden(sandbox):
    """The sandbox of these tests is one: no network, no writing elsewhere, no executable memory, no sight of other users' processes."""
    root, launcher = sandbox
    program = """
import mmap, os, socket
def refused(what):
    try:
        what()
    except OSError as error:
        return error.strerror
print(refused(lambda: socket.socket(socket.AF_INET)))
print(refused(lambda: open("/var/tmp/x", "w")))
print(refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)))
print(refused(lambda: os.chown("config.toml", 0, 0)))
print(os.path.exists("/proc/1"), os.path.exists(f"/proc/{os.getpid()}/fd/1"))
"""
    said = subprocess.run(
        [*launcher, sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    lines = said.stdout.splitlines()
    assert lines[0] == "Address family not supported by protocol"
    assert lines[1] == "Read-only file system"
    assert lines[2] == "Permission denied" or "kernel is too old" in said.stderr
    assert lines[3] == "Operation not permitted"
    assert lines[4] == "False True"
