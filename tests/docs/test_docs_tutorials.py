"""Each tutorial does what it says, from top to bottom, in an empty directory."""

from pathlib import Path

import pytest
from tutorial_kit import ROOT, blocks, follow, has

TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
NEEDS = {"jax-serving": ("jax", "tensorflow"), "tensorflow": ("tensorflow", "keras", "h5py"), "torch": ("safetensors",)}


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every command ends well, every assertion holds, and nothing that was started goes on."""
    for module in NEEDS.get(page.stem, ()):
        if not has(module):
            pytest.skip(f"no {module}")
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path / "place")
    assert follow(page, tmp_path)


def test_a_command_that_fails_fails_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kit itself is no rubber stamp."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```bash\nfalse\n```\n")
    with pytest.raises(AssertionError, match="false"):
        follow(page, tmp_path)


def test_torch_takes_the_place_of_what_stands_in_for_it():
    """With torch its block is run and the next of numpy is not; without, the other way round."""
    page = ROOT / "docs/tutorials/torch.md"
    for torch, label in ((True, "py"), (False, "python")):
        saving = [block.label for block in blocks(page, torch=torch) if "save_file" in block.content]
        assert saving == [label]
