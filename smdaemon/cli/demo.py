"""`smdaemon demo`: all of it once, in a scratch directory, with the real daemon in a process of its own."""

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from smdaemon.cli.client import Client, Json
from smdaemon.cli.output import progress
from smdaemon.errors import ConfigError
from smdaemon.jobs.states import TERMINAL

STEP = 41
_PATIENCE_SECONDS = 30.0


def demo() -> None:
    """Start a daemon on a scratch directory, drop a checkpoint, watch it being published, verify it, stop the daemon."""
    with tempfile.TemporaryDirectory(prefix="smdaemon-demo-") as scratch:
        root = Path(scratch)
        config = _scratch_config(root)
        _say(f"a daemon on a scratch copy of config.toml: smdaemon run --config {config}")
        with _daemon(config, root) as socket:
            _drop_and_show(root, socket)
        _say("the daemon has stopped, and the scratch directory goes with it")


def _drop_and_show(root: Path, socket: Path) -> None:
    """Drop a checkpoint and show what becomes of it."""
    from smdaemon.cli.status import status
    from smdaemon.cli.verify import verify

    drop = root / "runs" / "ranker" / f"ckpt-{STEP}.safetensors"
    _say(f"a training loop finishes a checkpoint: {drop.relative_to(root)}")
    partial = drop.with_suffix(".tmp")
    _write_checkpoint(partial)
    partial.rename(drop)
    job = _follow(Client(str(socket)))
    if job["state"] != "published":
        error = job.get("error", {})
        raise ConfigError("demo-failed", f"the export ended as {job['state']}: {error.get('message', '')}")
    _say("what TensorFlow Serving sees:")
    for path in sorted((root / "models").rglob("*")):
        depth = len(path.relative_to(root).parts) - 1
        size = "" if path.is_dir() else f"  ({path.stat().st_size:,} bytes)"
        print(f"  {'  ' * depth}{path.name}{'/' if path.is_dir() else ''}{size}")
    _say(f"smdaemon status --socket {socket}")
    status(socket=str(socket))
    _say(f"smdaemon verify {job['export_dir']}")
    verify(Path(job["export_dir"]))


def _follow(client: Client) -> Json:
    """Print each state of the first job as it is reached; the job as it ended."""
    for event in client.events(after=0):
        job: Json = event.data["job"]
        print(f"  job {job['id']}  {job['state']:<11} {progress(job)}", flush=True)
        if job["state"] in TERMINAL:
            return job
    raise ConfigError("no-daemon", "the daemon ended before the export did")


@contextmanager
def _daemon(config: Path, root: Path) -> Iterator[Path]:
    """A running daemon's control socket; it is asked to stop at the end of the block and must exit with 0."""
    socket = root / "run" / "smdaemon" / "control.sock"
    with (root / "daemon.log").open("wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, on a path that we made
            [sys.executable, "-m", "smdaemon", "run", "--config", str(config)],
            stderr=log_file,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_until_ready(process, socket, root / "daemon.log")
        yield socket
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=_PATIENCE_SECONDS)
    if code != 0:
        raise _failed(f"the daemon exited with {code}", root / "daemon.log")


def _wait_until_ready(process: "subprocess.Popen[bytes]", socket: Path, log_file: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if Client(str(socket)).get("/v1/status")["phase"] == "running":
                return
        except ConfigError:  # nobody listens yet
            time.sleep(0.02)
    raise _failed("the daemon did not come up", log_file)


def _failed(message: str, log_file: Path) -> ConfigError:
    """The error of a daemon that did not do its part, after its log has been shown."""
    print(log_file.read_text(), file=sys.stderr)
    return ConfigError("demo-failed", message)


def _scratch_config(root: Path) -> Path:
    """A copy of the shipped configuration with every absolute path moved below `root`, and the directories that it names."""
    text = _shipped_config().replace('"/', f'"{root}/')
    for folder in ("runs/ranker", "models", "var/lib", "run/smdaemon"):
        (root / folder).mkdir(parents=True)
    path = root / "config.toml"
    path.write_text(text)
    return path


def _shipped_config() -> str:
    """config.toml: beside the package in a checkout, inside it in a wheel."""
    checkout = Path(__file__).parents[2] / "config.toml"
    packaged = files("smdaemon").joinpath("config.example.toml")
    return checkout.read_text() if checkout.is_file() else packaged.read_text()


def _write_checkpoint(path: Path) -> None:
    """A small two-layer ranker as safetensors, bf16 among its tensors: about 260 MiB, so that there is progress to see."""
    import numpy as np

    rng = np.random.default_rng(STEP)
    values: dict[str, tuple[str, np.ndarray]] = {"embedding": ("F32", rng.standard_normal((65536, 1024), np.float32))}
    for layer, (rows, columns) in enumerate([(1024, 1024), (1024, 128)]):
        kernel = rng.standard_normal((rows, columns), np.float32)
        values[f"layer/{layer}/kernel"] = ("BF16", (kernel.view(np.uint32) >> 16).astype(np.uint16))
        values[f"layer/{layer}/bias"] = ("F32", np.zeros(columns, np.float32))
    values["optimizer/step"] = ("I64", np.array(STEP))
    header: dict[str, object] = {"__metadata__": {"step": str(STEP)}}
    offset = 0
    for name, (dtype, value) in values.items():
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _dtype, value in values.values():
            file.write(value.tobytes())
        os.fsync(file.fileno())


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)
