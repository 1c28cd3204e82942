"""Whose turn it is: priorities, turns among equals, nobody starves, rollbacks first.

The pure part of the scheduler is asked alone: a ledger's picture in, the order of starts out.
"""

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given
from jobs_kit import new_job

from smdaemon.jobs.job import Publication, begin
from smdaemon.jobs.scheduler import Scheduler
from smdaemon.jobs.turns import FAIR_TURN, ModelPolicy


class Picture:
    """As much of a ledger as the choice looks at."""

    def __init__(self):
        self.queued = {}
        self.ids = 0

    def observe(self, observer):
        """Nothing moves here."""

    def add(self, model, step, **fields):
        """A queued job."""
        self.ids += 1
        job = begin(new_job(model, step, **fields), self.ids, 0.0)
        self.queued.setdefault(model, {})[job.id] = job
        return job


class Turns:
    """A scheduler with one worker whose attempts end at once."""

    def __init__(self, policies):
        self.ledger = Picture()
        self.policies = policies
        self.scheduler = Scheduler(self.ledger, None, workers=1, policy=self.policies.__getitem__)

    def next(self):
        """The job whose turn it is, started and ended; None if none may start."""
        job = self.scheduler._choose()
        if job is not None:
            self.scheduler._turns.given(job.model)
            del self.ledger.queued[job.model][job.id]
        return job

    def order(self, count):
        """The models of the next turns, as one word."""
        return "".join(job.model for _ in range(count) if (job := self.next()) is not None)


def turns(**priorities):
    """Models by their priorities."""
    return Turns({name: ModelPolicy(priority=priority) for name, priority in priorities.items()})


def test_the_higher_priority_goes_first():
    """Whoever was there before it; with nothing of a higher priority left the lower goes on."""
    house = turns(a=0, b=1)
    for step in range(3):
        house.ledger.add("a", step)
        house.ledger.add("b", step)
    assert house.order(9) == "bbbaaa"


def test_every_fourth_turn_goes_to_who_has_waited_longest():
    """A long backlog of a high priority leaves a lower one a fourth of the turns."""
    house = turns(a=0, b=9)
    for step in range(20):
        house.ledger.add("a", step)
        house.ledger.add("b", step)
    assert FAIR_TURN == 4
    assert house.order(12) == "bbbabbbabbba"


def test_equals_take_turns():
    """Without priorities, and among those of one priority, nothing is as if there were none."""
    house = turns(a=-3, b=2, c=2)
    for model in "abc":
        for step in range(4):
            house.ledger.add(model, step)
    assert house.order(12) == "bcbacbcabcaa"
    alike = turns(a=5, b=5, c=5)
    for model in "abc":
        for step in range(2):
            alike.ledger.add(model, step)
    assert alike.order(6) == "abcabc"


def test_a_change_of_priority_counts_at_the_next_turn():
    """The policy is asked anew for each choice."""
    house = turns(a=0, b=1)
    for step in range(3):
        house.ledger.add("a", step)
        house.ledger.add("b", step)
    assert house.order(1) == "b"
    house.policies["a"] = ModelPolicy(priority=2)
    assert house.order(2) == "aa"


@pytest.mark.parametrize("on_backlog", ["all", "latest"])
def test_a_rollback_goes_before_everything(on_backlog):
    """Before older and newer drops of its model, before models of a higher priority, the first of two rollbacks first."""
    house = turns(a=0, b=9)
    house.policies["a"] = ModelPolicy(on_backlog)
    house.ledger.add("b", 1)
    house.ledger.add("a", 5)
    first = house.ledger.add("a", 3, origin="api", restores=2)
    second = house.ledger.add("b", 0, origin="api", restores=1)
    assert [house.next(), house.next()] == [first, second]


def test_what_may_be_published_already_goes_before_newer_drops():
    """A job whose commit began is looked at first, whatever the backlog's rule: its version may stand there."""
    house = turns(a=0, b=9)
    house.policies["a"] = ModelPolicy("latest", paused=True)
    house.ledger.add("b", 1)
    house.ledger.add("a", 5)
    begun = replace(house.ledger.add("a", 3), publication=Publication("1/2-3-4"))
    house.ledger.queued["a"][begun.id] = begun
    assert house.next() == begun


def test_a_rollback_does_not_wait_for_the_watch():
    """A model whose directory was not looked at yet, or cannot be, can be rolled back; its exports wait."""
    house = turns(a=0)
    house.policies["a"] = ModelPolicy(paused=True)
    house.ledger.add("a", 1)
    rollback = house.ledger.add("a", 0, restores=1)
    assert [house.next(), house.next()] == [rollback, None]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(-3, 3), min_size=2), st.integers(1, 60))
def test_nobody_starves(priorities, count):
    """However the priorities are, each of the models that want a turn has one within as many rounds as there are models."""
    house = turns(**priorities)
    for model in priorities:
        for step in range(count):
            house.ledger.add(model, step)
    models = house.order(count)
    window = FAIR_TURN * len(priorities)
    for at in range(len(models) - window + 1):
        assert Counter(models[at : at + window]).keys() == priorities.keys()


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(-3, 3), min_size=2))
def test_three_of_four_turns_go_to_the_highest(priorities):
    """What is not a fair turn is given by priority alone."""
    house = turns(**priorities)
    for model in priorities:
        for step in range(40):
            house.ledger.add(model, step)
    highest = max(priorities.values())
    for turn, model in enumerate(house.order(40), 1):
        if turn % FAIR_TURN:
            assert priorities[model] == highest
