"""`smdaemon check-config`: read a configuration as the daemon would."""

from smdaemon.cli.options import DEFAULT_CONFIG, ConfigFile


def check_config(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Read a configuration as the daemon would, and say what is wrong with it."""
    from smdaemon.daemon.settings import load_settings

    count = len(load_settings(config).model)
    print(f"ok: {count} model{'' if count == 1 else 's'}")
