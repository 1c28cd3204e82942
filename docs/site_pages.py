# ruff: noqa: INP001 - docs/ is no package, and this is a hook of mkdocs
"""Makes a site of documents that are written to be read in the repository.

Pages beside docs/ come in under their own paths (PAGES), and links are turned from paths of the repository to pages of the site. A link
to what is no page of the site, such as a file of the source, becomes its text.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "systemd/README.md")
"""What is a page of the site and lies beside docs/."""

_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """The pages beside docs/, too."""
    for page in PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """The text of a page with its links as the site has them."""
    source = page.file.src_uri
    at = PurePosixPath(source if source in PAGES else f"docs/{source}")
    known = {file.src_uri for file in files}
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda link: _relinked(link, at, source, known), part)
        for part in re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    )


def _relinked(link: re.Match[str], at: PurePosixPath, source: str, known: set[str]) -> str:
    """A link in the page that lies at `at` in the repository and at `source` in the site."""
    text, target = link[1], link[2]
    name, mark, anchor = target.partition("#")
    if "://" in target or not name:
        return link[0]
    in_repository = os.path.normpath(at.parent / name)
    in_site = in_repository.removeprefix("docs/")
    if in_site not in known or (in_site == in_repository and in_repository not in PAGES):
        return text
    return f"[{text}]({os.path.relpath(in_site, PurePosixPath(source).parent)}{mark}{anchor})"
