"""TensorFlow Serving's model config file as text: ours brought up to date, others' kept."""

import pytest
from google.protobuf import text_format

from smdaemon.errors import ConfigError
from smdaemon.proto.pool import pool
from smdaemon.proto.serving import ModelServerConfig
from smdaemon.publish.serving_config import Entry, updated

OTHERS = b"""
# somebody's own
model_config_list {
  config {
    name: "theirs"
    base_path: "/theirs"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 3 } }
    version_labels { key: "stable" value: 7 }
    logging_config { log_collector_config { type: "file" filename_prefix: "/log" } sampling_config { sampling_rate: 0.5 } }
  }
}
"""


def parsed(text: bytes) -> ModelServerConfig:
    """What protobuf's own reader makes of a text."""
    return text_format.Parse(text, ModelServerConfig(), descriptor_pool=pool())


def test_a_new_file_has_an_entry_for_each_model():
    """With policy and labels; a second time there is nothing to write."""
    entries = [
        Entry("ranker", "/models/ranker", labels={"stable": 41}),
        Entry("tower", "/models/tower", listed=(3, 7), labels={"old": 3, "new": 7}),
        Entry("two", "/models/two", every=True),
    ]
    text = updated(None, entries, {"ranker", "tower", "two"})
    assert parsed(text) == parsed(b"""
        model_config_list {
          config { name: "ranker" base_path: "/models/ranker" model_platform: "tensorflow"
                   model_version_policy { latest { num_versions: 1 } } version_labels { key: "stable" value: 41 } }
          config { name: "tower" base_path: "/models/tower" model_platform: "tensorflow"
                   model_version_policy { specific { versions: 3 versions: 7 } }
                   version_labels { key: "old" value: 3 } version_labels { key: "new" value: 7 } }
          config { name: "two" base_path: "/models/two" model_platform: "tensorflow" model_version_policy { all {} } }
        }""")
    assert updated(text, entries, {"ranker", "tower", "two"}) is None


def test_the_entries_of_others_are_kept():
    """Field for field, and in their order."""
    entries = [Entry("ranker", "/models/ranker")]
    made = parsed(updated(OTHERS, entries, {"ranker"}))
    assert [model.name for model in made.model_config_list.config] == ["theirs", "ranker"]
    assert made.model_config_list.config[0] == parsed(OTHERS).model_config_list.config[0]


def test_our_entry_is_replaced_where_it_stands():
    """Another policy and other labels take the place of the old ones; what is not ours to say stays; a second one of the name goes."""
    ours = OTHERS.replace(b"theirs", b"ranker")
    twice = parsed(ours)
    twice.model_config_list.config.add(name="ranker", base_path="/old", model_type=1)
    twice.model_config_list.config.add(name="last")
    text = text_format.MessageToString(twice).encode()
    made = parsed(updated(text, [Entry("ranker", "/models/ranker", listed=(9,), labels={"new": 9})], {"ranker"}))
    ranker, last = made.model_config_list.config
    assert (ranker.base_path, last.name) == ("/models/ranker", "last")
    assert list(ranker.model_version_policy.specific.versions) == [9]
    assert dict(ranker.version_labels) == {"new": 9}
    assert ranker.logging_config == parsed(ours).model_config_list.config[0].logging_config


def test_a_model_with_nothing_to_serve_has_no_entry():
    """Serving refuses a list of no versions."""
    text = updated(OTHERS, [Entry("ranker", "/models/ranker", listed=(1,))], {"ranker"})
    assert parsed(updated(text, [], {"ranker"})) == parsed(OTHERS)
    assert updated(OTHERS, [], {"ranker"}) is None


def test_no_model_at_all_is_a_list_without_entries():
    """Serving starts with it, and gets its models later."""
    assert parsed(updated(None, [], set())).WhichOneof("config") == "model_config_list"


@pytest.mark.parametrize(
    "text",
    [
        b"model_config_list {",
        b'model_config_list { config { name: "a" no_such_field: 1 } }',
        b"\xff\xfe",
        b'custom_model_config { type_url: "a/b" value: "" }',
    ],
)
def test_what_cannot_be_understood_is_refused(text):
    """Rather than written over: it may say what is not known here."""
    with pytest.raises(ConfigError) as caught:
        updated(text, [Entry("ranker", "/models")], {"ranker"})
    assert caught.value.code == "serving-config-invalid"
