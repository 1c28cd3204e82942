"""What the wheel weighs, what it pulls, and whether it runs: `python requirements/wheel.py [--write]`.

Builds the wheel, installs it with its pinned dependencies into an empty environment of each Python on the PATH, runs the demonstration there, and resolves
smdaemon with all its extras beside TensorFlow, JAX and PyTorch. With --write the table in docs/installation.md is written anew.
"""

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "installation.md"
PYTHONS = ("3.11", "3.12", "3.13")
BESIDE = ("tensorflow", "jax", "torch")
_MARKS = re.compile(r"(<!-- wheel -->\n).*(<!-- end of wheel -->)", re.DOTALL)


def uv(*arguments: str) -> str:
    """What uv prints."""
    command = [sys.executable, "-m", "uv", "--quiet", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def build(folder: Path) -> Path:
    """The wheel, made by what requirements/build.txt pins."""
    pins = str(ROOT / "requirements" / "build.txt")
    uv("build", "--wheel", "--out-dir", str(folder), "--build-constraints", pins, "--require-hashes")
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, python: str) -> Path:
    """An environment of that Python with the wheel and what it needs, nothing else; its interpreter."""
    uv("venv", "--python", python, str(folder))
    interpreter = folder / "bin" / "python"
    uv("pip", "install", "--python", str(interpreter), "--require-hashes", "-r", "requirements/run.txt")
    uv("pip", "install", "--python", str(interpreter), "--no-deps", str(wheel))
    return interpreter


def run_demo(interpreter: Path) -> str:
    """The last line that the demonstration says, in an empty directory."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [str(interpreter.with_name("smdaemon")), "demo"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=scratch).stdout
    return said.strip().splitlines()[-1]


def weights(interpreter: Path) -> dict[str, int]:
    """Bytes of each distribution in an environment, the heaviest first."""
    (packages,) = interpreter.parents[1].glob("lib/python*/site-packages")
    found = {
        distribution.name: sum(Path(distribution.locate_file(file)).stat().st_size for file in distribution.files or ())
        for distribution in importlib.metadata.distributions(path=[str(packages)])
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def resolved(wheel: Path, python: str) -> dict[str, str]:
    """The releases of what is beside smdaemon with all its extras."""
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "wanted.in"
        wanted.write_text("\n".join([f"smdaemon[all] @ {wheel.as_uri()}", *BESIDE]))
        lines = uv("pip", "compile", "--python-version", python, "--no-header", "--no-annotate", str(wanted))
    return {name: re.search(rf"^{name}==(\S+)", lines, re.MULTILINE)[1] for name in BESIDE}  # type: ignore[index]


def main() -> int:
    """Print what was found, and write it where that is asked for."""
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}.", ""]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = build(folder)
        heavy: dict[str, int] = {}
        lines += ["| Python | demonstration | all extras resolve beside |", "|---|---|---|"]
        for python in PYTHONS:
            ran = "not here"
            if shutil.which(f"python{python}"):
                interpreter = install(wheel, folder / python, python)
                run_demo(interpreter)
                ran = "runs"
                heavy = heavy or weights(interpreter)
            beside = ", ".join(f"{name} {version}" for name, version in resolved(wheel, python).items())
            lines.append(f"| {python} | {ran} | {beside} |")
        size = wheel.stat().st_size
    lines += [
        "",
        f"The wheel has {size / 1e6:.2f} MB; with all that it pulls an environment has {sum(heavy.values()) / 1e6:.0f} MB:",
        "",
    ]
    lines += ["| distribution | MB installed |", "|---|---:|"]
    lines += [f"| {name} | {nbytes / 1e6:.1f} |" for name, nbytes in heavy.items()]
    text = "\n".join(lines) + "\n"
    print(text)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(_MARKS.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
