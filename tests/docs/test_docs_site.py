"""The documentation as a site: it builds without a warning, and a reader's browser asks nobody else for anything."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("mkdocs", reason="no mkdocs: make docs installs it")


class Fetched(HTMLParser):
    """What a browser fetches for a page, and the classes of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Links are followed by people; these are followed by browsers."""
        has = {name: value or "" for name, value in attrs}
        self.classes |= set(has.get("class", "").split())
        if tag == "link":
            self.addresses.append(has.get("href", ""))
        self.addresses += [has[name] for name in ("src", "srcset", "poster") if name in has]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: a link or an anchor that leads nowhere would fail it."""
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARNING" not in ran.stderr
    return folder


def test_every_page_is_there(site):
    """Pages of docs/ and those beside it; what is downloaded lies there as it is; no script of ours does."""
    for name in ("index.html", "tutorials/numpy/index.html", "CONTRIBUTING/index.html", "systemd/index.html"):
        assert (site / name).is_file()
    for name in ("alerts.yaml", "dashboard.json"):
        assert (site / "monitoring" / name).read_bytes() == (ROOT / "docs/monitoring" / name).read_bytes()
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site):
    """No page names a font, a script, a style or an image of another host, nor has what would make the theme fetch one."""
    for page in site.rglob("*.html"):
        fetched = Fetched()
        fetched.feed(page.read_text())
        assert not [address for address in fetched.addresses if re.match("(https?:)?//", address)], page
        assert not fetched.classes & {"mermaid", "md-source"}, page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def test_links_to_the_source_became_text(site):
    """What is no page of the site cannot be clicked; what is one leads there from wherever it stands in the repository."""
    operations = (site / "operations/index.html").read_text()
    assert "Containerfile" in operations
    assert 'Containerfile"' not in operations
    assert 'href="../systemd/"' in operations
    assert 'href="../architecture/' in (site / "CONTRIBUTING/index.html").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_docs_builds_what_is_tested_here():
    """The same command, strict."""
    ran = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mkdocs build --quiet --strict" in ran.stdout
