"""`smdaemon check-config`: read a configuration as the daemon would."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def check_config(
    *, config: Annotated[Path, Parameter(name=("--config", "-c"), help="The configuration file.")] = Path("config.toml")
) -> None:
    """Read a configuration as the daemon would, and say what is wrong with it."""
    from smdaemon.config import load_config

    count = len(load_config(config).model)
    print(f"ok: {count} model{'' if count == 1 else 's'}")
