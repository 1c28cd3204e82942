"""What the service manager and the daemon say to each other: states by NOTIFY_SOCKET, descriptors both ways. Three small protocols by hand.

sd_notify: datagrams of KEY=VALUE lines to the socket in NOTIFY_SOCKET. The descriptor store: such a datagram with FDSTORE=1 and descriptors
beside it; what is stored is handed back at the next start. Handing over: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, descriptors from 3 on.
The watchdog: WATCHDOG_USEC, WATCHDOG_PID. Where nothing of these is set, nothing happens. What the daemon says, and when: daemon/manager.py.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

from smdaemon.log import get_logger

_log = get_logger(__name__)
FIRST_FD = 3
_NAME_LETTERS = 255
# A manager whose queue is full reads it in a moment. To lose a READY=1 would be worse than to wait so long, once.
_PATIENCE_SECONDS = 0.5


def listens(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a service manager that wants to be told anything."""
    return bool(environment.get("NOTIFY_SOCKET"))


def notify(*lines: str, fds: Sequence[int] = (), environment: Mapping[str, str] = os.environ) -> bool:
    """Tell the service manager `lines`, such as READY=1, with descriptors beside them; whether there is one and it was told."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] == "@":  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
            speaker.settimeout(_PATIENCE_SECONDS)
            speaker.connect(address)
            socket.send_fds(speaker, ["\n".join(lines).encode()], fds)
    except OSError as error:
        _log.warning("service manager not told", lines=lines, reason=str(error))
        return False
    return True


def store(name: str, fds: Sequence[int]) -> bool:
    """Have the service manager keep descriptors for the next start, whatever happens to their other ends; whether it was asked."""
    return notify("FDSTORE=1", "FDPOLL=0", f"FDNAME={name[:_NAME_LETTERS]}", fds=fds)


def forget(name: str) -> bool:
    """Have the service manager close what it keeps under that name."""
    return notify("FDSTOREREMOVE=1", f"FDNAME={name[:_NAME_LETTERS]}")


def watchdog_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """How long the service manager waits for WATCHDOG=1 before it takes this process for stuck; None where it does not wait."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # it waits for another process, whose variables we inherited
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None


def handed_over(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """The descriptors that the service manager hands over, with their names, in order; to be called once.

    They are marked to be closed in children, and the variables go, so that no child takes them for its own.
    """
    listed = environment.get("LISTEN_FDS", "") if environment.get("LISTEN_PID") == str(os.getpid()) else ""
    count = int(listed) if listed.isdecimal() else 0
    names = environment.get("LISTEN_FDNAMES", "").split(":") if count else []
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(variable, None)
    found = []
    for number in range(count):
        os.set_inheritable(FIRST_FD + number, False)
        found.append((names[number] if number < len(names) else "", FIRST_FD + number))
    return found
