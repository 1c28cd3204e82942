"""What the types of the settings cannot say: values that need parsing, and settings that contradict each other."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from smdaemon.errors import ConfigError
from smdaemon.loopback import host_and_port, is_loopback
from smdaemon.settings import (
    NAME,
    SOCKET_PATH_BYTES,
    Config,
    DaemonSettings,
    ModelSettings,
    NotifiedState,
    NotifySettings,
    ServingSettings,
    parse_size,
)


def check(config: Config, path: Path, line_of: Callable[[str], int]) -> None:
    """What the types cannot say: values that need parsing, and settings that contradict each other."""

    def refuse(code: str, where: str, message: str, remedy: str | None = None) -> ConfigError:
        return ConfigError(code, f"{path}:{line_of(where)}: {message}", remedy=remedy)

    _check_daemon(config.daemon, path, refuse)
    _check_models(config.model, path, refuse)
    _check_notifiers(config, refuse)
    if config.serving is not None:
        _check_serving(config.serving, refuse)


def _check_daemon(daemon: DaemonSettings, path: Path, refuse: Callable[..., ConfigError]) -> None:
    for key in ("host_memory", "handoff_memory", "min_free"):
        _check_size(daemon, key, "$.daemon", refuse)
    for key in ("control_socket", "handoff_socket"):
        size = len(os.fsencode(_normal(getattr(daemon, key), path)))
        if getattr(daemon, key) and size > SOCKET_PATH_BYTES:
            message = f"{key}: the path has {size} bytes, a unix socket takes {SOCKET_PATH_BYTES}"
            raise refuse("config-invalid", f"$.daemon.{key}", message, "choose a shorter one, such as in /run/smdaemon")
    if daemon.control_listen:
        _check_listen(daemon, refuse)
    if daemon.control_tls_cert or daemon.control_tls_key:
        for key in ("control_tls_cert", "control_tls_key", "control_token_file"):
            if not getattr(daemon, key):
                message = f"TLS on the control port takes {key} too"
                raise refuse("config-conflict", "$.daemon.control_tls_cert", message, f"set {key}")
    if daemon.handoff_socket and _normal(daemon.handoff_socket, path) == _normal(daemon.control_socket, path):
        message = "handoff_socket and control_socket are the same"
        raise refuse("config-conflict", "$.daemon.handoff_socket", message, "give each a path of its own")


def _check_models(models: Sequence[ModelSettings], path: Path, refuse: Callable[..., ConfigError]) -> None:
    """What can be said of each model, and of all together."""
    seen: set[tuple[str, str]] = set()
    watched = {_normal(model.watch, path): model for model in models}
    for index, model in enumerate(models):
        at = f"$.model[{index}]"
        _check_model(model, at, refuse)
        watch, publish = _normal(model.watch, path), _normal(model.publish, path)
        for key, value in (("name", model.name), ("publish", str(publish)), ("watch", str(watch))):
            if (key, value) in seen:
                message = f"two models have the {key} {getattr(model, key)!r}"
                raise refuse("config-conflict", f"{at}.{key}", message, f"give each model a {key} of its own")
            seen.add((key, value))
        if watch == publish or publish in watch.parents or (model.recursive and watch in publish.parents):
            message = f"watch {model.watch!r} and publish {model.publish!r} lie within each other"
            raise refuse("config-conflict", f"{at}.publish", message, "publish outside the watched directory")
        for folder in (publish, *publish.parents):
            other = watched.get(folder)
            if other is not None and (other.recursive or folder == publish):
                message = f"publish {model.publish!r} lies in what model {other.name!r} watches"
                raise refuse("config-conflict", f"{at}.publish", message, "publish outside the watched directories")


def _check_notifiers(config: Config, refuse: Callable[..., ConfigError]) -> None:
    """What can be said of each notifier, and of all together."""
    names: set[str] = set()
    for index, notifier in enumerate(config.notify):
        _check_notifier(notifier, f"$.notify[{index}]", refuse)
        if notifier.retry_for_seconds > config.daemon.keep_jobs_days * 86_400:
            message = f"retry_for_seconds is longer than keep_jobs_days, {config.daemon.keep_jobs_days:g}"
            where = f"$.notify[{index}].retry_for_seconds"
            raise refuse(
                "config-conflict", where, message, "what the journal forgets cannot be told: raise keep_jobs_days"
            )
        if notifier.name in names:
            message = f"two notifiers have the name {notifier.name!r}"
            raise refuse("config-conflict", f"$.notify[{index}].name", message, "give each a name of its own")
        names.add(notifier.name)


def _check_listen(daemon: DaemonSettings, refuse: Callable[..., ConfigError]) -> None:
    try:
        host, _ = host_and_port(daemon.control_listen)
    except ValueError as error:
        message = f"control_listen: {error}"
        raise refuse("config-invalid", "$.daemon.control_listen", message, "write it like 127.0.0.1:8470") from error
    if not daemon.control_tls_cert and not is_loopback(host):
        message = f"control_listen: {daemon.control_listen!r} can be reached by other machines"
        remedy = "use 127.0.0.1 or [::1], or set control_tls_cert, control_tls_key and control_token_file"
        raise refuse("config-invalid", "$.daemon.control_listen", message, remedy)


def _check_model(model: ModelSettings, at: str, refuse: Callable[..., ConfigError]) -> None:
    """What can be said of one model alone."""
    if not NAME.fullmatch(model.name):
        message = f"model name {model.name!r} may hold letters, digits, '_', '.' and '-' only"
        raise refuse("config-invalid", f"{at}.name", message)
    if model.write_rate:
        _check_size(model, "write_rate", at, refuse)
        if not parse_size(model.write_rate):
            message = f"write_rate: at {model.write_rate!r} nothing would ever be written"
            raise refuse("config-invalid", f"{at}.write_rate", message, "leave it out for no limit")
    if model.function and (model.template or model.modes):
        message = "function gives a graph, and so does template or modes"
        raise refuse("config-conflict", f"{at}.function", message, "leave one of them out")
    if model.keep_best and not (model.metric and model.metric_goal):
        missing = "metric_goal" if model.metric else "metric"
        message = f"keep_best = {model.keep_best} says nothing without {missing}"
        raise refuse("config-conflict", f"{at}.keep_best", message, "name a metric and its goal, max or min")
    _check_command(model, "validator", at, refuse)


def _check_notifier(notifier: NotifySettings, at: str, refuse: Callable[..., ConfigError]) -> None:
    """What can be said of one notifier alone."""
    if not NAME.fullmatch(notifier.name):
        message = f"name {notifier.name!r} may hold letters, digits, '_', '.' and '-' only"
        raise refuse("config-invalid", f"{at}.name", message)
    if bool(notifier.command) == bool(notifier.webhook):
        message = f"notifier {notifier.name!r} has " + ("both command and webhook" if notifier.command else "no target")
        raise refuse("config-conflict", at, message, "set either command or webhook")
    if not notifier.on:
        message = f"notifier {notifier.name!r} is told nothing"
        raise refuse("config-invalid", f"{at}.on", message, f"choose from {', '.join(get_args(NotifiedState))}")
    _check_command(notifier, "command", at, refuse)
    if notifier.command and (notifier.secret_file or notifier.plain_http):
        key = "secret_file" if notifier.secret_file else "plain_http"
        raise refuse(
            "config-conflict", f"{at}.{key}", f"{key} is for a webhook, and this is a command", f"remove {key}"
        )
    if notifier.webhook:
        _check_webhook(notifier, f"{at}.webhook", refuse)


def _check_webhook(notifier: NotifySettings, at: str, refuse: Callable[..., ConfigError]) -> None:
    """A URL with a host and without a password, over TLS unless it stays on this machine. The URL may be a secret: it is not repeated."""
    from urllib.parse import urlsplit

    try:
        url = urlsplit(notifier.webhook)
        host, _ = url.hostname, url.port
    except ValueError:
        host, url = None, urlsplit("")
    printable = notifier.webhook.isascii() and notifier.webhook.isprintable() and " " not in notifier.webhook
    if url.scheme not in ("http", "https") or not host or not printable:
        raise refuse("config-invalid", at, "webhook is no URL such as 'https://host/path'")
    if url.username is not None or url.password is not None:
        raise refuse("config-invalid", at, "webhook holds a user or a password", "use secret_file to prove who sends")
    if url.scheme == "http" and not (is_loopback(host) or notifier.plain_http):
        message = f"webhook goes to {host!r} without TLS"
        raise refuse("config-conflict", at, message, "use https, or set plain_http = true where everyone may read it")


def _check_serving(serving: ServingSettings, refuse: Callable[..., ConfigError]) -> None:
    """Labels are for versions that Serving loads."""
    for label, rule in serving.labels.items():
        if not NAME.fullmatch(label):
            message = f"label {label!r} may hold letters, digits, '_', '.' and '-' only"
            raise refuse("config-invalid", "$.serving.labels", message)
        if serving.versions == "latest" and rule != "newest":
            message = f'label {label!r} is for the {rule} version, and versions = "latest" loads the newest alone'
            raise refuse("config-conflict", "$.serving.labels", message, 'set versions = "listed" or "all"')
    if serving.versions == "listed" and not serving.labels:
        message = 'versions = "listed" loads nothing without labels'
        raise refuse("config-conflict", "$.serving.versions", message, "add labels")


def _check_command(settings: msgspec.Struct, key: str, at: str, refuse: Callable[..., ConfigError]) -> None:
    words: list[str] = getattr(settings, key)
    if words and (not words[0] or any("\0" in word for word in words)):
        message = f"{key}: {words!r} is no command"
        raise refuse("config-invalid", f"{at}.{key}", message, "give a command, and its arguments one by one")


def _check_size(settings: msgspec.Struct, key: str, at: str, refuse: Callable[..., ConfigError]) -> None:
    try:
        parse_size(getattr(settings, key))
    except ValueError as error:
        raise refuse("config-invalid", f"{at}.{key}", f"{key}: {error}") from error


def _normal(text: str, config_path: Path) -> Path:
    return Path(os.path.normpath(config_path.absolute().parent / text))
