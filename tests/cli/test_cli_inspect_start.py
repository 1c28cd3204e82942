"""`smdaemon inspect DIR` does without the parser of command lines; nobody may see that but by the clock."""

import subprocess
import sys

import numpy as np
import pytest

from smdaemon.cli.main import dispatch, make_app


@pytest.fixture
def model(tmp_path):
    """An export of one tensor."""
    np.savez(tmp_path / "a.npz", w=np.ones(3, np.float32))
    assert dispatch(["export", str(tmp_path / "a.npz"), str(tmp_path / "model"), "--quiet"]) == 0
    return str(tmp_path / "model")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_same_page_with_and_without_the_parser(model, capsys, flags):
    """What is printed is what the parser's way prints."""
    capsys.readouterr()
    assert dispatch(["inspect", *flags, model]) == 0
    plain = capsys.readouterr()
    make_app()(["inspect", model, *flags], exit_on_error=False, print_error=False)
    assert capsys.readouterr() == plain
    assert plain.out


def test_the_parser_is_not_imported(model):
    """Neither it nor protobuf's descriptor messages, which take a third and a tenth of the time."""
    program = (
        f"import sys; from smdaemon.cli.main import dispatch; dispatch(['inspect', {model!r}]); print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = ran.stdout.splitlines()[-1].split()
    assert "smdaemon.savedmodel.summary" in modules
    assert not {"cyclopts", "google.protobuf.descriptor_pb2", "numpy"} & set(modules)


@pytest.mark.parametrize("argv", [["a", "b"], ["--bogus"], ["a", "--bogus"], [], ["--json", "--json", "a", "b"]])
def test_all_else_is_for_the_parser(capsys, argv):
    """Wrong words are refused as in any other command."""
    assert dispatch(["inspect", *argv]) == 2
    assert capsys.readouterr().err.startswith("error: ")
