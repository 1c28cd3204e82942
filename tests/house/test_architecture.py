"""The page about the house says what the import contracts hold."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_rooms_stand_in_the_order_of_their_layers():
    """One row a layer, from above; who may use which can be read off the table."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    wanted = [sorted(re.findall(r"\w+", layer)) for layer in layers if layer != "__main__"]
    page = (ROOT / "docs/architecture.md").read_text()
    table = page.partition("| room | holds | does I/O |")[2].partition("\n\n")[0]
    rows = [re.match(r"\| ([^|]+) \|", line) for line in table.splitlines()[2:]]
    assert [sorted(re.findall(r"`(\w+)(?:/|\.py)`", row[1])) for row in rows if row] == wanted
