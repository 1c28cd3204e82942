"""The configuration file: TOML, checked strictly, with file and line in every complaint.

Reading it yields one frozen `Config`; nothing is corrected silently, and a contradiction is refused here rather than met later.
"""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from smdaemon.errors import ConfigError
from smdaemon.loopback import is_loopback

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)?")
# Who knows the URL of a webhook can often post there.
_UNSAID = {"webhook"}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1 << (10 * power) for power, letter in enumerate("KMGT", 1)
}

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
NotifiedState = Literal["published", "failed", "superseded"]
LabelRule = Literal["newest", "previous", "pinned"]


class DaemonSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[daemon]` table."""

    # where the journal and the lock live
    state_dir: str
    # unix socket of the control API
    control_socket: str
    # octal permission bits of that socket
    control_mode: Annotated[str, msgspec.Meta(pattern="^0?[0-7]{3}$")] = "0660"
    # whose group that socket is, by name or id; empty for the daemon's own
    control_group: str = ""
    # HOST:PORT on loopback, or anywhere with control_tls_cert; empty for no TCP
    control_listen: str = ""
    # unix socket on which trainers hand tensors over, or empty for none
    handoff_socket: str = ""
    # octal permission bits of that socket
    handoff_mode: Annotated[str, msgspec.Meta(pattern="^0?[0-7]{3}$")] = "0660"
    # whose group that socket is, by name or id; empty for the daemon's own
    handoff_group: str = ""
    # users, by name or id, that may hand tensors over besides the daemon's own
    handoff_users: list[str] = msgspec.field(default_factory=list)
    # bytes of shared memory that trainers may have all together
    handoff_memory: str = "8GiB"
    # how long after a start a handoff that was accepted before waits for its trainer to offer it again
    handoff_grace_seconds: NotNegative = 60.0
    # users, by name or id, that may act over the control socket besides the daemon's own and root; others may only read
    control_users: list[str] = msgspec.field(default_factory=list)
    # a file with the token that acting over TCP takes; empty: over TCP nobody may act
    control_token_file: str = ""
    # a file with the certificate, and those up to its authority, that the control port shows: it speaks TLS then, and takes the token
    control_tls_cert: str = ""
    # a file with the key of that certificate
    control_tls_key: str = ""
    # exports that run at the same time
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    # bytes of host memory that exports may hold together, page cache aside
    host_memory: str = "1GiB"
    # how nice the daemon is to other processes: 0 as they are, 19 only when nobody else wants the processor
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 0
    # the daemon's share of the disks: "best-effort:0" to "best-effort:7", "idle", or empty for the system's own choice
    io_priority: Annotated[str, msgspec.Meta(pattern="^(|idle|best-effort:[0-7])$")] = ""
    # bytes that exports leave free where they publish; below it the queues of the models there pause
    min_free: str = "256MiB"
    # how long a stopping daemon lets running exports finish
    drain_seconds: NotNegative = 30.0
    # whether it exports in that time what is queued, too: for a pod or a batch job, which has no next start
    drain_queue: bool = False
    # how long ended jobs are kept in the journal; of each model the newest 1000 always are
    keep_jobs_days: Positive = 30.0
    # the least important events that are logged
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # what a log line looks like; auto is text on a terminal and JSON elsewhere
    log_format: Literal["auto", "json", "text"] = "auto"

    @property
    def host_memory_bytes(self) -> int:
        """`host_memory` in bytes."""
        return parse_size(self.host_memory)

    @property
    def min_free_bytes(self) -> int:
        """`min_free` in bytes."""
        return parse_size(self.min_free)

    @property
    def handoff_memory_bytes(self) -> int:
        """`handoff_memory` in bytes."""
        return parse_size(self.handoff_memory)


class SignatureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One signature of a `[[model]]`, by the names of tensors in the graph."""

    # input name -> tensor name, such as "x:0"
    inputs: dict[str, str] = msgspec.field(default_factory=dict)
    # output name -> tensor name
    outputs: dict[str, str] = msgspec.field(default_factory=dict)
    # predict, classify, regress or a full method name
    method: str = "predict"


class ModeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The graph of one mode of a `[[model]]`."""

    # a SavedModel
    template: str
    # which of its meta graphs; may be empty where it has only one
    tags: list[str] = msgspec.field(default_factory=list)


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[model]]` table."""

    # a name for people, paths and metrics
    name: str
    # the directory that training outputs drop into
    watch: str
    # the directory that holds the numbered version directories
    publish: str
    # read what links in the watch directory lead to, wherever it lies: who can write there can then publish what the daemon can read
    follow_links: bool = False
    # look into sub-directories too
    recursive: bool = False
    # whether finished outputs are exported by themselves, or only when a request names them
    on_drop: Literal["export", "ignore"] = "export"
    # a source format, or auto to tell by name
    format: str = "auto"
    # where a version's number comes from
    version: Literal["step", "timestamp", "sequence"] = "step"
    # what happens to older drops that wait: all are exported, or only the latest
    on_backlog: Literal["all", "latest"] = "all"
    # whose drops go first where models compete for workers: the higher; every fourth turn is given without regard to it
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    # so many versions of the highest numbers stay; 0 for no such rule. Without any keep_ rule every version stays
    keep_last: Count = 0
    # every so-many-th version stays, in the order of publication; 0 for no such rule
    keep_every: Count = 0
    # so many versions stay that are the best by metric; 0 for no such rule
    keep_best: Count = 0
    # the number that says how good a version is: from "metrics" of a request or a handoff, or from the drop's metadata
    metric: str = ""
    # which value of it is best; keep_best needs it
    metric_goal: Literal["", "max", "min"] = ""
    # a command with its arguments that judges each export before it is published; its path is appended. Empty for none
    validator: list[str] = msgspec.field(default_factory=list)
    # how long the validator may take
    validator_seconds: Positive = 300.0
    # what happens to device annotations, everywhere a SavedModel keeps them: keep, strip, soft, or remap:PATTERN=DEVICE,...
    devices: str = "keep"
    # a SavedModel that gives graph, signatures, functions and assets, the drop giving the values; empty for weights alone
    template: str = ""
    # a function bundle: JAX functions that become signatures, the drop giving their parameters; empty for none
    function: str = ""
    # the oldest release of TensorFlow that must run these functions, such as "2.19"; empty for the one that the bundle names
    serving_tensorflow: str = ""
    # name in the drop -> name in the template or of a parameter, or the same with one * on each side
    name_map: dict[str, str] = msgspec.field(default_factory=dict)
    # where a drop lacks a variable of the template: an error, or the template's value is kept
    missing: Literal["error", "keep"] = "error"
    # where a drop has tensors that the template or the functions do not know (an optimizer's, say)
    unused: Literal["ignore", "error"] = "ignore"
    # signature name -> its inputs, outputs and method, by tensor names of the drop's graph
    signatures: dict[str, SignatureSettings] = msgspec.field(default_factory=dict)
    # whether the graph of a drop (a .meta beside a checkpoint, a SavedModel) is exported, or its weights only
    graph: Literal["auto", "none"] = "auto"
    # drop the nodes of a checkpoint's graph that its signatures do not need
    prune: bool = False
    # the op of a checkpoint's graph that is run after loading; empty for one that initialises tables and local variables
    main_op: str = ""
    # the graph of checkpoints that have no .meta file beside them
    meta_graph: str = ""
    # leave out attributes that have their default value
    strip_default_attrs: bool = False
    # debug info of drop or template
    debug_info: Literal["keep", "drop"] = "keep"
    # a JSON file that gives the debug info: node -> list of [file, line, function, text of the line]
    debug_info_map: str = ""
    # write saved_model.pbtxt in place of saved_model.pb
    as_text: bool = False
    # path below assets.extra/ -> file to copy there
    assets_extra: dict[str, str] = msgspec.field(default_factory=dict)
    # an .npz of sample inputs that becomes the warm-up request of serving_default
    warmup: str = ""
    # mode (train, eval, predict) -> its graph; one meta graph for each, sharing the variables
    modes: dict[Literal["train", "eval", "predict"], ModeSettings] = msgspec.field(default_factory=dict)
    # as TensorFlow's experimental_io_device: a host or its CPU; it is checked, smdaemon writes where it runs
    io_device: str = ""
    # tags of the meta graph; none for those of the graph that is exported, else "serve"
    tags: list[str] = msgspec.field(default_factory=list)
    # only tensors whose name matches one of these glob patterns; none for all
    include: list[str] = msgspec.field(default_factory=list)
    # not the tensors whose name matches one of these glob patterns
    exclude: list[str] = msgspec.field(default_factory=list)
    # tensor name in the drop -> name in the SavedModel
    rename: dict[str, str] = msgspec.field(default_factory=dict)
    # bytes a second that an export writes, and reads back, at most, such as "200MB"; empty for no limit
    write_rate: str = ""
    # data files of variables/, written in parallel; 0 chooses by size
    shards: Annotated[int, msgspec.Meta(ge=0, le=99999)] = 0
    # what separates the parts of a tensor's name; empty chooses "/" or "." by the names
    separator: str = ""
    # read everything back and compare checksums before the version is published
    verify: bool = True
    # inotify where it can see, poll elsewhere (network file systems)
    watch_method: Literal["auto", "inotify", "poll"] = "auto"
    # how long a drop that cannot judge itself must lie unchanged
    quiet_seconds: NotNegative = 2.0
    # how often a polled directory is looked at
    poll_seconds: Positive = 5.0
    # how often everything is looked at again, as a safety net
    rescan_seconds: Positive = 300.0


class NotifySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[notify]]` table."""

    # a name for people and metrics; how far it has come is remembered under this name
    name: str
    # what it is told: the states that jobs end in
    on: list[NotifiedState] = msgspec.field(default_factory=lambda: ["published", "failed"])
    # only of models whose name matches one of these glob patterns; none for all
    models: list[str] = msgspec.field(default_factory=list)
    # a command with its arguments, which gets the event on its standard input
    command: list[str] = msgspec.field(default_factory=list)
    # the URL that the event is posted to
    webhook: str = ""
    # allow a webhook without TLS beyond this machine
    plain_http: bool = False
    # a file with the secret that the webhook's requests are signed with: base64, after whsec_; empty: they are not signed
    secret_file: str = ""
    # how long one attempt may take
    timeout_seconds: Positive = 30.0
    # how old an event is, at least, before it is no longer tried
    retry_for_seconds: NotNegative = 86_400.0

    @property
    def kind(self) -> Literal["command", "webhook"]:
        """How it is told."""
        return "command" if self.command else "webhook"


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The `[serving]` table."""

    # TensorFlow Serving's model config file, which is kept up to date; its --model_config_file
    config_file: str
    # label -> the version that bears it: newest, previous (what a rollback would go back to) or pinned (the newest pinned one)
    labels: dict[str, LabelRule] = msgspec.field(default_factory=dict)
    # which versions Serving loads: latest, all, or listed: those that bear a label
    versions: Literal["latest", "all", "listed"] = "latest"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    daemon: DaemonSettings
    model: list[ModelSettings] = msgspec.field(default_factory=list)
    notify: list[NotifySettings] = msgspec.field(default_factory=list)
    serving: ServingSettings | None = None

    def model_named(self, name: str) -> ModelSettings | None:
        """The model of that name, or None."""
        return next((model for model in self.model if model.name == name), None)


def parse_size(text: str) -> int:
    """Bytes in a size such as "512MiB" or "2GB"; ValueError where it is none."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size such as '512MiB' or '2GB'")
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def load_config(path: Path) -> Config:
    """The configuration in the file at `path`, its relative paths taken from the file's folder.

    Raises ConfigError with `FILE:LINE:` before the message.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError("config-missing", f"{path}: {(error.strerror or str(error)).lower()}") from error
    return parse_config(content, path)


def parse_config(content: bytes, path: Path) -> Config:
    """As `load_config`, of bytes that were read already."""
    try:
        text = content.decode()
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError("config-syntax", f"{path}:{line}: not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at line (\d+)", str(error))
        line = int(where[1]) if where else text.count("\n") + 1
        said = str(error).split(" (at")[0]
        raise ConfigError("config-syntax", f"{path}:{line}: {said[:1].lower()}{said[1:]}") from error
    lines = _Lines(text)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise _named(error, path, lines) from error
    _check(config, path, lines)
    return _absolute(config, path.absolute().parent)


class _Lines:
    """Which line a path such as `$.model[1].watch` stands on: an index of table headers and keys, good for one-line keys."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {"$": 1}
        table, seen = "$", dict[str, int]()
        for number, line in enumerate(text.splitlines(), 1):
            bare = line.split("#")[0].strip()
            if many := re.fullmatch(r"\[\[\s*([\w.-]+)\s*\]\]", bare):
                index = seen.get(many[1], -1) + 1
                seen[many[1]] = index
                table = f"$.{many[1]}[{index}]"
                self._lines[table] = number
            elif one := re.fullmatch(r"\[\s*([\w.-]+)\s*\]", bare):
                table = f"$.{one[1]}"
                self._lines[table] = number
            elif key := re.match(r"""["']?([\w-]+)["']?\s*=""", bare):
                self._lines.setdefault(f"{table}.{key[1]}", number)

    def of(self, where: str) -> int:
        """The line of `where`, or of the nearest thing around it."""
        while where not in self._lines:
            where = re.sub(r"(\.[^.\[]+|\[[^\]]*\])$", "", where)
        return self._lines[where]


def _named(error: msgspec.ValidationError, path: Path, lines: _Lines) -> ConfigError:
    """The complaint of msgspec as ours: file, line, and the nearest known key."""
    said, _, where = str(error).partition(" - at `")
    where = where.rstrip("`") or "$"
    unknown = re.search(r"unknown field `([^`]+)`", said)
    if unknown:
        key = unknown[1]
        remedy = _did_you_mean(key, _table(where).__struct_fields__)
        return ConfigError(
            "config-unknown-key", f"{path}:{lines.of(f'{where}.{key}')}: unknown key {key!r}", remedy=remedy
        )
    missing = re.search(r"missing required field `([^`]+)`", said)
    if missing:
        table_name = where.removeprefix("$.") or "the file"
        message = f"{path}:{lines.of(where)}: {table_name} has no {missing[1]!r}"
        return ConfigError("config-invalid", message, remedy=f"add {missing[1]}")
    table_path, _, key = where.rpartition(".")
    message = f"{path}:{lines.of(where)}: {key}: {said[:1].lower()}{said[1:]}"
    choices = get_args(_table(table_path).__annotations__.get(key)) if said.startswith("Invalid enum") else ()
    return ConfigError("config-invalid", message, remedy=f"choose one of {', '.join(choices)}" if choices else None)


def _table(where: str) -> type[msgspec.Struct]:
    """The type of the table that a path such as `$.model[1]` leads to."""
    tables: dict[str, type[msgspec.Struct]] = {"$": Config, "$.daemon": DaemonSettings, "$.serving": ServingSettings}
    return tables.get(where, NotifySettings if where.startswith("$.notify") else ModelSettings)


def _did_you_mean(key: str, known: tuple[str, ...]) -> str:
    import difflib

    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"remove it; known keys are {', '.join(known)}"


def _check(config: Config, path: Path, lines: _Lines) -> None:
    """What the types cannot say: values that need parsing, and settings that contradict each other."""

    def refuse(code: str, where: str, message: str, remedy: str | None = None) -> ConfigError:
        return ConfigError(code, f"{path}:{lines.of(where)}: {message}", remedy=remedy)

    _check_daemon(config.daemon, path, refuse)
    seen: set[tuple[str, str]] = set()
    for index, model in enumerate(config.model):
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
    if config.serving is not None:
        _check_serving(config.serving, refuse)


def _check_daemon(daemon: DaemonSettings, path: Path, refuse: Callable[..., ConfigError]) -> None:
    for key in ("host_memory", "handoff_memory", "min_free"):
        _check_size(daemon, key, "$.daemon", refuse)
    if daemon.control_tls_cert or daemon.control_tls_key:
        for key in ("control_tls_cert", "control_tls_key", "control_token_file"):
            if not getattr(daemon, key):
                message = f"TLS on the control port takes {key} too"
                raise refuse("config-conflict", "$.daemon.control_tls_cert", message, f"set {key}")
    if daemon.handoff_socket and _normal(daemon.handoff_socket, path) == _normal(daemon.control_socket, path):
        message = "handoff_socket and control_socket are the same"
        raise refuse("config-conflict", "$.daemon.handoff_socket", message, "give each a path of its own")


def _check_model(model: ModelSettings, at: str, refuse: Callable[..., ConfigError]) -> None:
    """What can be said of one model alone."""
    if not NAME.fullmatch(model.name):
        message = f"model name {model.name!r} may hold letters, digits, '_', '.' and '-' only"
        raise refuse("config-invalid", f"{at}.name", message)
    if model.write_rate:
        _check_size(model, "write_rate", at, refuse)
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
    import os

    return Path(os.path.normpath(config_path.absolute().parent / text))


def _absolute(config: Config, folder: Path) -> Config:
    """`config` with every path absolute."""
    daemon = msgspec.structs.replace(
        config.daemon,
        state_dir=str(folder / config.daemon.state_dir),
        control_socket=str(folder / config.daemon.control_socket),
        control_tls_cert=config.daemon.control_tls_cert and str(folder / config.daemon.control_tls_cert),
        control_tls_key=config.daemon.control_tls_key and str(folder / config.daemon.control_tls_key),
        control_token_file=config.daemon.control_token_file and str(folder / config.daemon.control_token_file),
        handoff_socket=config.daemon.handoff_socket and str(folder / config.daemon.handoff_socket),
    )
    return Config(
        daemon=daemon,
        model=[_absolute_model(model, folder) for model in config.model],
        notify=[
            msgspec.structs.replace(
                notifier,
                command=_absolute_command(notifier.command, folder),
                secret_file=notifier.secret_file and str(folder / notifier.secret_file),
            )
            for notifier in config.notify
        ],
        serving=config.serving
        and msgspec.structs.replace(config.serving, config_file=str(folder / config.serving.config_file)),
    )


def _absolute_command(words: list[str], folder: Path) -> list[str]:
    """A command's own name with its path; one without a slash is looked up in $PATH."""
    return [str(folder / word) if at == 0 and "/" in word else word for at, word in enumerate(words)]


def _absolute_model(model: ModelSettings, folder: Path) -> ModelSettings:
    return msgspec.structs.replace(
        model,
        watch=str(folder / model.watch),
        publish=str(folder / model.publish),
        validator=_absolute_command(model.validator, folder),
        template=model.template and str(folder / model.template),
        function=model.function and str(folder / model.function),
        meta_graph=model.meta_graph and str(folder / model.meta_graph),
        warmup=model.warmup and str(folder / model.warmup),
        debug_info_map=model.debug_info_map and str(folder / model.debug_info_map),
        assets_extra={name: str(folder / path) for name, path in model.assets_extra.items()},
        modes={
            name: msgspec.structs.replace(mode, template=str(folder / mode.template))
            for name, mode in model.modes.items()
        },
    )


def differences(old: Config, new: Config) -> list[str]:
    """What changed between two configurations, one line a change, as the log of a reload says it."""
    said = _changed("daemon", old.daemon, new.daemon)
    for kind, of in (("model", _models_by_name), ("notifier", _notifiers_by_name)):
        before, after = of(old), of(new)
        said += [f"{kind} {name!r} removed" for name in before if name not in after]
        said += [f"{kind} {name!r} added" for name in after if name not in before]
        for name in after:
            if name in before:
                said += _changed(f"{kind} {name!r}", before[name], after[name])
    if old.serving is None or new.serving is None:
        if old.serving is not new.serving:
            said.append(f"serving {'removed' if new.serving is None else 'added'}")
    else:
        said += _changed("serving", old.serving, new.serving)
    return said


def _models_by_name(config: Config) -> dict[str, msgspec.Struct]:
    return {model.name: model for model in config.model}


def _notifiers_by_name(config: Config) -> dict[str, msgspec.Struct]:
    return {notifier.name: notifier for notifier in config.notify}


def _changed(what: str, old: Any, new: Any) -> list[str]:
    pairs = ((key, getattr(old, key), getattr(new, key)) for key in old.__struct_fields__)
    return [
        f"{what}: {key}" if key in _UNSAID else f"{what}: {key} {was!r} -> {now!r}"
        for key, was, now in pairs
        if was != now
    ]
