"""A command with few descriptors: a script, run as `limited_smdaemon.py FILES COMMAND...`.

A script of its own and no hook between fork and exec, which is not safe in a process with threads.
"""

import os
import resource
import sys

if __name__ == "__main__":
    files = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    os.execv(sys.argv[2], sys.argv[2:])
