# ruff: noqa: INP001 - docs/ is no package, and this is a script
"""Writes the tables of the documentation from the code, so that they cannot drift from it.

A table stands between `<!-- reference: NAME -->` and `<!-- end of reference -->` in one of PAGES.

    python docs/reference.py           write
    python docs/reference.py --check   name the tables that differ, and exit with 1 if there are any
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from smdaemon import errors, settings
from smdaemon.cli.main import GROUPS, make_app
from smdaemon.control.app import OPERATIONS
from smdaemon.control.metrics import Metrics
from smdaemon.jobs.states import TRANSITIONS, State
from smdaemon.proto import v1
from smdaemon.sources.formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/cli.md",
    "docs/configuration.md",
    "docs/control-api.md",
    "docs/drops.md",
    "docs/errors.md",
    "docs/jobs.md",
    "docs/messages.md",
    "docs/monitoring.md",
    "docs/requests.md",
)

_MARKED = re.compile(r"(?<=<!-- reference: )([a-z-]+)( -->\n).*?(?=<!-- end of reference -->)", re.DOTALL)

# What a state means, and what a person does who finds a job in it.
STATES: dict[State, tuple[str, str]] = {
    State.DETECTED: ("seen and written to the journal", "nothing; it lasts an instant"),
    State.QUEUED: (
        "waits for a worker, for an older job of its model, or while the queue of its model pauses",
        "nothing; if it lasts, `smdaemon status`: what runs, and whether its model is `degraded`",
    ),
    State.STAGING: ("its version is chosen and its source is being opened", "nothing"),
    State.WRITING: ("its files are being written to a hidden draft", "nothing; `smdaemon show` tells bytes and speed"),
    State.VERIFYING: (
        "its files are being read back and their checksums compared; then its validator judges them",
        "nothing; `validator_seconds` is the limit of that",
    ),
    State.COMMITTING: ("its draft is being renamed to its version", "nothing; it can no longer be cancelled"),
    State.PUBLISHED: ("the version directory is there, whole and durable", "nothing"),
    State.WAITING: (
        "the machine refused (disk full, ...); smdaemon tries again at `retry_at`",
        "read the error; make room or mend the disk; nothing has to be restarted",
    ),
    State.FAILED: (
        "it cannot succeed by itself; the drop is as it was",
        "read the error and its remedy, then `smdaemon retry JOB`, or drop a sound file",
    ),
    State.SUPERSEDED: (
        'a newer drop of its model was published, and `on_backlog = "latest"`',
        "nothing; if you want it all the same, ask for it by a request",
    ),
    State.CANCELLED: ("a person cancelled it; the drop is as it was", "nothing, or `smdaemon retry JOB`"),
}


def render(page: str) -> str:
    """The text of a page with every marked table as the code has it now."""
    return _MARKED.sub(lambda mark: f"{mark[1]}{mark[2]}\n{TABLES[mark[1]]()}\n\n", page)


def names_in(page: str) -> list[str]:
    """The names of the tables that a page holds."""
    return [mark[1] for mark in _MARKED.finditer(page)]


def errors_table() -> str:
    """All error codes, grouped by who must act."""
    parts = []
    for heading, codes in _error_groups():
        rows = [(f"`{code}`", errors.CODES[code].meaning, errors.CODES[code].remedy) for code in codes]
        parts.append(f"**{heading[0].upper()}{heading[1:]}**\n\n{_table(('code', 'meaning', 'remedy'), rows)}")
    return "\n\n".join(parts)


def _error_groups() -> list[tuple[str, list[str]]]:
    """The comments inside `errors.CODES` and the codes below each."""
    groups: list[tuple[str, list[str]]] = []
    _, _, source = Path(errors.__file__).read_text().partition("CODES: dict")
    for line in source.splitlines():
        if comment := re.fullmatch(r" {4}# (.+)", line):
            groups.append((comment[1], []))
        elif code := re.match(r' {4}"([a-z-]+)": Code\(', line):
            groups[-1][1].append(code[1])
    return groups


def keys_table(kind: type[msgspec.Struct]) -> str:
    """The keys of one table of the configuration: type, default and the comment above the field."""
    comments = _comments_above_fields(kind)
    rows = [
        (f"`{field.name}`", _type_text(field.type), _default_text(field), comments[field.name])
        for field in msgspec.structs.fields(kind)
    ]
    return _table(("key", "type", "default", "meaning"), rows)


def _comments_above_fields(kind: type[msgspec.Struct]) -> dict[str, str]:
    lines = Path(settings.__file__).read_text().splitlines()
    (body,) = [
        node.body
        for node in ast.parse("\n".join(lines)).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    comments = {}
    for field in body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        first = field.lineno - 1
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        comments[field.target.id] = " ".join(line.strip(" #") for line in lines[first : field.lineno - 1])
    return comments


def _type_text(annotation: Any) -> str:
    """A type as a person says it."""
    if get_origin(annotation) is Literal:
        return ", ".join(f'`"{value}"`' for value in get_args(annotation))
    told: str
    match msgspec.inspect.type_info(annotation):
        case msgspec.inspect.IntType(ge=low, le=high):
            told = f"whole number, {low} to {high}"
        case msgspec.inspect.FloatType(gt=above):
            told = "number, 0 or more" if above is None else "number, more than 0"
        case msgspec.inspect.BoolType():
            told = "`true` or `false`"
        case msgspec.inspect.ListType(item_type=msgspec.inspect.LiteralType()):
            (literal,) = get_args(annotation)
            told = "list of " + ", ".join(f'`"{value}"`' for value in get_args(literal))
        case msgspec.inspect.ListType():
            told = "list of text"
        case msgspec.inspect.DictType(value_type=msgspec.inspect.LiteralType()):
            told = "text to " + ", ".join(f'`"{value}"`' for value in get_args(get_args(annotation)[1]))
        case msgspec.inspect.DictType(value_type=msgspec.inspect.StructType()):
            told = "table of tables"
        case msgspec.inspect.DictType():
            told = "table of text"
        case _:
            told = "text"
    return told


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value}`".replace("'", '"')


def states_table() -> str:
    """Every state, where it can go from there, and what a person does."""
    rows = []
    for state in State:
        targets = dict.fromkeys(to.value for (at, _), to in TRANSITIONS.items() if at is state)
        meaning, action = STATES[state]
        rows.append((f"`{state}`", meaning, ", ".join(targets) or "the end", action))
    return _table(("state", "the job", "goes on to", "what you do"), rows)


def routes_table() -> str:
    """The paths of the control socket."""
    rows = []
    for operation in OPERATIONS:
        query = ", ".join(f"`{name}`" for name in operation.query or ())
        rows.append(
            (
                f"`{operation.method} {operation.path}`",
                operation.summary,
                query,
                operation.answer.DESCRIPTOR.name if operation.answer else operation.media,
            )
        )
    return _table(("route", "what it is", "query", "answer"), rows)


def metrics_table() -> str:
    """The metrics with smdaemon's name."""
    rows = []
    for family in full_metrics().registry.collect():
        if family.name.startswith("smdaemon_"):
            ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
            listed = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{family.name}{ending}`", family.type, listed, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), rows)


def full_metrics() -> Metrics:
    """The metrics of a daemon that has everything that a metric tells of: so none is left out, nor a label."""
    model = v1.Model(name="m", watch_method="inotify", newest_version=1, jobs={"queued": 1}, disk_bytes=1)
    model.newest_at.seconds = model.oldest_open_at.seconds = 1
    told = {"notifiers": [v1.Notifier(name="n")], "serving": v1.ServingConfig(), "handoff": v1.Handoff()}
    metrics = Metrics(lambda: v1.Status(version="0", models=[model], **told))
    metrics.observe_export("m", 1.0, 1)
    metrics.observe_stall("m", 1.0)
    metrics.observe_removals("m", 1)
    return metrics


def commands_table() -> str:
    """The commands."""
    rows = [
        (f"`smdaemon {command.name}`", command.help, group)
        for group, commands in GROUPS.items()
        for command in commands
    ]
    return _table(("command", "what it does", "kind"), rows)


def options_of_commands() -> str:
    """Every command with its parameters, as its own help has them."""
    whole: str = make_app().generate_docs(output_format="markdown")
    _, mark, commands = whole.partition("## smdaemon run")
    assert mark
    return f"{mark}{commands}".rstrip()


# What is no drop by its name alone.
_NAMED = {
    "tf1-checkpoint": "`*.index`, where `format` says so",
    "saved-model": "none: named by a request or `smdaemon export`",
}


def formats_table() -> str:
    """The source formats."""
    rows = []
    for known in FORMATS:
        judged = "its own structure" if known.self_judging else "a rename into place, or a quiet period"
        named = f"`*{known.suffix}`" if known.suffix else "a directory"
        rows.append((f"`{known.name}`", _NAMED.get(known.name, named), judged))
    return _table(("format", "name of the drop", "complete by"), rows)


def message_table(name: str) -> str:
    """The fields of a message of `export.proto` and the comment above each."""
    source = (ROOT / "protos/smdaemon/v1/export.proto").read_text()
    found = re.search(rf"^message {name} \{{\n(.*?)^\}}", source, re.DOTALL | re.MULTILINE)
    assert found is not None
    rows, comment = [], list[str]()
    for line in found[1].splitlines():
        if said := re.match(r"\s*// (.*)", line):
            comment.append(said[1])
        elif field := re.match(r"\s*(?:optional )?(.+) (\w+) = \d+;", line):
            rows.append((f"`{field[2]}`", _FIELD_TYPES[field[1]], " ".join(comment)))
            comment = []
    return _table(("field", "type", "meaning"), rows)


def messages_tables() -> str:
    """Every message of the project's own protos: what it is, its fields and the comments above them."""
    parts = []
    for file in sorted((ROOT / "protos/smdaemon/v1").glob("*.proto")):
        parts.append(f"## {file.name}\n\n{_sentence(_leading_comment(file.read_text()))}")
        for name, comment, fields in _messages_in(file.read_text()):
            said = f"{_sentence(comment)}\n\n" if comment else ""
            table = _table(("number", "field", "type", "meaning"), fields) if fields else "No fields."
            parts.append(f"### {name}\n\n{said}{table}")
    return "\n\n".join(parts)


def _leading_comment(source: str) -> str:
    return " ".join(line.strip("/ ") for line in source.partition("syntax")[0].splitlines())


def _sentence(text: str) -> str:
    """With an end, and what would be a tag in Markdown as code."""
    return re.sub(r"\[\[model\]\]", "`[[model]]`", text if text.endswith(".") else f"{text}.")


def _messages_in(source: str) -> Iterator[tuple[str, str, list[tuple[str, str, str, str]]]]:
    """The messages of a .proto: name, comment above, and rows of number, field, type and comment."""
    comment: list[str] = []
    name, above, fields = "", "", list[tuple[str, str, str, str]]()
    for line in source.splitlines():
        if said := re.match(r"\s*// (.*)", line):
            comment.append(said[1])
            continue
        if begun := re.match(r"message (\w+) \{(\})?", line):
            name, above, fields = begun[1], " ".join(comment), []
        elif name and (field := re.match(r"\s+(.+) (\w+) = (\d+);", line)):
            fields.append((field[3], f"`{field[2]}`", f"`{field[1]}`", _sentence(" ".join(comment)) if comment else ""))
        if name and re.match(r"\}|message \w+ \{\}", line):
            yield name, above, fields
            name = ""
        comment = []


_FIELD_TYPES = {
    "string": "text",
    "int64": "whole number",
    "int32": "whole number",
    "double": "number",
    "repeated string": "list of text",
    "map<string, string>": "text to text",
    "map<string, double>": "text to number",
    "bool": "`true` or `false`",
    "map<string, Signature>": "name to object: `inputs` and `outputs` (name to tensor name), `method`",
    "map<string, ModeGraph>": "mode to object: `template`, `tags`",
    "google.protobuf.Timestamp": "time, RFC 3339",
    "Error": "object: `code`, `message`, `remedy`, `retryable`",
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "command-options": options_of_commands,
    "commands": commands_table,
    "daemon-keys": lambda: keys_table(settings.DaemonSettings),
    "errors": errors_table,
    "formats": formats_table,
    "messages": messages_tables,
    "metrics": metrics_table,
    "notify-keys": lambda: keys_table(settings.NotifySettings),
    "serving-keys": lambda: keys_table(settings.ServingSettings),
    "mode-keys": lambda: keys_table(settings.ModeSettings),
    "model-keys": lambda: keys_table(settings.ModelSettings),
    "request-fields": lambda: message_table("ExportRequest"),
    "result-fields": lambda: message_table("ExportResult"),
    "routes": routes_table,
    "signature-keys": lambda: keys_table(settings.SignatureSettings),
    "states": states_table,
}


def main(argv: Sequence[str]) -> int:
    """Write or check all pages."""
    different = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        if render(text) != text:
            different.append(page)
            if "--check" not in argv:
                path.write_text(render(text))
    for page in different:
        sys.stderr.write(f"{page}: {'differs from the code' if '--check' in argv else 'written'}\n")
    return 1 if different and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
