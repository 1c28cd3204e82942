"""What a benchmark is, what it finds, and how measurements are alternated and summed up.

Peers are measured in turns (A B C, A B C, ...) and compared within a round, so that what drifts in the machine meets all of
them alike: a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How this run measures: `quick` makes everything small, to see that it works; its figures mean nothing."""

    rounds: int
    quick: bool
    memory: Path
    """A folder on a tmpfs, emptied by the caller."""
    disk: Path
    """A folder on a disk, emptied by the caller."""
    say: Callable[[str], None]
    torch_python: str = ""
    """An interpreter that has torch; empty for none but the running one, if that has it."""

    def size(self, full: int, quick: int) -> int:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """What was measured for one peer: every sample, in `unit`; with `nbytes` seconds are also shown as a rate."""

    name: str
    samples: list[float]
    unit: str = "s"
    nbytes: int = 0

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    def percentile(self, percent: float) -> float:
        """The sample that `percent` of all do not exceed."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class Check:
    """A promise beside what was measured for it."""

    claim: str
    measured: float
    target: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    @property
    def verdict(self) -> str:
        """Met, or missed and by how much of the target."""
        return "met" if self.met else f"missed by {abs(self.measured / self.target - 1):.0%}"


@dataclass
class Findings:
    """Everything that a benchmark found."""

    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def at_least(self, claim: str, measured: float, target: float, unit: str = "x") -> None:
        """Add the check that `measured` reaches `target`."""
        self.checks.append(Check(claim, measured, target, unit, at_least=True))

    def at_most(self, claim: str, measured: float, target: float, unit: str) -> None:
        """Add the check that `measured` stays within `target`."""
        self.checks.append(Check(claim, measured, target, unit))


@dataclass(frozen=True)
class Benchmark:
    """One entry of the registry in __main__.py."""

    name: str
    title: str
    run: Callable[[Settings], Findings]
    rounds: int = 5


@dataclass
class Report:
    """Findings with all that is needed to judge them later; this is what the JSON files hold."""

    name: str
    title: str
    date: str
    quick: bool
    rounds: int
    machine: dict[str, Any]
    versions: dict[str, str]
    idle: dict[str, Any]
    findings: Findings

    def to_json(self) -> dict[str, Any]:
        """The report as plain values; samples keep six digits."""
        plain = asdict(self)
        for row in plain["findings"]["rows"]:
            row["samples"] = [float(f"{sample:.6g}") for sample in row["samples"]]
        for check in plain["findings"]["checks"]:
            check["measured"] = float(f"{check['measured']:.6g}")
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Report:
        """The report in a JSON file."""
        found = plain["findings"]
        findings = Findings(
            [Row(**row) for row in found["rows"]], [Check(**check) for check in found["checks"]], found["notes"]
        )
        return cls(**{**plain, "findings": findings})


def alternate(peers: Mapping[str, Callable[[], float]], settings: Settings) -> dict[str, list[float]]:
    """One sample a round of every peer, the peers taking turns."""
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(settings.rounds):
        for name, measure in peers.items():
            samples[name].append(measure())
            settings.say(f"  round {turn + 1}/{settings.rounds}  {name}: {samples[name][-1]:.4g}")
    return samples


def times_faster(ours: list[float], theirs: list[float]) -> float:
    """How many times faster we are than they: the median of the rounds' ratios."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
