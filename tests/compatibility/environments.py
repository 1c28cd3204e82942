"""The virtual environments of the matrix, made by uv below .venv-compat: who exports, and who reads."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-compat"
LOCKED = ROOT / "requirements" / "dev.txt"
TENSORFLOW = "tensorflow-cpu" if platform.machine() == "x86_64" else "tensorflow"


def exporter(python: str, release: str) -> Path:
    """The interpreter of an environment with smdaemon and the JAX that is locked for that release of Python; no TensorFlow."""
    made = _environment(f"exporter-{release}", python)
    _install(made, "--require-hashes", "-r", str(ROOT / "requirements" / "run.txt"))
    _install(made, "--no-deps", "-e", str(ROOT))
    _install(made, "-c", str(LOCKED), "jax", "flax")
    return made


def converter(python: str, release: str, tensorflow: str) -> Path:
    """The interpreter of an environment with the same JAX and TensorFlow, for jax2tf."""
    made = _environment(f"jax2tf-{release}", python)
    _install(made, "-c", str(LOCKED), "jax", "flax", f"{TENSORFLOW}=={tensorflow}")
    return made


def reader(python: str, tensorflow: str) -> Path:
    """The interpreter of an environment with that release of TensorFlow, and neither smdaemon nor JAX."""
    made = _environment(f"reader-{tensorflow}", python)
    _install(made, f"{TENSORFLOW}=={tensorflow}")
    return made


def found(pythons: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The interpreters that run, by release as "3.12", and what is missing of those that were named."""
    interpreters, missing = {}, []
    for name in pythons:
        path = shutil.which(name)
        told = path and subprocess.run(
            [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"],
            capture_output=True,
            text=True,
            check=False,
        )
        if told and told.returncode == 0:
            release, executable = told.stdout.strip().split(" ", 1)
            interpreters[release] = executable
        else:
            why = "does not run" if told else "is not to be found"
            missing.append(f"{name} {why}")
    return interpreters, missing


def _environment(name: str, python: str) -> Path:
    folder = FOLDER / name
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([_uv(), "venv", "--quiet", "--python", python, str(folder)], check=True)
    return interpreter


def _install(interpreter: Path, *what: str) -> None:
    subprocess.run([_uv(), "pip", "install", "--quiet", "--python", str(interpreter), *what], check=True)


def _uv() -> str:
    return str(Path(sys.executable).parent / "uv")
