"""How much memory can be had: what the machine has left, and what the process' control groups allow.

In a container /proc/meminfo tells of the whole machine. Beyond the container's limit the kernel kills instead of refusing.
"""

from pathlib import Path

_UNLIMITED = 1 << 62


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that can be had without swapping and without a kill, in bytes, as the kernel estimates it."""
    return min(_of_the_machine(root / "proc/meminfo"), *_of_groups(root))


def _of_the_machine(meminfo: Path) -> int:
    with meminfo.open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return _UNLIMITED


def _of_groups(root: Path) -> list[int]:
    """What each control group (version 2) that the process is in has left: its own, and all around it."""
    try:
        listed = (root / "proc/self/cgroup").read_text()
    except OSError:
        return [_UNLIMITED]
    own = next((line.removeprefix("0::/") for line in listed.splitlines() if line.startswith("0::/")), None)
    if own is None:
        return [_UNLIMITED]
    top = root / "sys/fs/cgroup"
    return [_of_group(each) for each in ((top / own), *(top / own).parents) if each.is_relative_to(top)]


def _of_group(group: Path) -> int:
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return _UNLIMITED
        used = int((group / "memory.current").read_text())
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (
        OSError,
        ValueError,
    ):  # the group at the top has none of these; where there is no limit to read there is none
        return _UNLIMITED
    # the page cache of files that nobody has used for a while goes before anything is refused
    return max(int(limit) - used + int(kept.get("inactive_file", 0)), 0)
