"""The configuration as the daemon wants it: read, and with every choice that only the rooms below can judge."""

from pathlib import Path

from smdaemon.config import load_config
from smdaemon.errors import ConfigError
from smdaemon.export.plan import check_choices
from smdaemon.settings import Config
from smdaemon.sources.formats import AUTO, FORMATS
from smdaemon.sources.tf_checkpoint import SavedModelFormat


def load_settings(path: Path) -> Config:
    """The configuration in `path`; ConfigError where it cannot be put in force."""
    config = load_config(path)
    known = [AUTO, *(each.name for each in FORMATS)]
    for model in config.model:
        where = f"{path}: model {model.name!r}"
        check_choices(model.devices, model.io_device, where)
        if model.format not in known:
            raise ConfigError(
                "config-invalid",
                f"{where}: no format is called {model.format!r}",
                remedy=f"formats are {', '.join(known)}",
            )
        if model.format == SavedModelFormat.name and model.on_drop == "export":
            raise ConfigError(
                "config-conflict",
                f"{where}: a SavedModel in a watched directory is nobody's drop, so that nothing would ever be exported",
                remedy='set on_drop = "ignore" and name them in requests, or leave format out',
            )
    return config
