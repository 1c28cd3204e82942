"""TensorFlow Serving's model config file, `ModelServerConfig` in text format: our models' entries brought up to date, others' kept. Pure.

The messages are those of tensorflow_serving/config/model_server_config.proto. An entry of ours gets name, path, platform, policy and
labels from us; what else somebody has put into it stays. Comments do not: the text is written anew.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smdaemon.errors import ConfigError

if TYPE_CHECKING:
    from smdaemon.proto.serving import ModelConfig, ModelServerConfig

_HEAD = "# Entries of models that smdaemon publishes are kept up to date by it; all others are left as they are.\n"


@dataclass(frozen=True)
class Entry:
    """What is to be said of one model. `listed` has the versions that are to be loaded, None for a rule: `every`, or the latest alone."""

    name: str
    base_path: str
    listed: tuple[int, ...] | None = None
    every: bool = False
    labels: Mapping[str, int] = field(default_factory=dict)


def updated(text: bytes | None, entries: Sequence[Entry], ours: Collection[str]) -> bytes | None:
    """The text with `entries`, and without those of `ours` that have none; None where it says all of that already.

    `text` is what the file has, None where there is none. ConfigError `serving-config-invalid` where it cannot be understood.
    """
    from google.protobuf import text_format

    from smdaemon.proto.serving import ModelServerConfig

    config = ModelServerConfig() if text is None else _parsed(text)
    before = ModelServerConfig()
    before.CopyFrom(config)
    wanted = {entry.name: entry for entry in entries}
    models = config.model_config_list.config
    for at in reversed(range(len(models))):
        name = models[at].name
        twice = any(other.name == name for other in models[:at])
        if name in ours and (name not in wanted or twice):
            del models[at]
    there = {model.name: model for model in models}
    for entry in entries:
        _fill(there.get(entry.name) or models.add(), entry)
    config.model_config_list.SetInParent()
    if text is not None and config == before:
        return None
    return (_HEAD + text_format.MessageToString(config, as_utf8=True)).encode()


def _parsed(text: bytes) -> "ModelServerConfig":
    from google.protobuf import text_format

    from smdaemon.proto.pool import pool
    from smdaemon.proto.serving import ModelServerConfig

    try:
        config = text_format.Parse(text.decode(), ModelServerConfig(), descriptor_pool=pool())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        said = str(error)
        raise ConfigError("serving-config-invalid", f"no ModelServerConfig: {said[:1].lower()}{said[1:]}") from error
    if config.WhichOneof("config") == "custom_model_config":
        raise ConfigError("serving-config-invalid", "it has a custom_model_config, beside which there can be no list")
    return config


def _fill(model: "ModelConfig", entry: Entry) -> None:
    model.name, model.base_path, model.model_platform = entry.name, entry.base_path, "tensorflow"
    model.ClearField("model_type")
    policy = model.model_version_policy
    if entry.listed is not None:
        policy.specific.ClearField("versions")
        policy.specific.versions.extend(entry.listed)
    elif entry.every:
        policy.all.SetInParent()
    else:
        policy.latest.num_versions = 1
    model.version_labels.clear()
    model.version_labels.update(entry.labels)
