"""The machine that is measured on: what it is, whether it is idle, and how its memory is made ready."""

import importlib.metadata
import mmap
import os
import platform
import re
import resource
import time
from pathlib import Path
from typing import Any, Self

PACKAGES = ("smdaemon", "numpy", "awscrt", "protobuf", "safetensors", "jax", "flax", "tensorflow-cpu", "tensorflow")
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of linux/mman.h, since Linux 5.14


def describe(**folders: Path) -> dict[str, Any]:
    """CPU, cores, memory and kernel, and the file system beneath each of `folders`; nothing that names the machine."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(meminfo("MemTotal") / 2**30, 1),
        "kernel": "Linux " + re.match(r"[\d.]*", platform.release())[0],  # type: ignore[index]
        "filesystems": {name: filesystem(folder) for name, folder in folders.items()},
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages that take part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def meminfo(key: str) -> int:
    """Bytes of one line of /proc/meminfo."""
    line = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(line[1]) * 1024 if line else 0


def filesystem(folder: Path) -> str:
    """The type of the file system that holds `folder`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, fstype, *_ = line.split()
        if folder.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, fstype
    return kind


def touch_memory() -> int:
    """Write to most of the memory that is free and give it back; returns the bytes.

    The first touch of a virtual machine's memory goes to the host and runs at a fraction of the usual speed; whoever came
    first would pay for it.
    """
    size = int(meminfo("MemAvailable") * 0.8) & ~0xFFFFF
    pid = os.fork()  # the memory goes back with the process
    if pid == 0:
        region = mmap.mmap(-1, size)
        try:
            region.madvise(_POPULATE_WRITE)
        except OSError:
            for start in range(0, size, 4096):
                region[start] = 1
        os._exit(0)
    os.waitpid(pid, 0)
    return size


class Watch:
    """Whether the machine was ours: other work before the benchmark and during it, and time that the hypervisor took.

    Shares are of all cores together. What the kernel does for us in threads of its own (writing back) counts as others'.
    """

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        before = cpu_ticks()
        time.sleep(1)
        self.busy = share_of(before, cpu_ticks(), idle=True)

    def __enter__(self) -> Self:
        self._before, self._own_before = cpu_ticks(), _own_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        after = cpu_ticks()
        self.stolen = share_of(self._before, after, idle=False)
        seconds = (sum(after) - sum(self._before)) / os.sysconf("SC_CLK_TCK") or 1
        own = (_own_seconds() - self._own_before) / seconds
        self.others = max(0.0, share_of(self._before, after, idle=True) - self.stolen - own)

    @property
    def was_idle(self) -> bool:
        """Whether others used less than a twentieth of the machine in the second before."""
        return self.busy < 0.05

    def to_json(self) -> dict[str, Any]:
        """The figures for the report."""
        return {
            "was_idle": self.was_idle,
            "load_before": round(self.load, 2),
            "busy_before": round(self.busy, 3),
            "others_during": round(self.others, 4),
            "stolen_during": round(self.stolen, 4),
        }


def cpu_ticks() -> list[int]:
    """The first line of /proc/stat: user nice system idle iowait irq softirq steal, of all cores together."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _own_seconds() -> float:
    """Processor time of this process and of all that it started and waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def share_of(before: list[int], after: list[int], *, idle: bool) -> float:
    """With `idle` the share of time that was not idle, else the share that was stolen."""
    spent = [new - old for old, new in zip(before, after, strict=True)]
    total = sum(spent) or 1
    return 1 - (spent[3] + spent[4]) / total if idle else spent[7] / total
