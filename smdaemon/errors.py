"""The error vocabulary: every error says who must act, carries a stable code, and names the remedy.

The classes say who must act; the codes are for machines and for the documentation. `CODES` is the one list of them:
an error with a code that is not in the list cannot be raised.
"""

import errno
from typing import NamedTuple


class Code(NamedTuple):
    """What a code means and what the person who must act does about it."""

    meaning: str
    remedy: str


class SmdaemonError(Exception):
    """An error that smdaemon foresaw. `code` is stable; `remedy` says what to do.

    The message is lower-case, shows the offending value with !r, and ends without a full stop.
    """

    retryable = False

    def __init__(self, code: str, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = CODES[code].remedy if remedy is None else remedy

    def __str__(self) -> str:
        return self.message


class ConfigError(SmdaemonError):
    """The operator must act: the configuration, the command line, or how the daemon is run."""


class DropError(SmdaemonError):
    """The owner of the data must act: a training output, a request, a checkpoint or a SavedModel is bad."""


class EnvironmentFault(SmdaemonError):  # noqa: N818 - a fault of the world, not of a caller
    """The machine must change: disk, permission, memory. With `retryable` smdaemon tries again by itself."""

    def __init__(self, code: str, message: str, *, remedy: str | None = None, retryable: bool = False) -> None:
        super().__init__(code, message, remedy=remedy)
        self.retryable = retryable


def fault(error: OSError, doing: str) -> EnvironmentFault:
    """What the operating system refused while `doing` something, as an EnvironmentFault.

    Faults that end by themselves or by an operator's hand elsewhere (space, quota, a disk, a mount) are retryable.
    """
    code, retryable = _FAULTS.get(error.errno or 0, ("os-error", False))
    where = f" {error.filename!r}" if error.filename else ""
    reason = (error.strerror or str(error)).lower()
    return EnvironmentFault(code, f"{doing}{where}: {reason}", retryable=retryable)


def shortage(error: Exception) -> EnvironmentFault | None:
    """What an error means that any line may meet where the machine gives no more memory, threads or files; None for all others."""
    if isinstance(error, MemoryError):
        return EnvironmentFault("memory-short", "no memory is left for the export", retryable=True)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return EnvironmentFault("memory-short", "no further thread can be started", retryable=True)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return fault(error, "exporting")
    return None


_FAULTS = {
    errno.ENOSPC: ("disk-full", True),
    errno.EDQUOT: ("quota-exceeded", True),
    errno.EIO: ("io-error", True),
    errno.ESTALE: ("io-error", True),
    errno.ETIMEDOUT: ("io-error", True),
    errno.ENOTCONN: ("io-error", True),
    errno.EACCES: ("permission-denied", False),
    errno.EPERM: ("permission-denied", False),
    errno.EROFS: ("read-only", False),
    errno.ENOENT: ("directory-missing", True),
    errno.ENOTDIR: ("directory-missing", True),
    errno.EMFILE: ("too-many-files", True),
    errno.ENFILE: ("too-many-files", True),
    errno.ENOMEM: ("memory-short", True),
    errno.EAGAIN: ("memory-short", True),  # of fork: no further process, by TasksMax or a limit of the kernel
}

CODES: dict[str, Code] = {
    # configuration and the way the daemon is run: ConfigError
    "config-missing": Code("the configuration file cannot be read", "give the path of a readable file with --config"),
    "config-syntax": Code("the configuration is not valid TOML", "mend the line that the message names"),
    "config-unknown-key": Code(
        "the configuration has a key that smdaemon does not know", "remove it or correct its spelling"
    ),
    "config-invalid": Code("a value of the configuration is of the wrong type or out of range", "correct the value"),
    "config-conflict": Code("two settings of the configuration contradict each other", "change one of them"),
    "state-dir-locked": Code(
        "another daemon uses this state directory", "stop the other daemon, or give this one a state_dir of its own"
    ),
    "socket-in-use": Code(
        "another process answers on a socket or port of ours",
        "stop the other daemon, or set another control_socket, handoff_socket or control_listen",
    ),
    "socket-path": Code(
        "a socket cannot be made at this path", "set control_socket or handoff_socket to a path that can hold a socket"
    ),
    "socket-inherited": Code(
        "a socket that the service manager hands over cannot be served",
        "correct ListenStream= or ListenSequentialPacket= and FileDescriptorName= of the .socket unit",
    ),
    "journal-too-new": Code(
        "the journal was written by a newer smdaemon", "run that smdaemon, or give this one a state_dir of its own"
    ),
    "no-daemon": Code(
        "no daemon answers on the control socket", "start it with: smdaemon run, or give its socket with --socket"
    ),
    "validator-missing": Code(
        "the validator cannot be started", "correct validator: an executable file, and arguments one by one"
    ),
    "notifier-missing": Code(
        "the command of a notifier cannot be started",
        "correct command: an executable file, and arguments one by one; smdaemon tries again by itself",
    ),
    "secret-invalid": Code(
        "a file with a secret is not there, can be read by others, or holds none",
        "chmod 600 it; a webhook's secret is whsec_ and base64: (printf whsec_; openssl rand -base64 32) > FILE",
    ),
    "serving-config-invalid": Code(
        "TensorFlow Serving's model config file cannot be understood, so that smdaemon leaves it as it is",
        "mend the file, or remove it and have it written anew; smdaemon tries again by itself",
    ),
    "not-ready": Code(
        "the daemon answers that it starts, drains or makes no progress", "wait, or see its log and: smdaemon status"
    ),
    "extra-missing": Code(
        "what was asked for needs a package that is not installed with smdaemon itself",
        "install the extra that the message names",
    ),
    # the data: DropError
    "source-missing": Code("the source does not exist", "give the path of an existing training output"),
    "source-not-regular": Code(
        "a file of the source is a pipe, a device, a directory or a link that leads elsewhere",
        "put a regular file there",
    ),
    "source-unknown-format": Code(
        "the format of the source is not recognised", "name the format, or convert the source"
    ),
    "source-truncated": Code(
        "the source is shorter than its own header says", "write the source again; rename it into place"
    ),
    "source-corrupt": Code("the source contradicts its own format", "write the source again"),
    "source-header-too-large": Code("a header claims more bytes than a sound file has", "write the source again"),
    "source-pickled": Code(
        "the source holds pickled Python objects, which are never loaded", "save plain numeric arrays"
    ),
    "source-empty": Code("the source holds no tensors", "save at least one tensor"),
    "source-link": Code(
        "a link would lead from a drop to another file, and links of drops are not followed",
        "put the file itself there; where all who can write there may have what the daemon can read, set follow_links = true for the model",
    ),
    "source-outside": Code(
        "a drop names a file outside of the model's watch directory",
        "put all of the drop beneath the watch directory; where links of all who can write there may be followed, set follow_links = true",
    ),
    "source-changed": Code(
        "the source changed while it was read, or since it was accepted",
        "rename finished files into place, each under a name of its own, and leave them alone",
    ),
    "dtype-unsupported": Code("TensorFlow cannot store or restore this dtype", "convert the tensor before it is saved"),
    "name-invalid": Code(
        "a tensor's name is empty, absolute, or holds '..', '.ATTRIBUTES' or NUL", "rename the tensor"
    ),
    "name-clash": Code(
        "two tensors cannot both exist under their names", "rename one of them, or use rename in a request"
    ),
    "no-step": Code(
        "the version rule is 'step' but neither name nor metadata holds a step",
        'name the file like ckpt-41.npz, or choose version = "timestamp" or "sequence"',
    ),
    "version-exists": Code(
        "the version directory exists already with other content", "remove or rename it, or publish another version"
    ),
    "version-invalid": Code(
        "the version is not a number that TensorFlow Serving takes", "use a whole number from 0 to 2**63 - 1"
    ),
    "request-invalid": Code(
        "the export request cannot be understood", "correct the request; docs/requests.md lists its fields"
    ),
    "request-model-unknown": Code(
        "the request names a model that is not configured", "name a [[model]] of the configuration"
    ),
    "request-duplicate": Code(
        "the same source was asked for with the same options before", "look at its job, or retry it"
    ),
    "request-source-outside": Code(
        "the request's source lies outside the model's watch directory", "put the source beneath the watch directory"
    ),
    "bundle-corrupt": Code(
        "a tensor bundle contradicts its format or a checksum", "restore the files from a good copy"
    ),
    "bundle-missing-shard": Code("a data file of a tensor bundle is missing", "copy all variables.data-* files"),
    "bundle-invalid": Code("the tensors cannot be written as one bundle", "correct the tensors that the message names"),
    "checkpoint-state-invalid": Code(
        "a checkpoint state file cannot be followed", "name the checkpoint's prefix instead of its directory"
    ),
    "checkpoint-graph-missing": Code(
        "the checkpoint has no .meta file, so that there is no graph to serve",
        "save it with write_meta_graph, name a .meta file, or export the weights only",
    ),
    "checkpoint-graph-corrupt": Code(
        "the .meta file of a checkpoint cannot be understood", "save the checkpoint again"
    ),
    "savedmodel-missing": Code("the directory holds no saved_model.pb", "give the version directory of a SavedModel"),
    "savedmodel-corrupt": Code("saved_model.pb cannot be understood", "restore the file from a good copy"),
    "savedmodel-inconsistent": Code(
        "the graph and the variables of a SavedModel do not fit together", "export the model again"
    ),
    "tags-not-found": Code(
        "the SavedModel has no meta graph of exactly these tags", "give one of the tag-sets that the message lists"
    ),
    "signature-invalid": Code(
        "a signature or a description of a tensor is malformed", "correct the inputs and outputs of the signature"
    ),
    "template-mismatch": Code(
        "the tensors do not fit the SavedModel that serves as their template",
        "name the tensors as the template's variables, give a name map, or allow missing or unused names",
    ),
    "device-invalid": Code(
        "a device name or a device policy cannot be understood",
        "write devices like /job:worker/task:0/device:GPU:0, and policies keep, strip, soft or remap:PATTERN=DEVICE",
    ),
    "export-dir-exists": Code(
        "the export directory exists already", "give a directory that does not exist, or remove it"
    ),
    "savedmodel-too-large": Code(
        "saved_model.pb would be longer than any reader can parse", "keep large values in variables, not in the graph"
    ),
    "asset-invalid": Code(
        "an asset leads out of its folder or is no regular file", "name a regular file and a path inside the folder"
    ),
    "builder-order": Code(
        "the parts of a SavedModel were given in an order that makes none",
        "add variables once, with the first meta graph",
    ),
    "option-refused": Code(
        "an option of saving cannot be followed", "leave the option out; the message says why it cannot be followed"
    ),
    "function-invalid": Code(
        "a compiled function contradicts itself or the model it is of", "make the function bundle again"
    ),
    "function-unsupported": Code(
        "a JAX function does what no TensorFlow runtime can do", "change the function as the message says"
    ),
    "function-too-new": Code(
        "the release of TensorFlow that is to serve does not understand a compiled function",
        "save it anew for that release, or name a later one as serving_tensorflow",
    ),
    "function-target-unknown": Code(
        "smdaemon does not know what that release of TensorFlow can run",
        "name 2.19, 2.20 or 2.21 as serving_tensorflow",
    ),
    "parameters-mismatch": Code(
        "the tensors are not the parameters of the function",
        "save the parameters that the function was described with, or give a name map",
    ),
    "validator-refused": Code(
        "the validator refused the export before it was published",
        "read what it said with: smdaemon show JOB; then retry the job, or drop a sound file",
    ),
    "validator-timeout": Code(
        "the validator did not end in time and was killed",
        "raise validator_seconds, or see what keeps it with: smdaemon show JOB",
    ),
    # handoff: DropError where the trainer must act, EnvironmentFault where the machine or the daemon does
    "handoff-tensor": Code("a tensor cannot be handed over", "see the message"),
    "handoff-protocol": Code(
        "a trainer and the daemon do not understand each other", "install the same release of smdaemon on both sides"
    ),
    "handoff-refused": Code(
        "a trainer is not let in: its user may not hand tensors over, or too many trainers are connected",
        "add the user to handoff_users, or run both as one user",
    ),
    "handoff-lost": Code(
        "the tensors of a handoff are gone: daemon and trainer ended before the export did", "save once more"
    ),
    "handoff-memory": Code(
        "the tensors need more shared memory than the daemon may give",
        "raise handoff_memory, or hand fewer tensors over",
    ),
    "handoff-busy": Code(
        "all segments of the trainer wait to be exported",
        "save less often, reserve more segments, or wait: on_busy='wait'",
    ),
    "handoff-away": Code(
        "no daemon answers on the handoff socket",
        "start it with: smdaemon run, with handoff_socket in its configuration",
    ),
    "handoff-elsewhere": Code("another host's daemon was chosen to write", "nothing needs to be done"),
    "handoff-cancelled": Code("a handoff was given up before it was complete", "nothing needs to be done"),
    # the environment: EnvironmentFault
    "disk-full": Code("no space is left where smdaemon writes", "free some space; smdaemon tries again by itself"),
    "disk-low": Code(
        "less space is left where smdaemon publishes than is to stay free",
        "free some space, remove old versions, or lower min_free; smdaemon goes on by itself",
    ),
    "quota-exceeded": Code(
        "the disk quota is used up where smdaemon writes",
        "raise the quota or free some space; smdaemon tries again by itself",
    ),
    "io-error": Code("the storage reported an input/output error", "check the disk; smdaemon tries again by itself"),
    "permission-denied": Code("smdaemon may not read or write a path", "give the daemon's user access to it"),
    "read-only": Code("the file system is mounted read-only", "mount it writable, or publish elsewhere"),
    "directory-slow": Code(
        "a watched directory has not been looked at to its end for a minute, or a publish directory does not answer",
        "see whether its file system answers; smdaemon goes on by itself",
    ),
    "directory-missing": Code(
        "a directory that smdaemon needs is missing", "make the directory; smdaemon tries again by itself"
    ),
    "too-many-files": Code(
        "the limit of open files is reached", "raise LimitNOFILE of the service; smdaemon tries again by itself"
    ),
    "watch-limit": Code(
        "the limit of inotify watches is reached; the directory is polled instead",
        "raise fs.inotify.max_user_watches (or max_user_instances) with sysctl",
    ),
    "memory-budget": Code("the export needs more host memory than the budget allows", "raise host_memory"),
    "memory-short": Code(
        "the machine gives no more memory, threads or processes",
        "free memory, or raise TasksMax of the service; smdaemon tries again by itself",
    ),
    "notifier-failed": Code(
        "the command of a notifier did not end with 0 in time",
        "read what it said in the log; smdaemon tries again by itself",
    ),
    "webhook-refused": Code(
        "the receiver of a webhook did not answer that it has taken the event",
        "see the receiver's log; smdaemon tries again by itself",
    ),
    "webhook-unreachable": Code(
        "the receiver of a webhook cannot be reached, or did not answer in time",
        "see whether it runs and can be reached from here; smdaemon tries again by itself",
    ),
    "os-error": Code("the operating system refused an operation", "see the message; retry the job when it is mended"),
    "journal-corrupt": Code(
        "the journal of the jobs is damaged, or is another program's file",
        "stop the daemon and restore the file from a copy, or move it away to begin an empty journal",
    ),
    # commands and requests over the socket: ConfigError (the asker must act)
    "job-unknown": Code("there is no job of that id", "list the jobs with: smdaemon jobs"),
    "job-not-cancellable": Code("the job has ended already or is being committed", "nothing needs to be done"),
    "job-not-retryable": Code("the job has not failed", "only failed and cancelled jobs can be retried"),
    "job-cancelled": Code("a job that a command waited for was cancelled", "run it again with: smdaemon retry JOB"),
    "version-unknown": Code(
        "this daemon published no such version, or it is no longer there",
        "list what there is with: smdaemon versions MODEL",
    ),
    "too-many-connections": Code(
        "the control socket serves as many connections as it will of those who may not act",
        "see whose they are with: ss -xp; the daemon's owner is let in all the same",
    ),
    "not-allowed": Code("whoever asks may not have this done", "ask the daemon's owner, or be one of control_users"),
    "usage": Code("the command line or the request to the socket is off", "see: smdaemon --help"),
    # a bug
    "internal-error": Code("smdaemon met an error that it did not foresee", "report it, with the log of the daemon"),
    "demo-failed": Code("the demonstration did not end as it should", "report it with what it printed"),
}
