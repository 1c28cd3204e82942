"""The documentation says what the code does: tables, links, examples, worked bytes."""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from smdaemon.config import parse_config
from smdaemon.jobs.states import State
from smdaemon.proto import v1
from smdaemon.proto.mapping import request_from_json
from smdaemon.savedmodel import write_weights
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.serving_target import TARGETS
from smdaemon.tensorbundle import ArrayTensor, BundleReader

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("systemd/*.md"), ROOT / "benchmarks/README.md"])
TUTORIALS = sorted(ROOT.glob("docs/tutorials/*.md"))  # what they show is run by tests/docs/
FORMAT = ROOT / "docs" / "format.md"


def load_reference() -> ModuleType:
    """docs/reference.py, which is a script and no package's module."""
    return load_script("docs/reference.py")


def load_script(path: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "_"), ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, label: str) -> list[str]:
    """The code blocks of a page with that label."""
    return re.findall(rf"^```{label}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def named(page: Path) -> str:
    """A page's path from the repository's root."""
    return str(page.relative_to(ROOT))


def test_every_table_is_what_the_code_has_now():
    """`python docs/reference.py` would change nothing: error codes, keys, states, routes, metrics, commands."""
    reference = load_reference()
    for page in reference.PAGES:
        text = (ROOT / page).read_text()
        assert reference.render(text) == text, f"{page} differs from the code: run python docs/reference.py"


def test_every_table_is_shown_somewhere():
    """A table that no page shows would be lost."""
    reference = load_reference()
    shown = {name for page in reference.PAGES for name in reference.names_in((ROOT / page).read_text())}
    assert shown == set(reference.TABLES)


def test_the_error_table_has_every_code_and_the_states_every_state():
    """The generator itself leaves nothing out."""
    reference = load_reference()
    table = reference.errors_table()
    assert re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE) == list(reference.errors.CODES)
    assert list(reference.STATES) == list(State)


def test_the_messages_are_all_there_with_every_field():
    """docs/messages.md has what the compiled protos have: the script reads the text of the .proto files."""
    reference = load_reference()
    shown: dict[str, dict[str, int]] = {}
    for section in re.split(r"^### ", reference.messages_tables(), flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (\d+) \| `(\w+)`", section, re.MULTILINE)
        shown[section.split("\n", 1)[0]] = {name: int(number) for number, name in rows}
    names = re.findall(r"^class (\w+)\(", (ROOT / "smdaemon/proto/v1.pyi").read_text(), re.MULTILINE)
    messages = [getattr(v1, name).DESCRIPTOR for name in names]
    compiled = {kind.name: {field.name: field.number for field in kind.fields} for kind in messages}
    assert shown == compiled


def test_check_names_the_page_that_differs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
):
    """With --check nothing is written and the exit code is 1; without, the table is written."""
    reference = load_reference()
    page = tmp_path / "page.md"
    stale = "<!-- reference: states -->\nstale\n<!-- end of reference -->\n"
    page.write_text(stale)
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "PAGES", ["page.md"])
    assert reference.main(["--check"]) == 1
    assert page.read_text() == stale
    assert "page.md" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert "`superseded`" in page.read_text()
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize("page", [*PAGES, *TUTORIALS], ids=named)
def test_relative_links_lead_somewhere(page: Path):
    """Every link to a file of the repository finds it, and every link to a heading finds that."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} leads nowhere"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(path), f"{target} names no heading"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_site_has_every_page():
    """mkdocs.yml's nav names each page of docs/, and each page beside it that the site takes in, once; and nothing else."""

    def pages(nav: object) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        else:
            for part in nav.values() if isinstance(nav, dict) else nav:
                yield from pages(part)

    beside = re.search(r"^PAGES = \((.*?)\)", (ROOT / "docs/site_pages.py").read_text(), re.DOTALL | re.MULTILINE)
    taken_in = re.findall(r'"([^"]+)"', beside[1])
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    named_pages = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(named_pages) == sorted([*there, *taken_in])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A page's Python blocks, one after the other, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for example in blocks(page, "python"):
        exec(compile(example, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in [*PAGES, *TUTORIALS] if blocks(page, "toml")], ids=named)
def test_configurations_are_accepted(page: Path):
    """Every configuration that a page shows is one."""
    for example in blocks(page, "toml"):
        parse_config(example.encode(), page)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")], ids=named)
def test_requests_are_accepted(page: Path):
    """Every request that a page shows is one."""
    for example in blocks(page, "json"):
        assert request_from_json(example.encode()).source


def worked_bytes(label: str) -> bytes:
    """The bytes of a block of docs/format.md: what stands before two spaces in each line."""
    (block,) = blocks(FORMAT, label)
    return bytes.fromhex("".join(line.split("  ")[0] for line in block.splitlines()))


def test_the_worked_bytes_are_what_we_write(tmp_path: Path):
    """docs/format.md: head, object graphs, a handle, the saver and the whole fingerprint of its model."""
    write_weights(tmp_path / "1", {"w": ArrayTensor(np.array([1, 2], np.float32))})
    model = (tmp_path / "1" / "saved_model.pb").read_bytes()
    assert model.startswith(worked_bytes("head") + worked_bytes("handle"))
    assert worked_bytes("saver") in model
    assert model.endswith(worked_bytes("objects"))
    assert (tmp_path / "1" / "fingerprint.pb").read_bytes() == worked_bytes("fingerprint")
    with BundleReader(tmp_path / "1" / "variables" / "variables") as bundle:
        assert bundle.string_elements(OBJECT_GRAPH_KEY) == [worked_bytes("trackable")]


def test_the_matrix_is_what_was_measured():
    """docs/compatibility.md shows the results of the last `make compatibility`, and they contradict nothing in the code."""
    tables = load_script("tests/compatibility/tables.py")
    results = json.loads((ROOT / "tests/compatibility/results.json").read_text())
    page = (ROOT / "docs/compatibility.md").read_text()
    assert tables.with_tables(page, results) == page
    assert tables.contradictions(results) == []
    measured = {target["tensorflow"]: target for target in tables.targets(results)}
    assert measured == {name: dataclasses.asdict(target) for name, target in TARGETS.items()}


@pytest.mark.parametrize(("name", "least"), [("compatibility.md", 100), ("reliability.md", 60)])
def test_every_test_that_a_page_names_exists(name: str, least: int):
    """The page claims nothing that no test shows."""
    page = (ROOT / "docs" / name).read_text()
    named = []
    for row in page.splitlines():
        folder = None
        for file, test in re.findall(r"([\w/]+\.py)?::(\w+)", row):
            folder = file or folder
            named.append((folder, test))
    assert len(named) > least
    for file, test in named:
        content = (ROOT / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {test}\(", content, re.MULTILINE), (file, test)
