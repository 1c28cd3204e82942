"""What can be configured: a frozen type for each table of the file, its defaults and the bounds of its values.

What each key means stands in the comment above it; `docs/reference.py` makes the tables of the documentation from these.
"""

import re
from typing import Annotated, Literal

import msgspec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SOCKET_PATH_BYTES = 107
"""What a unix socket's path may have: sockaddr_un holds 108 bytes, the last of them NUL."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B)?")
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
    # where a drop lacks a variable of the template: an error, or the template's value is kept; a drop that has none of them is an error
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
