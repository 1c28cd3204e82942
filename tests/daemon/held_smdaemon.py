"""The smdaemon command on a disk that hangs: a script, run as `held_smdaemon.py TELL GO COMMAND...`.

The first write to a data file goes through; a byte on the descriptor TELL says so. Then every writer hangs until the
descriptor GO can be read, or until it is told to stop: so an export is surely under way for as long as a test wants it.
"""

import os
import select
import signal
import sys

from smdaemon.cli.main import main
from smdaemon.tensorbundle.files import OutputFile

_STEP_SECONDS = 0.01
_write = OutputFile._write


def hold(tell: int, go: int) -> None:
    """Make every data file hang after its first write."""

    def held_write(self: OutputFile, buffer: bytearray | memoryview) -> None:
        _write(self, buffer)
        os.write(tell, b".")
        while not select.select([go], [], [], _STEP_SECONDS)[0]:
            self._progress.add(0)

    OutputFile._write = held_write  # type: ignore[method-assign]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background may ignore it
    hold(int(sys.argv[1]), int(sys.argv[2]))
    main(sys.argv[3:])
