"""Which published versions stay: the rules of a model, applied to what the journal says. Pure.

A version stays if any rule keeps it, and every version stays where there is no rule. Two things are no rules and hold always: the
newest version stays, whatever it is worth, since that is what is served; and so does the newest good one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

Goal = Literal["max", "min"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version that this daemon published and has not removed. Times are unix seconds."""

    model: str
    version: int
    export_dir: str
    # which directory was published, see `local.identity_of`; empty where it is not known
    identity: str
    # it was the so many-th version of its model to be published
    place: int
    published_at: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    pinned: bool = False
    # the version whose content it has once more; None for what was exported
    restores: int | None = None
    # since when it is not good: a rollback went back behind it, or could not publish it again
    withdrawn_at: float | None = None

    @property
    def good(self) -> bool:
        """Whether nobody has gone back behind it."""
        return self.withdrawn_at is None

    @property
    def content(self) -> int:
        """The version that had its content first."""
        return self.version if self.restores is None else self.restores


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of a model; 0 is no rule. `goal` says which value of `metric` is the best."""

    keep_last: int = 0
    keep_every: int = 0
    keep_best: int = 0
    metric: str = ""
    goal: Goal = "max"

    @property
    def has_rules(self) -> bool:
        """Whether anything can ever go."""
        return bool(self.keep_last or self.keep_every or self.keep_best)


def retained(
    versions: Collection[Version], policy: Policy, held: Mapping[int, str] | None = None
) -> dict[int, tuple[str, ...]]:
    """Why each of the model's `versions` stays, by its number, newest first; what is left out may go.

    `held` has reasons of the moment, by number, such as a job that reads the version.
    """
    newest_first = sorted(versions, key=lambda each: each.version, reverse=True)
    reasons: dict[int, list[str]] = {each.version: [] for each in newest_first}
    for newest in newest_first[:1]:
        reasons[newest.version].append("the newest")
    for good in [each for each in newest_first if each.good][:1]:
        reasons[good.version].append("the newest good one")
    for each in newest_first:
        if each.pinned:
            reasons[each.version].append("pinned")
        if held and each.version in held:
            reasons[each.version].append(held[each.version])
        if not policy.has_rules:
            reasons[each.version].append("no rule")
        if policy.keep_every and each.place % policy.keep_every == 0:
            reasons[each.version].append(f"keep_every = {policy.keep_every}")
    for each in newest_first[: policy.keep_last]:
        reasons[each.version].append(f"keep_last = {policy.keep_last}")
    for each in _best(newest_first, policy):
        reasons[each.version].append(f"keep_best = {policy.keep_best}")
    return {version: tuple(said) for version, said in reasons.items() if said}


def _best(newest_first: list[Version], policy: Policy) -> list[Version]:
    """The best by the metric; of equals the newer. What has no value of it is not among them."""
    measured = [each for each in newest_first if policy.metric in each.metrics]
    # a stable sort, also backwards: equals stay newest first
    measured.sort(key=lambda each: each.metrics[policy.metric], reverse=policy.goal == "max")
    return measured[: policy.keep_best]
