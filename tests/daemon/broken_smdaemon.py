"""The smdaemon command with a bug in one of its services: a script, run as `broken_smdaemon.py COMMAND...`."""

import sys

from smdaemon.cli.main import main
from smdaemon.daemon.results import ResultWriter


async def _broken(_self: ResultWriter) -> None:
    raise RuntimeError("a bug\n\x1b[31m")


if __name__ == "__main__":
    ResultWriter.run = _broken  # type: ignore[method-assign]
    main(sys.argv[1:])
