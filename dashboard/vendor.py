"""Copies what the dashboard stands on from node_modules/ to smdaemon/control/page/vendor/, each with its licence: run by `make`.

Nothing is built: browsers take the packages' own files as they are.
"""

import shutil
from pathlib import Path

MODULES = Path(__file__).with_name("node_modules")
VENDOR = Path(__file__).parents[1] / "smdaemon" / "control" / "page" / "vendor"
FILES = {
    "htm/preact/standalone.module.js": "preact.js",
    "htm/LICENSE": "preact.LICENSE.txt",
    "uplot/dist/uPlot.iife.min.js": "uplot.js",
    "uplot/dist/uPlot.min.css": "uplot.css",
    "uplot/LICENSE": "uplot.LICENSE.txt",
}


def main() -> None:
    """Make the folder anew."""
    shutil.rmtree(VENDOR, ignore_errors=True)
    VENDOR.mkdir()
    for source, name in FILES.items():
        shutil.copyfile(MODULES / source, VENDOR / name)


if __name__ == "__main__":
    main()
