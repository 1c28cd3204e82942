"""A good neighbour: how much of the processor and of the disks the daemon takes when the trainer wants them, too."""

import ctypes
import os

from smdaemon.log import get_logger

_log = get_logger(__name__)
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS = 1
_CLASSES = {"realtime": 1, "best-effort": 2, "idle": 3}


def be_nice(nice: int, io_priority: str) -> None:
    """Give the process, and so all threads that it starts from now on, a niceness and a priority for the disks.

    What the machine refuses is told in the log, and is no reason not to run. To be called before threads are started.
    """
    if nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError as error:
            _log.warning("niceness not set", nice=nice, reason=str(error))
    if io_priority:
        name, _, level = io_priority.partition(":")
        value = _CLASSES[name] << 13 | int(level or 0)
        number = _IOPRIO_SET.get(os.uname().machine)
        libc = ctypes.CDLL(None, use_errno=True)
        if number is None or libc.syscall(number, _WHO_PROCESS, 0, value):
            reason = "no such call here" if number is None else os.strerror(ctypes.get_errno())
            _log.warning("priority for disks not set", io_priority=io_priority, reason=reason)
