"""`smdaemon check-config`: read a configuration as the daemon would, on the machine where it would run."""

import sys

from smdaemon.cli.options import DEFAULT_CONFIG, ConfigFile


def check_config(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Read a configuration as the daemon would, and say what is wrong with it.

    What it names and this machine has not is warned of: the daemon starts all the same, and waits for it.
    """
    from smdaemon.cli.output import counted, visible
    from smdaemon.daemon.preflight import missing, require
    from smdaemon.daemon.settings import load_settings

    settings = load_settings(config)
    require(settings.daemon)
    warnings = list(missing(settings))
    for warning in warnings:
        print(f"warning: {visible(warning)}", file=sys.stderr)
    print(
        f"ok: {counted(len(settings.model), 'model')}" + (f", {counted(len(warnings), 'warning')}" if warnings else "")
    )
