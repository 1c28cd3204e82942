"""Compares what runs with the advisories about it: `python requirements/audit.py [--if-reachable]`.

Ends with 0 where no pinned release has an advisory and none was withdrawn, with 1 where one has or was, and with 75 where the advisories
cannot be reached, unless --if-reachable: then it says so and ends with 0. Whether they can be reached is told by a release that is known
to be vulnerable, so that an index which knows no advisories is not taken for a clean bill.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).with_name("run.txt")
CANARY = "jinja2==2.4.1\n"
NOT_AUDITED = 75
AUDITOR = "pip-audit==2.10.*"
_UV = [sys.executable, "-m", "uv", "--quiet"]


def audit(requirements: Path) -> subprocess.CompletedProcess[str]:
    """What pip-audit says of pinned requirements; it ends with 1 where there is an advisory."""
    command = [
        *_UV,
        "tool",
        "run",
        "--from",
        AUDITOR,
        "pip-audit",
        "--disable-pip",
        "--no-deps",
        "--progress-spinner",
        "off",
    ]
    return subprocess.run([*command, "--requirement", str(requirements)], capture_output=True, text=True, check=False)


def withdrawn() -> list[str]:
    """Pinned releases that their index calls yanked."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--dry-run",
        "--reinstall",
        "--no-deps",
        "--requirement",
        str(LOCK),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return [line for line in said.splitlines() if "yanked" in line]


def advisories_are_reachable() -> bool:
    """Whether the release that has many is told to have one."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(CANARY)
        return "PYSEC" in (told := audit(canary)).stdout + told.stderr or "CVE" in told.stdout


def main() -> int:
    """The exit code."""
    for line in (yanked := withdrawn()):
        print(line)
    if not advisories_are_reachable():
        print("not audited: the advisories cannot be reached from here", file=sys.stderr)
        return 1 if yanked else 0 if "--if-reachable" in sys.argv[1:] else NOT_AUDITED
    found = audit(LOCK)
    print(found.stdout + found.stderr, end="")
    return 1 if yanked or found.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
