"""The `smdaemon` command: a list of commands, each in a module that is imported when it is called."""

import errno
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from smdaemon import __version__
from smdaemon.errors import ConfigError, EnvironmentFault, SmdaemonError

if TYPE_CHECKING:
    from cyclopts import App

DONE, FAILED, USAGE = 0, 1, 2
_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

SUMMARY = "Publishes TensorFlow SavedModels beside a training job, without TensorFlow."


class Command(NamedTuple):
    """A command: its name, the function that does it ('module:function', imported at use) and one line of help."""

    name: str
    target: str
    help: str


GROUPS: dict[str, list[Command]] = {
    "The daemon": [
        Command("run", "smdaemon.cli.run:run", "Watch directories and publish what drops there."),
        Command(
            "check-config", "smdaemon.cli.check_config:check_config", "Read a configuration and say what is wrong."
        ),
        Command("demo", "smdaemon.cli.demo:demo", "Show all of it once, in a scratch directory."),
    ],
    "Without a daemon": [
        Command("export", "smdaemon.cli.export:export", "Turn one training output into a SavedModel."),
        Command("inspect", "smdaemon.cli.inspect:inspect", "Show what a SavedModel holds."),
        Command("diff", "smdaemon.cli.diff:diff", "Compare two SavedModels."),
        Command("verify", "smdaemon.cli.verify:verify", "Check every checksum of a SavedModel."),
    ],
    "Ask the daemon": [
        Command("status", "smdaemon.cli.status:status", "Show the daemon, its models and what runs."),
        Command("top", "smdaemon.cli.top:top", "The same, live: models, queue and meters."),
        Command("health", "smdaemon.cli.health:health", "Exit with 0 while the daemon is well: a probe."),
        Command("jobs", "smdaemon.cli.jobs:jobs", "List jobs, newest first."),
        Command("show", "smdaemon.cli.jobs:show", "Show one job with its history."),
        Command("cancel", "smdaemon.cli.jobs:cancel", "Cancel an open job."),
        Command("retry", "smdaemon.cli.jobs:retry", "Run failed or cancelled jobs again."),
        Command("versions", "smdaemon.cli.versions:versions", "List a model's versions and why each stays."),
        Command("pin", "smdaemon.cli.versions:pin", "Keep a version, whatever the rules say."),
        Command("unpin", "smdaemon.cli.versions:unpin", "Leave a pinned version to the rules again."),
        Command("prune", "smdaemon.cli.versions:prune", "Remove the versions that no rule keeps."),
        Command("rollback", "smdaemon.cli.versions:rollback", "Publish an older version as the newest."),
    ],
    "The shell": [
        Command("completion", "smdaemon.cli.completion:completion", "Print or install shell completion."),
    ],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line says and exit with 0 (done), 1 (failed) or 2 (usage)."""
    sys.exit(dispatch(sys.argv[1:] if argv is None else argv))


def dispatch(argv: Sequence[str]) -> int:
    """Do what `argv` says; the exit code. An exception that leaves this is a bug."""
    try:
        code = _answer(list(argv))
        if sys.stdout is not None:  # None where the caller closed it: nobody is to be told
            sys.stdout.flush()  # here, where a reader that has left can be forgiven
    except BrokenPipeError:
        _drop_stdout()
        return FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_stdout()
        print(f"error: what was to be printed could not be: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return FAILED
    except SmdaemonError as error:
        from smdaemon.cli.output import print_error

        if isinstance(error, EnvironmentFault):  # a daemon would, a command does not
            error.remedy = error.remedy.removesuffix("; smdaemon tries again by itself")
        print_error(error)
        return USAGE if error.code == "usage" else FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _answer(argv: list[str]) -> int:
    if not argv or argv[0] in {"--help", "-h", "help"}:
        print(help_text())
    elif argv[0] in {"--version", "-V"}:
        print(f"smdaemon {__version__}")
    else:
        _require_command(argv[0])
        return DONE if _inspected(argv) or _probed(argv) else _call(argv)
    return DONE


def _inspected(argv: list[str]) -> bool:
    """Do `inspect DIR` and `inspect DIR --json` without the parser: importing that takes as long as all the rest of them."""
    words = [word for word in argv[1:] if word != "--json"]
    if argv[0] != "inspect" or len(words) != 1 or words[0].startswith("-") or len(argv) > 3:
        return False
    from pathlib import Path

    from smdaemon.cli.inspect_page import show

    show(Path(words[0]), as_json=len(words) < len(argv) - 1)
    return True


def _probed(argv: list[str]) -> bool:
    """Do `health`, with --ready and --socket PATH, without the parser: an orchestrator runs it every few seconds."""
    options = [word for word in argv[1:] if word != "--ready"]
    if argv[0] != "health" or len(options) not in (0, 2) or options[:1] not in ([], ["--socket"]):
        return False
    from smdaemon.cli.probe import probe

    probe(options[1] if options else None, ready=len(options) < len(argv) - 1)
    return True


def _call(argv: list[str]) -> int:
    from cyclopts import CycloptsError

    try:
        result = make_app()(argv, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ConfigError("usage", _one_line(str(error)), remedy=f"see: smdaemon {argv[0]} --help") from error
    return result if isinstance(result, int) else DONE


def make_app() -> "App":
    """The whole command line; the commands' modules are not imported yet."""
    from cyclopts import App

    app = App(name="smdaemon", help=SUMMARY, version=__version__, result_action="return_value")
    for group, commands in GROUPS.items():
        for command in commands:
            app.command(command.target, name=command.name, help=command.help, group=group)
    return app


def help_text() -> str:
    """The help of the whole command. Written here: laying it out with rich would take most of its 0.3 s."""
    lines = ["Usage: smdaemon COMMAND [OPTIONS]", "", SUMMARY]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {command.name:<14}{command.help}" for command in commands]
    lines += ["", "smdaemon COMMAND --help says more. smdaemon --version prints the version."]
    return "\n".join(lines)


def _require_command(name: str) -> None:
    """ConfigError usage unless `name` is a command. Asked before cyclopts, which imports every command to find the nearest."""
    known = [command.name for commands in GROUPS.values() for command in commands]
    if name not in known:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        raise ConfigError("usage", f"there is no command {name!r}{hint}")


def _one_line(text: str) -> str:
    """A parser's message in the form of smdaemon's own: one line, lower-case, no full stop."""
    line = " ".join(text.split()).rstrip(".").replace("Unused Tokens", "too many arguments")
    return line[:1].lower() + line[1:]


def _drop_stdout() -> None:
    """Point stdout at nothing: whoever read it has left, and Python would complain at exit that it cannot flush."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
