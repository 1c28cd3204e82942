"""The smdaemon command, and which of its modules are heavy: a script, run as `imports_of_daemon.py REPORT COMMAND...`.

When the command ends, the file REPORT has the names of what was imported of JAX, TensorFlow and the like, one a line.
"""

import sys
from pathlib import Path

from smdaemon.cli.main import main

HEAVY = {"jax", "jaxlib", "flax", "tensorflow", "keras", "torch"}

if __name__ == "__main__":
    report = Path(sys.argv.pop(1))
    try:
        main()
    finally:
        report.write_text("\n".join(sorted(HEAVY & {name.partition(".")[0] for name in sys.modules})))
