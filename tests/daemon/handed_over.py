"""Python started as a service manager starts it: `handed_over.py FD,FD,... ARGUMENTS` has the descriptors at 3, 4, ...

LISTEN_FDNAMES is the caller's to set. A script of its own and no hook between fork and exec, which is not safe in a process with threads.
"""

import os
import sys

FIRST = 3

if __name__ == "__main__":
    handed = [int(fd) for fd in sys.argv[1].split(",")]
    # out of the way of the places first
    spare = [os.dup(fd) for fd in handed]
    while min(spare) < FIRST + len(handed):
        spare = [os.dup(fd) for fd in spare]
    for place, fd in enumerate(spare, FIRST):
        os.dup2(fd, place)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(handed))}
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
