"""What `smdaemon health` does, without the parser of command lines: a probe is run every few seconds."""

from smdaemon.cli.client import Client
from smdaemon.errors import ConfigError

TIMEOUT_SECONDS = 5.0


def probe(socket: str | None, *, ready: bool, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Print ok if the daemon makes progress or, with `ready`, takes requests. ConfigError `not-ready`, `no-daemon` otherwise."""
    client = Client(socket, timeout_seconds=timeout_seconds)
    if not client.probe("/readyz" if ready else "/healthz"):
        doing = "takes no requests: it starts or drains" if ready else "makes no progress"
        raise ConfigError("not-ready", f"the daemon on {client.address!r} {doing}")
    print("ok")
