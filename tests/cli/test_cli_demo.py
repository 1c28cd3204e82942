"""The demonstration, as a stranger sees it."""

import os
import subprocess
import sys


def test_the_demonstration_runs_through():
    """`smdaemon demo` publishes, verifies, stops its daemon and leaves nothing."""
    ran = subprocess.run([sys.executable, "-m", "smdaemon", "demo"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    for part in ("published", "saved_model.pb", "fingerprint matches", "the daemon has stopped"):
        assert part in ran.stdout
    scratch = ran.stdout.split("--config ")[1].split("/config.toml")[0]
    assert "smdaemon-demo-" in scratch
    assert not os.path.lexists(scratch)
