"""What comes of a drop that cannot be taken: it costs itself, and no other drop."""

import errno
import os

import numpy as np
import pytest
from safetensors.numpy import save
from structlog.testing import capture_logs

from smdaemon.daemon import intake, watches
from smdaemon.errors import fault


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.export.json", b'{"source": "ckpt-1.npz"}', "read_request"),
        ("model.safetensors", save({"w": np.ones(3)}, {"step": "9"}), "open_source"),
    ],
)
async def test_a_file_that_cannot_be_read_holds_up_no_other(started, monkeypatch, name, content, where):
    """A request, and a drop whose step only a look into it tells: tried again by itself, while others are taken."""
    broken = {name}
    real = getattr(intake, where)

    def refusing(path, *arguments):
        if path.name in broken:
            raise fault(OSError(errno.EIO, os.strerror(errno.EIO), str(path)), "reading")
        return real(path, *arguments)

    monkeypatch.setattr(intake, where, refusing)
    monkeypatch.setattr(watches, "delay", lambda _tries, _rng: 0.01)
    with capture_logs() as logs:
        async with started() as running:
            (running.runs / name).write_bytes(content)
            running.drop("ckpt-1.npz")
            running.drop("ckpt-2.npz")
            jobs = await running.ended(2)
            assert {(job["version"], job["state"]) for job in jobs} == {(1, "published"), (2, "published")}
            refused = [entry for entry in logs if entry["event"] == "drop not accepted yet"]
            assert {(entry["path"], entry["code"]) for entry in refused} == {(str(running.runs / name), "io-error")}
            broken.clear()
            *_, late = await running.ended(3)
            assert late["state"] == "published"
