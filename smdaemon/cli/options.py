"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Socket = Annotated[
    str | None,
    Parameter(
        name="--socket",
        help="The daemon's control socket: a path, http://127.0.0.1:PORT or https://HOST:PORT. "
        "Without it $SMDAEMON_SOCKET, else /run/smdaemon/control.sock.",
    ),
]
ConfigFile = Annotated[Path, Parameter(name=("--config", "-c"), help="The configuration file.")]
DEFAULT_CONFIG = Path("/etc/smdaemon/config.toml")
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
JobId = Annotated[int, Parameter(help="The job's number, as `smdaemon jobs` lists it.")]
