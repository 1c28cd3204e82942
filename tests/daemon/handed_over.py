"""The smdaemon command started as a service manager starts it: `handed_over.py FD FD COMMAND...` has the descriptors at 3 and 4."""

import os
import sys

if __name__ == "__main__":
    spare = [os.dup(int(fd)) for fd in sys.argv[1:3]]
    for place, fd in enumerate(spare, 3):
        if fd != place:
            os.dup2(fd, place)
        os.set_inheritable(place, True)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execv(sys.executable, [sys.executable, "-m", "smdaemon", *sys.argv[3:]])
