"""Whose turn it is: which of the jobs that may be attempted is attempted next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from smdaemon.jobs.job import COALESCED, Job

# Every so many-th turn is given without regard to priority, so that no model waits for ever behind a higher one.
FAIR_TURN = 4


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """How the jobs of one model are attempted. `latest`: of the drops the newest goes first, and once it is published the older are superseded.

    `priority`: the higher goes first. `paused`: nothing but rollbacks, and what may be published already; with a `max_parallel` of 0
    not these either.
    """

    on_backlog: Literal["all", "latest"] = "all"
    priority: int = 0
    max_parallel: int = 1
    paused: bool = False


class Turns:
    """The turns that the models take; `policy` is asked anew at each choice.

    Of one model the oldest drop goes first. The model of the highest priority goes first, and those of one priority take turns; every
    `FAIR_TURN`-th turn is that of the model which has waited longest, whatever its priority. A rollback goes before all of them, and so does
    a job that may be published already, because its commit began and nobody knows how it ended.
    """

    def __init__(self, policy: Callable[[str], ModelPolicy]) -> None:
        self._policy = policy
        # model -> the turn in which it last started a job; who has waited longest is next
        self._last: dict[str, int] = {}
        self._count = 0

    def given(self, model: str) -> None:
        """A job of the model was started."""
        self._count += 1
        self._last[model] = self._count

    def choose(self, ready: Mapping[str, list[Job]]) -> Job | None:
        """The job whose turn it is, of those by model that may start, at least one each; None where none of them is to start now."""
        first = [job for jobs in ready.values() for job in jobs if job.restores is not None or may_be_published(job)]
        if first:
            return min(first, key=lambda job: job.id)
        oldest = {name: min(jobs, key=recency) for name, jobs in ready.items() if not self._policy(name).paused}
        if not oldest:
            return None
        by_priority = (self._count + 1) % FAIR_TURN != 0
        model = min(
            oldest,
            key=lambda name: (
                -self._policy(name).priority if by_priority else 0,
                self._last.get(name, 0),
                oldest[name].id,
            ),
        )
        return _latest(ready[model]) if self._policy(model).on_backlog == "latest" else oldest[model]


def may_be_published(job: Job) -> bool:
    """Whether an earlier attempt may have published it: its commit had begun."""
    return job.publication is not None


def _latest(jobs: list[Job]) -> Job:
    """The newest drop, unless a request has waited longer than every drop: drops come in the place of each other, requests do not."""
    first = min(jobs, key=lambda job: job.id)
    return (
        first if first.origin not in COALESCED else max((job for job in jobs if job.origin in COALESCED), key=recency)
    )


def recency(job: Job) -> tuple[float, int]:
    """How new the job is among those of its model: the greater, the newer."""
    return (job.order, job.id)
