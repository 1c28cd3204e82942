"""`smdaemon health`: a probe for orchestrators, which can run a command but cannot ask a unix socket."""

from typing import Annotated

from cyclopts import Parameter

from smdaemon.cli.options import Socket
from smdaemon.cli.probe import TIMEOUT_SECONDS, probe

Ready = Annotated[bool, Parameter(negative="", help="Ask whether requests are taken, not only whether it lives.")]
Timeout = Annotated[float, Parameter(help="Seconds until an answer that has not come counts as none.")]


def health(*, ready: Ready = False, timeout: Timeout = TIMEOUT_SECONDS, socket: Socket = None) -> None:
    """Exit with 0 while the daemon makes progress, or with --ready while it takes requests; else with 1."""
    probe(socket, ready=ready, timeout_seconds=timeout)
