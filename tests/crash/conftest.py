"""The kits stand beside the tests; these folders are no packages."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "daemon")]
