"""What a start on this machine would meet, found out without one: for `smdaemon check-config`."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from smdaemon.control.access import access_of
from smdaemon.control.tls import tls_of
from smdaemon.paths import exists, is_directory
from smdaemon.settings import Config, DaemonSettings, ModelSettings, NotifySettings
from smdaemon.unix_socket import gid_of, uid_of


def require(settings: DaemonSettings) -> None:
    """Nothing where a start would take token, certificate and groups; else its ConfigError or EnvironmentFault."""
    access_of(settings.control_users, settings.control_token_file)
    tls_of(settings)
    gid_of(settings.control_group, "control_socket")
    gid_of(settings.handoff_group, "handoff_socket")


def missing(config: Config) -> Iterator[str]:
    """What the configuration names and this machine has not, in words: the daemon would wait for it, or fail jobs for want of it."""
    yield from _of_daemon(config.daemon)
    for model in config.model:
        for what in _of_model(model):
            yield f"model {model.name!r}: {what}"
    for notifier in config.notify:
        for what in _of_notifier(notifier):
            yield f"notifier {notifier.name!r}: {what}"
    if config.serving is not None:
        yield from _directory("the directory of config_file", Path(config.serving.config_file).parent)


def _of_daemon(settings: DaemonSettings) -> Iterator[str]:
    yield from _directory("the directory above state_dir", Path(settings.state_dir).parent)
    for key in ("control_socket", "handoff_socket"):
        if path := getattr(settings, key):
            yield from _directory(f"the directory above that of {key}", Path(path).parent.parent)
    for key in ("control_users", "handoff_users"):
        for user in getattr(settings, key):
            if uid_of(user) == -1:
                yield f"{key}: there is no user {user!r}"


def _of_model(model: ModelSettings) -> Iterator[str]:
    yield from _directory("watch", Path(model.watch))
    yield from _directory("the directory above publish", Path(model.publish).parent)
    for key in ("template", "function", "meta_graph", "debug_info_map", "warmup"):
        if path := getattr(model, key):
            yield from _file(key, path)
    for name, path in model.assets_extra.items():
        yield from _file(f"assets_extra {name!r}", path)
    for mode, settings in model.modes.items():
        yield from _file(f"the template of mode {mode}", settings.template)
    yield from _command("validator", model.validator)


def _of_notifier(notifier: NotifySettings) -> Iterator[str]:
    yield from _command("command", notifier.command)
    if notifier.secret_file:
        yield from _file("secret_file", notifier.secret_file)


def _directory(what: str, path: Path) -> Iterator[str]:
    yield from _looked_at(what, path, is_directory)


def _file(what: str, path: str) -> Iterator[str]:
    yield from _looked_at(what, Path(path), exists)


def _looked_at(what: str, path: Path, is_there: Callable[[Path], bool]) -> Iterator[str]:
    try:
        if not is_there(path):
            yield f"{what} is not there: {str(path)!r}"
    except OSError as error:
        yield f"{what} cannot be looked at: {str(path)!r}: {(error.strerror or str(error)).lower()}"


def _command(what: str, words: list[str]) -> Iterator[str]:
    if words and shutil.which(words[0]) is None:
        yield f"{what}: no such command: {words[0]!r}"
