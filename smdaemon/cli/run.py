"""`smdaemon run`: the daemon in the foreground."""

import faulthandler

import trio

from smdaemon import log
from smdaemon.cli.options import DEFAULT_CONFIG, ConfigFile
from smdaemon.daemon.daemon import Daemon
from smdaemon.daemon.neighbour import be_nice
from smdaemon.daemon.settings import load_settings
from smdaemon.errors import SmdaemonError


def run(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Watch directories and publish what drops there, until SIGTERM.

    SIGTERM and SIGINT drain: running exports may finish until the deadline, the rest goes on at the next start. A second
    signal does not wait. SIGHUP reads the configuration again.
    """
    settings = load_settings(config)
    log.configure(settings.daemon.log_level, settings.daemon.log_format)
    log.adopt_others()
    faulthandler.enable()  # the watchdog's kill is a SIGABRT: the log then has where every thread was
    be_nice(settings.daemon.nice, settings.daemon.io_priority)
    try:
        trio.run(Daemon(config, settings).run)
    except BaseExceptionGroup as group:
        foreseen, others = group.split(SmdaemonError)
        if foreseen is None or others is not None:
            raise
        raise _first(foreseen) from group


def _first(group: BaseExceptionGroup[SmdaemonError]) -> SmdaemonError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
