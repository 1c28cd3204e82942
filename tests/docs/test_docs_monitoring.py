"""The alerts and the dashboard ask for what the daemon tells, and each alert fires by what it is for."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "docs/monitoring/alerts.yaml"
DASHBOARD = ROOT / "docs/monitoring/dashboard.json"
PAGE = ROOT / "docs/monitoring.md"
CASES = ROOT / "tests/docs/alerts_test.yaml"

# Of Prometheus itself.
_ALWAYS = {"up": {"job", "instance"}}
_TARGET = {"job", "instance", "le"}


def metrics() -> dict[str, set[str]]:
    """Every series that a daemon tells, and its labels."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    found: dict[str, set[str]] = {name: set(labels) for name, labels in _ALWAYS.items()}
    for family in reference.full_metrics().registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set(_TARGET)).update(sample.labels)
    return found


def rules() -> list[dict]:
    """All rules, recording ones first."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict]:
    """The alerts."""
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict:
    """The dashboard."""
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict]:
    """Every panel that is no row."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of alerts and dashboard, with where it stands."""
    for rule in rules():
        yield rule.get("alert", rule.get("record")), rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for noted in dashboard()["annotations"]["list"]:
        yield noted["name"], noted["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """The series that an expression names, each with the labels that it asks for."""
    return [
        (name, set(re.findall(r"(\w+)\s*[=!]~?", labels)))
        for name, labels in re.findall(r"\b((?:smdaemon|process)[\w:]+|up)\b(?!\()(?:\{([^}]*)\})?", expression)
    ]


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_only_what_there_is_is_asked_for(place, expression):
    """Every metric exists, and every label is one of it."""
    known = metrics()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = selectors(expression)
    assert asked, place
    for name, labels in asked:
        assert name in recorded or name in known, f"{place}: no metric {name}"
        if name in known:
            assert labels <= known[name] | {"instance", "job"}, f"{place}: {name} has no labels {labels - known[name]}"
    grouped = {label.strip() for found in re.findall(r"\bby \(([^)]*)\)", expression) for label in found.split(",")}
    allowed = {"instance", "le"}.union(*(known.get(name, set()) for name, _ in asked))
    assert grouped <= allowed, f"{place}: grouped by {grouped - allowed}"


def test_every_metric_is_looked_at_or_explained():
    """No metric of ours is told for nobody: it is in an alert, on the dashboard, or in the list below."""
    names = {name for _, expression in expressions() for name, _ in selectors(expression)}
    for_people = {"smdaemon_config_loaded_time_seconds", "smdaemon_draining", "smdaemon_watch_info"}
    series = [name for name in metrics() if name.startswith("smdaemon_") and not name.endswith("_created")]
    told = {re.sub("_(bucket|sum|count)$", "", name) for name in series}
    looked_at = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    assert told - looked_at == for_people


def test_an_alert_says_what_it_is_and_what_to_do():
    """Each has a severity, a summary, a description, a remedy, and a section of the page as its runbook."""
    headings = {
        heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", PAGE.read_text(), re.MULTILINE)
    }
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        said = alert["annotations"]
        assert set(said) == {"summary", "description", "remedy", "runbook_url"}
        assert all(said.values())
        assert said["runbook_url"] == f"docs/monitoring.md#{alert['alert'].lower()}"
        assert alert["alert"].lower() in headings
    assert len({alert["alert"] for alert in alerts()}) == len(alerts())


def test_every_alert_has_a_case():
    """The unit tests of the rules have each alert fire once."""
    fired = set(re.findall(r'alertname="(\w+)", alertstate="firing"', CASES.read_text()))
    assert fired == {alert["alert"] for alert in alerts()}


def test_commands_that_a_remedy_names_exist():
    """`smdaemon COMMAND` in an annotation is one of smdaemon's."""
    from smdaemon.cli.main import GROUPS

    known = {command.name for commands in GROUPS.values() for command in commands}
    named = {name for alert in alerts() for name in re.findall(r"`smdaemon (\S+?)[` ]", str(alert["annotations"]))}
    assert named
    assert named <= known


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: it comes with Prometheus")
@pytest.mark.parametrize(
    "check", [("check", "rules", str(ALERTS)), ("test", "rules", str(CASES))], ids=["check", "test"]
)
def test_prometheus_agrees(check):
    """Its own tool finds the rules sound, and every case of them comes out as it should."""
    ran = subprocess.run(["promtool", *check], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_can_be_imported():
    """Panels have ids and places of their own, and ask the data source that the person chooses."""
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert set(variables) == {"datasource", "instance", "model"}
    asked = [part for panel in panels() for part in (panel, *panel["targets"])] + board["annotations"]["list"]
    assert {json.dumps(part["datasource"], sort_keys=True) for part in asked} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_no_two_panels_lie_over_each_other():
    """Within 24 columns, one cell for one panel."""
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
