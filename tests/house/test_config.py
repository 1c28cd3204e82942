from pathlib import Path

import pytest

from smdaemon.config import differences, load_config, parse_config
from smdaemon.daemon.settings import load_settings
from smdaemon.errors import ConfigError
from smdaemon.settings import Config, parse_size
from smdaemon.tensorbundle.writer import SHARDS_LIMIT

GOOD = """\
[daemon]
state_dir = "state"
control_socket = "/run/smdaemon/control.sock"

[[model]]
name = "ranker"
watch = "runs"
publish = "models"
"""
FILE = Path("/etc/smdaemon/config.toml")


def refused(text: str) -> ConfigError:
    """The error that the configuration `text` is refused with."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode(), FILE)
    return caught.value


def test_relative_paths_are_taken_from_the_files_folder():
    """A path without a leading slash lies beside the configuration file."""
    config = parse_config(GOOD.encode(), FILE)
    assert config.daemon.state_dir == "/etc/smdaemon/state"
    assert config.daemon.control_socket == "/run/smdaemon/control.sock"
    assert config.model[0].watch == "/etc/smdaemon/runs"


def test_the_shipped_configuration_is_sound():
    """The config.toml at the top of the repository loads."""
    config = load_config(Path(__file__).parents[2] / "config.toml")
    assert config.model_named("ranker") is not None
    assert config.model_named("nobody") is None


@pytest.mark.parametrize(
    ("change", "code", "line", "words"),
    [
        (("watch =", "wach ="), "config-unknown-key", 7, "'wach'"),
        (('name = "ranker"', 'name = "rank er"'), "config-invalid", 6, "'rank er'"),
        (('publish = "models"', 'publish = "runs"'), "config-conflict", 8, "within each other"),
        (('publish = "models"', 'publish = "runs/x"\nrecursive = true'), "config-conflict", 8, "within each other"),
        (('publish = "models"', ""), "config-invalid", 5, "'publish'"),
        (('publish = "models"', "publish = 3"), "config-invalid", 8, "publish"),
        (("[daemon]", "[daemon]\nworkers = 0"), "config-invalid", 2, "workers"),
        (("[daemon]", '[daemon]\nhost_memory = "much"'), "config-invalid", 2, "'much'"),
        (("[daemon]", "[daemon"), "config-syntax", 1, ""),
        (("[[model]]", "[[models]]"), "config-unknown-key", 5, "'models'"),
        (("[[model]]", "[model]"), "config-invalid", 5, "got `object`"),
        (("[daemon]", "[daemon]\ncontrol_listen = '8470'"), "config-invalid", 2, "is not HOST:PORT"),
        (("[daemon]", "[daemon]\ncontrol_listen = '[::1]:x'"), "config-invalid", 2, "is not HOST:PORT"),
        (("[daemon]", "[daemon]\ncontrol_listen = '0.0.0.0:8470'"), "config-invalid", 2, "by other machines"),
        (("[daemon]", f"[daemon]\nhandoff_socket = '/{'s' * 107}'"), "config-invalid", 2, "has 108 bytes"),
        (("[daemon]", "[demon]"), "config-unknown-key", 1, "'demon'"),
        (("[[model]]", "[[model]]\nversion = 'stepp'"), "config-invalid", 6, "version"),
        (("[[model]]", "[[model]]\nkeep_last = -1"), "config-invalid", 6, "keep_last"),
        (("[[model]]", "[[model]]\nmetric_goal = 'most'"), "config-invalid", 6, "metric_goal"),
        (("[[model]]", "[[model]]\nwrite_rate = '0.2'"), "config-invalid", 6, "'0.2'"),
        (("[[model]]", "[[model]]\n'tags[' = 1"), "config-unknown-key", 6, "'tags['"),
        (("[[model]]", "[[model]]\n'tags.' = 1"), "config-unknown-key", 6, "'tags.'"),
        (("[[model]]", "[[model]]\nkeep_best = 2"), "config-conflict", 6, "without metric"),
        (("[[model]]", "[[model]]\nkeep_best = 2\nmetric = 'auc'"), "config-conflict", 6, "without metric_goal"),
        (("[[model]]", "[[model]]\nvalidator = ['']"), "config-invalid", 6, "['']"),
        (("[[model]]", '[[model]]\nvalidator = ["a", "\\u0000"]'), "config-invalid", 6, "is no command"),
        (("[[model]]", "[[model]]\nvalidator = 'a'"), "config-invalid", 6, "validator"),
        (("[[model]]", "[[model]]\nwrite_rate = '0'"), "config-invalid", 6, "'0'"),
        (("[[model]]", "[[model]]\nwrite_rate = '0.1B'"), "config-invalid", 6, "'0.1B'"),
        (("[daemon]", "'[' = 1\n[daemon]"), "config-unknown-key", 1, "'['"),
        (("[[model]]", "[[model]]\nvalidator_seconds = 0"), "config-invalid", 6, "validator_seconds"),
        (("[[model]]", "[[model]]\npriority = 1.5"), "config-invalid", 6, "priority"),
        *(
            (("[[model]]", f"{table}\n\n[[model]]"), code, line, words)
            for table, code, line, words in (
                ("[[notify]]\nname = 'n'", "config-conflict", 5, "has no target"),
                ("[[notify]]\nname = 'n'\nwebhook = 'https://h'\ncommand = ['a']", "config-conflict", 5, "both"),
                ("[[notify]]\nwebhook = 'https://h'", "config-invalid", 5, "'name'"),
                ("[[notify]]\nname = 'a b'\nwebhook = 'https://h'", "config-invalid", 6, "'a b'"),
                ("[[notify]]\nname = 'n'\ncommand = ['']", "config-invalid", 7, "is no command"),
                ("[[notify]]\nname = 'n'\ncommand = ['a']\non = []", "config-invalid", 8, "told nothing"),
                ("[[notify]]\nname = 'n'\ncommand = ['a']\non = ['queued']", "config-invalid", 8, "'queued'"),
                ("[[notify]]\nname = 'n'\ncommand = ['a']\nsecret_file = 's'", "config-conflict", 8, "secret_file"),
                ("[[notify]]\nname = 'n'\ncommand = ['a']\nretries = 3", "config-unknown-key", 8, "'retries'"),
                ("[[notify]]\nname = 'n'\nwebhook = 'http://h/x'", "config-conflict", 7, "without TLS"),
                ("[[notify]]\nname = 'n'\nwebhook = 'ftp://h/x'", "config-invalid", 7, "no URL"),
                ("[[notify]]\nname = 'n'\nwebhook = 'https:///x'", "config-invalid", 7, "no URL"),
                ("[[notify]]\nname = 'n'\nwebhook = 'https://h:x/'", "config-invalid", 7, "no URL"),
                ("[[notify]]\nname = 'n'\nwebhook = 'https://h/ x'", "config-invalid", 7, "no URL"),
                ("[[notify]]\nname = 'n'\nwebhook = 'https://u:pw@h/'", "config-invalid", 7, "a password"),
                (
                    "[[notify]]\nname = 'n'\ncommand = ['a']\nretry_for_seconds = 3e6",
                    "config-conflict",
                    8,
                    "keep_jobs_days, 30",
                ),
                ("[serving]", "config-invalid", 5, "'config_file'"),
                ("[serving]\nconfig_file = 'c'\nlabels = {a = 'best'}", "config-invalid", 7, "'best'"),
                ("[serving]\nconfig_file = 'c'\nlabels = {'a b' = 'newest'}", "config-invalid", 7, "'a b'"),
                ("[serving]\nconfig_file = 'c'\nlabels = {a = 'pinned'}", "config-conflict", 7, "newest alone"),
                ("[serving]\nconfig_file = 'c'\nversions = 'listed'", "config-conflict", 7, "without labels"),
            )
        ),
    ],
)
def test_a_mistake_is_reported_with_file_line_and_words(change, code, line, words):
    """Every kind of mistake names its code, the line it stands on, and the value."""
    error = refused(GOOD.replace(*change))
    assert error.code == code
    assert str(error).startswith(f"{FILE}:{line}: ")
    assert words in str(error)
    assert error.remedy


def test_two_models_of_one_name_are_refused_at_the_second():
    """The line is that of the second model's key."""
    error = refused(GOOD + '\n[[model]]\nname = "ranker"\nwatch = "a"\npublish = "b"\n')
    assert (error.code, str(error).split(":")[1]) == ("config-conflict", "11")


def test_two_models_of_one_publish_directory_are_refused():
    """Two series of versions in one directory would overwrite each other's numbers."""
    error = refused(GOOD + '\n[[model]]\nname = "other"\nwatch = "a"\npublish = "./models"\n')
    assert error.code == "config-conflict"


@pytest.mark.parametrize(("publish", "recursive"), [("runs", "false"), ("runs/other", "true")])
def test_a_model_cannot_publish_where_another_watches(publish, recursive):
    """Its versions would be drops of the other one. Beside a watch that is not recursive there is room."""
    other = f'\n[[model]]\nname = "other"\nwatch = "a"\npublish = "{publish}"\n'
    error = refused(GOOD.replace('watch = "runs"', f'watch = "runs"\nrecursive = {recursive}') + other)
    assert error.code == "config-conflict"
    assert "'ranker' watches" in str(error)
    assert parse_config((GOOD + other.replace('"runs', '"runs/other')).encode(), FILE).model[1].name == "other"


@pytest.mark.parametrize(
    ("settings", "code"),
    [('format = "npzz"', "config-invalid"), ('format = "saved-model"', "config-conflict")],
)
def test_a_format_that_nothing_would_be_exported_of_is_refused(tmp_path, settings, code):
    """One that there is not, and a SavedModel, which is nobody's drop; asked for by requests it may be."""
    file = tmp_path / "config.toml"
    file.write_text(f"{GOOD}{settings}\n")
    with pytest.raises(ConfigError, match="'ranker'") as caught:
        load_settings(file)
    assert caught.value.code == code
    file.write_text(f'{GOOD}format = "saved-model"\non_drop = "ignore"\n')
    assert load_settings(file).model[0].format == "saved-model"


def test_two_notifiers_of_one_name_are_refused_at_the_second():
    """They would share how far they have come."""
    notifier = "[[notify]]\nname = 'n'\ncommand = ['a']\n"
    error = refused(GOOD + notifier + notifier)
    assert (error.code, str(error).split(":")[1]) == ("config-conflict", "13")


@pytest.mark.parametrize("url", ["http://localhost:80/x", "http://127.0.0.2/", "http://[::1]:8/", "https://h"])
def test_a_webhook_may_go_without_tls_on_this_machine_only(url):
    """Elsewhere where the operator says so; a password in it is not shown."""
    notifier = f"[[notify]]\nname = 'n'\nwebhook = '{url}'\n"
    assert parse_config((GOOD + notifier).encode(), FILE).notify[0].kind == "webhook"
    plain = "[[notify]]\nname = 'n'\nwebhook = 'http://h/'\nplain_http = true\n"
    assert parse_config((GOOD + plain).encode(), FILE).notify[0].on == ["published", "failed"]
    assert "pw" not in str(refused(GOOD + plain.replace("//h", "//u:pw@h")))


def test_paths_of_notifiers_and_of_serving_are_taken_from_the_files_folder():
    """A command without a slash is looked up in $PATH."""
    more = "[[notify]]\nname = 'n'\ncommand = ['./a', './b']\n[[notify]]\nname = 'w'\nwebhook = 'https://h'\nsecret_file = 's'\n"
    config = parse_config((GOOD + more + "[serving]\nconfig_file = 'c'\n").encode(), FILE)
    assert config.notify[0].command == ["/etc/smdaemon/a", "./b"]
    assert config.notify[1].secret_file == "/etc/smdaemon/s"
    assert config.serving.config_file == "/etc/smdaemon/c"


def test_differences_of_notifiers_do_not_show_urls():
    """Who knows the URL of a webhook can often post there."""
    notifier = "[[notify]]\nname = 'n'\nwebhook = 'https://h/token'\n"
    old = parse_config((GOOD + notifier).encode(), FILE)
    new = parse_config((GOOD + notifier.replace("token", "other") + "[serving]\nconfig_file = 'c'\n").encode(), FILE)
    assert differences(old, new) == ["notifier 'n': webhook", "serving added"]
    assert differences(new, parse_config(GOOD.encode(), FILE)) == ["notifier 'n' removed", "serving removed"]


def test_a_misspelt_key_is_answered_with_the_right_one():
    """The remedy names the nearest known key."""
    assert "'on_backlog'" in refused(GOOD + 'on_backlogs = "all"\n').remedy


def test_a_wrong_choice_is_answered_with_the_right_ones():
    """The remedy lists what may stand there."""
    assert refused(GOOD + 'version = "stepp"\n').remedy == "choose one of step, timestamp, sequence"
    assert refused(GOOD.replace("[daemon]", '[daemon]\nlog_level = "loud"')).remedy.startswith("choose one of debug")


def test_a_file_that_is_not_utf8_is_refused_with_its_line():
    """Bytes that are no text name the line they stand on."""
    with pytest.raises(ConfigError) as caught:
        parse_config(b"[daemon]\n# \xff\n", FILE)
    assert (caught.value.code, ":2:" in str(caught.value)) == ("config-syntax", True)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000], ids=["digits", "depth"])
def test_what_the_parser_gives_up_is_refused(value):
    """A reload of it changes nothing, as of any other mistake."""
    error = refused(f"{GOOD}keep_last = {value}\n")
    assert error.code == "config-syntax"
    assert str(error).startswith(f"{FILE}: ")
    assert len(str(error)) < 300


def test_a_missing_file_is_refused(tmp_path):
    """The message names the path."""
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config(tmp_path / "none.toml")
    assert caught.value.code == "config-missing"


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("2KB", 2000), ("1.5MiB", 3 << 19), ("1GiB", 1 << 30), ("3 TB", 3 * 10**12)]
)
def test_sizes_have_decimal_and_binary_units(text, size):
    """KB is a thousand bytes, KiB is 1024."""
    assert parse_size(text) == size


def test_differences_say_what_a_reload_changed():
    """Added, removed and changed models, and settings of the daemon, one line each."""
    old = parse_config(GOOD.encode(), FILE)
    new_text = GOOD.replace("[daemon]", "[daemon]\nworkers = 3").replace('"ranker"', '"tower"')
    new = parse_config(new_text.encode(), FILE)
    assert differences(old, new) == ["daemon: workers 2 -> 3", "model 'ranker' removed", "model 'tower' added"]
    changed = parse_config((GOOD + 'on_backlog = "latest"\n').encode(), FILE)
    assert differences(old, changed) == ["model 'ranker': on_backlog 'all' -> 'latest'"]
    assert differences(old, old) == []


def test_as_many_shards_as_their_names_have_room_for():
    """The limit of the settings is that of the bundle's writer, which lies above them."""
    assert parse_config(f"{GOOD}shards = {SHARDS_LIMIT}".encode(), FILE).model[0].shards == SHARDS_LIMIT
    assert "shards" in str(refused(f"{GOOD}shards = {SHARDS_LIMIT + 1}"))


def test_a_config_is_frozen():
    """Nobody can change a configuration that is in force."""
    config: Config = parse_config(GOOD.encode(), FILE)
    with pytest.raises(AttributeError):
        config.daemon.workers = 9  # type: ignore[misc]


def test_every_option_of_a_request_is_a_setting_of_a_model_and_a_flag(capsys):
    """What one export may be asked for is asked for in the same words everywhere; the file, version, metrics and model aside."""
    from smdaemon.cli.main import dispatch
    from smdaemon.proto.v1 import ExportRequest
    from smdaemon.settings import ModelSettings

    fields = {field.name for field in ExportRequest.DESCRIPTOR.fields} - {"model", "source", "version", "metrics"}
    assert fields <= set(ModelSettings.__struct_fields__)
    assert dispatch(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    singular = {"signatures": "signature", "modes": "mode"}
    missing = [name for name in fields if f"--{singular.get(name, name).replace('_', '-')}" not in shown]
    assert missing == []


@pytest.mark.parametrize(
    ("written", "taken"), [("check", "check"), ("./check", "/etc/smdaemon/check"), ("/bin/check", "/bin/check")]
)
def test_a_validator_is_found_by_name_or_by_path(written, taken):
    """A bare name is left to $PATH, a path is taken from the file's folder; arguments are left as they are."""
    config = parse_config((GOOD + f"validator = ['{written}', './x']\n").encode(), FILE)
    assert config.model[0].validator == [taken, "./x"]


def test_modes_and_files_of_a_model_are_absolute():
    """Every path of a model is taken from the file's folder."""
    more = 'template = "t"\nwarmup = "w.npz"\nmeta_graph = "m"\ndebug_info_map = "d"\nassets_extra = { a = "x" }\n'
    config = parse_config((GOOD + more + '[model.modes.train]\ntemplate = "g"\n').encode(), FILE)
    (model,) = config.model
    paths = [model.template, model.warmup, model.meta_graph, model.debug_info_map, model.assets_extra["a"]]
    assert [*paths, model.modes["train"].template] == [
        f"/etc/smdaemon/{name}" for name in ("t", "w.npz", "m", "d", "x", "g")
    ]


def test_what_is_written_with_one_bracket_too_few_is_told_so():
    """The commonest slip of TOML."""
    assert (
        refused(GOOD.replace("[[model]]", "[model]")).remedy == "write [[model]], in two brackets: there may be several"
    )
    assert "the file has no 'daemon'" in refused("").message
