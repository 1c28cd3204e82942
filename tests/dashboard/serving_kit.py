"""A daemon with its dashboard on a loopback port, that may be stopped and started again on the same one."""

import select
import socket
import socketserver
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from daemon_kit import write_config
from daemon_process import SmdaemonProcess

TOKEN = "0123456789abcdef0123456789abcdef"


def free_port() -> int:
    """A port that nobody listens on, for a daemon that is to come back to it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Serving:
    """A daemon that serves the dashboard on `origin`; it may be stopped and started again."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.token = TOKEN
        self.origin = f"http://127.0.0.1:{free_port()}"
        self._stack = stack
        (root / "runs").mkdir()
        (root / "token").touch(mode=0o600)
        (root / "token").write_text(TOKEN)

    def configure(self, *, daemon: str = "", model: str = "") -> Path:
        """Write the configuration, with further lines for its tables."""
        address = self.origin.removeprefix("http://")
        lines = f'control_listen = "{address}"\ncontrol_token_file = "token"\n{daemon}'
        return write_config(self.root, daemon=lines, model=model)

    def start(self, *, held: bool = False) -> SmdaemonProcess:
        """The daemon, once it runs."""
        process = SmdaemonProcess(self.root, "run", "--config", "config.toml", held=held)
        self._stack.enter_context(process)
        process.logged("running")
        self.client = process.client
        return process

    def drop(self, name: str, size: int = 12) -> None:
        """A finished npz of so many floats, renamed into the watched directory."""
        np.savez(self.root / "writing.npz", **{"layer/0/kernel": np.arange(size, dtype=np.float32)})
        (self.root / "writing.npz").rename(self.root / "runs" / name)


class Forwarder:
    """A loopback port whose connections end at a unix socket, as `ssh -L PORT:PATH` makes it; a context manager for its origin."""

    def __init__(self, path: Path) -> None:
        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.socket(socket.AF_UNIX) as far:
                    far.connect(str(path))
                    _carry(self.request, far)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _carry(near: socket.socket, far: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    other = {near: far, far: near}
    while True:
        for each in select.select(list(other), [], [])[0]:
            if not (data := each.recv(65536)):
                return
            other[each].sendall(data)
