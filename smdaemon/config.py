"""The configuration file: TOML, checked strictly, with file and line in every complaint.

Reading it yields one frozen `Config`; nothing is corrected silently, and a contradiction is refused here rather than met later.
"""

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec

from smdaemon.config_checks import check
from smdaemon.errors import ConfigError
from smdaemon.settings import Config, DaemonSettings, ModelSettings, NotifySettings, ServingSettings

# Who knows the URL of a webhook can often post there.
_UNSAID = {"webhook"}


def load_config(path: Path) -> Config:
    """The configuration in the file at `path`, its relative paths taken from the file's folder.

    Raises ConfigError with `FILE:LINE:` before the message, or `FILE:` where the line is not known.
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
    except (ValueError, RecursionError) as error:  # the parser does not say where
        raise ConfigError("config-syntax", f"{path}: a number too long, or lists too deep: {error}") from error
    lines = _Lines(text)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise _named(error, path, lines) from error
    check(config, path, lines.of)
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
                self._lines.setdefault(f"$.{many[1]}", number)
            elif one := re.fullmatch(r"\[\s*([\w.-]+)\s*\]", bare):
                table = f"$.{one[1]}"
                self._lines[table] = number
            elif key := re.match(r"""(?:"([^"]+)"|'([^']+)'|([\w-]+))\s*=""", bare):
                self._lines.setdefault(f"{table}.{key[1] or key[2] or key[3]}", number)

    def of(self, where: str) -> int:
        """The line of `where`, or of the nearest thing around it."""
        while where not in self._lines:
            around = re.sub(r"(\.[^.\[]+|\[[^\]]*\])$", "", where)
            # a key in quotes may hold anything: then it ends at its last point at the latest
            where = around if around != where else where.rpartition(".")[0] or "$"
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
        table_name = "the file" if where == "$" else where.removeprefix("$.")
        message = f"{path}:{lines.of(where)}: {table_name} has no {missing[1]!r}"
        return ConfigError("config-invalid", message, remedy=f"add {missing[1]}")
    table_path, _, key = where.rpartition(".")
    message = f"{path}:{lines.of(where)}: {key}: {said[:1].lower()}{said[1:]}"
    if said.startswith("Expected `array`, got `object`") and key in ("model", "notify"):
        return ConfigError("config-invalid", message, remedy=f"write [[{key}]], in two brackets: there may be several")
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
