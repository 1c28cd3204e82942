"""The demonstration, as a stranger sees it."""

import os
import subprocess
import sys

from smdaemon.cli import demo
from smdaemon.cli.main import dispatch


def test_the_demonstration_runs_through():
    """`smdaemon demo` publishes, verifies, stops its daemon and leaves nothing."""
    ran = subprocess.run([sys.executable, "-m", "smdaemon", "demo"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    for part in ("published", "saved_model.pb", "fingerprint matches", "the daemon has stopped"):
        assert part in ran.stdout
    scratch = ran.stdout.split("--config ")[1].split("/config.toml")[0]
    assert "smdaemon-demo-" in scratch
    assert not os.path.lexists(scratch)


def test_a_demonstration_that_fails_says_so_and_leaves_nothing(monkeypatch, capfd, tmp_path):
    """With a code, and what the export said."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(
        demo, "_write_checkpoint", lambda path: path.write_bytes(b"no checkpoint, though it is long enough")
    )
    assert dispatch(["demo"]) == 1
    assert "(demo-failed)" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
