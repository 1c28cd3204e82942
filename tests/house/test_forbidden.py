"""What no line of the product may do: run code that came as data, or a command through a shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "smdaemon").rglob("*.py"))
_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "getoutput", "getstatusoutput"}
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "asyncio"}
# of anything but the builtin `compile` it is patterns and kernels that are compiled, and parsers that are executed
_BUILTINS = {"compile"}


def offences(tree: ast.AST) -> list[str]:
    """What a module does that it must not, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in _MODULES]
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            owner = (
                function.value.id
                if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
                else ""
            )
            if name in _CALLS and not (name in _BUILTINS and isinstance(function, ast.Attribute)):
                found.append(f"{node.lineno}: {owner}.{name}()")
            for keyword in node.keywords:
                given = getattr(keyword.value, "value", None)
                if (keyword.arg == "shell" and given is True) or (keyword.arg == "allow_pickle" and given is not False):
                    found.append(f"{node.lineno}: {keyword.arg}=...")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_data_or_a_shell(path: Path):
    """No pickle, no eval, no shell, no asyncio: neither called nor imported."""
    assert offences(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from marshal import loads",
        "eval(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
        "builtins.exec(x)",
    ],
)
def test_the_search_finds_what_it_is_for(line: str):
    """A search that finds nothing proves nothing."""
    assert offences(ast.parse(line))
