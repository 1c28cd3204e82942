"""Tensors handed over by a trainer: how long a save keeps it, and how long it takes to a published version; peers beside it.

The daemon is a process of its own, and so is each trainer. The trainer waits for a version before it saves the next, so that stalls are
those of an idle daemon; `training` measures a trainer that goes on.
"""

import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import handoff_peers as peers
from benchmarks.child import result_of, start
from benchmarks.harness import Benchmark, Findings, Row, Settings, alternate
from benchmarks.scratch import emptied
from benchmarks.service import Value, running_daemon

SAVES = 3
OURS, UNRESERVED = "smdaemon", "smdaemon without reserve()"
KINDS = {"numpy": "numpy", "jax": "JAX on CPU"}
_SAMPLES_BY_WHERE = ("done", "first done")

Place = tuple[str, int, str]
"""A kind of trees, their bytes, and "disk" or "tmpfs"."""


class _Measured:
    """Samples of all trainers: by kind, bytes, peer and what was measured; what ends on a disk or a tmpfs also by that."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.samples: dict[tuple[str, int, str, str], list[list[float]]] = {}

    def ours(self, place: Place, *, reserve: bool) -> float:
        """A trainer of smdaemon with a daemon of its own."""
        kind, nbytes, where = place
        folder = emptied(self._folder(where) / "daemon")
        daemon: dict[str, Value] = {"handoff_socket": "handoff.sock", "handoff_memory": f"{2 * nbytes + (1 << 30)}B"}
        with running_daemon(folder, daemon=daemon) as running:
            arguments = {"kind": kind, "nbytes": nbytes, "saves": SAVES, "socket": running.handoff}
            found = result_of(start(peers.by_smdaemon, **arguments, reserve=reserve))
        emptied(folder)
        return self._keep(place, OURS if reserve else UNRESERVED, found)

    def peer(self, place: Place, peer: str, function: Any, python: str) -> float:
        """A trainer of a peer."""
        kind, nbytes, where = place
        folder = emptied(self._folder(where) / "peer")
        found = result_of(start(function, python, kind=kind, nbytes=nbytes, saves=SAVES, folder=folder))
        emptied(folder)
        return self._keep(place, peer, found)

    def of(self, kind: str, nbytes: int, peer: str, what: str) -> list[list[float]]:
        """The samples of each process."""
        return self.samples.get((kind, nbytes, peer, what), [])

    def rows(self, kind: str, nbytes: int, what: str, title: str, *, rate: bool = False) -> list[Row]:
        """A row for each peer that has samples of `what`, called `title` and the peer."""
        return [
            Row(f"{named(kind, nbytes)}, {title}: {key[2]}", pooled(samples), "s", nbytes if rate else 0)
            for key, samples in self.samples.items()
            if (key[0], key[1], key[3]) == (kind, nbytes, what)
        ]

    def _keep(self, place: Place, peer: str, found: peers.Samples) -> float:
        kind, nbytes, where = place
        for what, samples in found.items():
            name = f"{what}, {where}" if what in _SAMPLES_BY_WHERE else what
            self.samples.setdefault((kind, nbytes, peer, name), []).append(samples)
        return statistics.median(found["stall"])

    def _folder(self, where: str) -> Path:
        return self._settings.disk if where == "disk" else self._settings.memory


def run(settings: Settings) -> Findings:
    """A tree of 1 GiB to a tmpfs; numpy and JAX; all peers in turns."""
    return measure(settings, [(settings.size(1 << 30, 32 << 20), "tmpfs")])


def measure(settings: Settings, places: Sequence[tuple[int, str]]) -> Findings:
    """Trees of so many bytes to a "disk" or a "tmpfs"."""
    measured = _Measured(settings)
    sizes = sorted({nbytes for nbytes, _ in places})
    turns: dict[str, Callable[[], float]] = {}
    torch = torch_python(settings)
    for nbytes, where in places:
        for kind in KINDS:
            place: Place = (kind, nbytes, where)
            label = f"{kind}, {nbytes >> 20} MiB, {where}"
            turns[f"{label}: {OURS}"] = partial(measured.ours, place, reserve=True)
            turns[f"{label}: {UNRESERVED}"] = partial(measured.ours, place, reserve=False)
            for peer, function, python in _peers(kind, torch, whole=nbytes == sizes[0]):
                turns[f"{label}: {peer}"] = partial(measured.peer, place, peer, function, python)
    alternate(turns, settings)
    findings = Findings()
    for nbytes in sizes:
        for kind in KINDS:
            findings.rows += _rows(measured, kind, nbytes)
            _check(findings, measured, kind, nbytes)
    findings.notes += [
        f"trees of {peers.TENSORS} float32 tensors; every sample is of a save after a step that changed all of them",
        "stall: how long the call keeps the trainer; copied: until its tensors are in shared memory",
        "done: until the version is published, or until the peer has written and synced",
        "first: that of a process; without reserve() it waits until shared memory is ready, which is the time of reserve() too",
        "in flight: saved while JAX still computes the step, so that a copy is launched for when it is done",
        "memcpy: ctypes.memmove of the same tensors into touched private memory by as many threads, in the same process between two saves",
        "a version, and what a peer wrote, is removed before the next save; a published version is synced and read back",
        f"jax {version('jax')}, orbax-checkpoint {version('orbax-checkpoint')}, torch {_torch_version(torch)}",
    ]
    return findings


def _peers(kind: str, torch: str, *, whole: bool) -> list[tuple[str, Any, str]]:
    """Name, function and interpreter of those who can save such a tree; `whole` with those that only block."""
    found = [("orbax StandardCheckpointer", peers.by_orbax, sys.executable)]
    if kind == "numpy":
        if torch:
            found.append(("torch DCP async_save", peers.by_torch, torch))
        if whole:
            found += [("np.savez", peers.by_savez, sys.executable), ("np.save", peers.by_save, sys.executable)]
    return found


def _rows(measured: _Measured, kind: str, nbytes: int) -> list[Row]:
    place = (kind, nbytes)
    rows = measured.rows(*place, "stall", "stall", rate=kind == "numpy")
    copies = pooled([*measured.of(*place, OURS, "memcpy"), *measured.of(*place, UNRESERVED, "memcpy")])
    rows.append(Row(f"{named(*place)}, for comparison: memcpy", copies, "s", nbytes))
    rows += measured.rows(*place, "first stall", "first stall")
    rows += measured.rows(*place, "reserve", "reserve()")
    if kind == "jax":
        rows += measured.rows(*place, "staged", "copied", rate=True)
        rows += measured.rows(*place, "in flight: stall", "in flight, stall")
        rows += measured.rows(*place, "in flight: first stall", "in flight, first stall")
    for where in ("disk", "tmpfs"):
        rows += measured.rows(*place, f"done, {where}", f"done, {where}", rate=True)
    return [row for row in rows if UNRESERVED not in row.name or "first stall" in row.name]


def _check(findings: Findings, measured: _Measured, kind: str, nbytes: int) -> None:
    size = named(kind, nbytes)
    firsts, stalls = (measured.of(kind, nbytes, OURS, what) for what in ("first stall", "stall"))
    if kind == "numpy":
        copies = measured.of(kind, nbytes, OURS, "memcpy")
        findings.at_most(f"{size}: save, against memcpy", _median_ratio(stalls, copies), 1.15, "x")
        findings.at_most(f"{size}: first save after reserve(), against later", _median_ratio(firsts, stalls), 1.3, "x")
    else:
        for what, samples in (("save", stalls), ("first save after reserve()", firsts)):
            findings.at_most(f"{size}: {what}", 1000 * statistics.median(pooled(samples)), 5, "ms")


def named(kind: str, nbytes: int) -> str:
    """A kind of trees and their size, for a row."""
    return f"{KINDS[kind]}, {nbytes / 2**30:.3g} GiB"


def pooled(samples: Sequence[list[float]]) -> list[float]:
    """Those of all processes."""
    return [sample for process in samples for sample in process]


def _median_ratio(ours: Sequence[list[float]], theirs: Sequence[list[float]]) -> float:
    """The median of the processes' ratios of medians."""
    return statistics.median(
        statistics.median(our) / statistics.median(their) for our, their in zip(ours, theirs, strict=True)
    )


def torch_python(settings: Settings) -> str:
    """An interpreter that has torch; empty where there is none."""
    return sys.executable if importlib.util.find_spec("torch") else settings.torch_python


def _torch_version(python: str) -> str:
    return str(result_of(start(torch_version, python))) if python else "not measured: it is not installed"


def torch_version() -> str:
    """The release of torch, in the interpreter that has it."""
    import torch

    return str(torch.__version__)


BENCHMARK = Benchmark("handoff", "Tensors handed over by a trainer", run, rounds=3)
