"""The rules of retention: each by example, and what holds for all of them by any versions and any rules."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from smdaemon.publish.retention import Policy, Version, retained


def version(number: int, place: int | None = None, **fields: object) -> Version:
    """The version of that number, published as the so many-th."""
    place = number if place is None else place
    made = Version(
        model="ranker",
        version=number,
        export_dir=f"/models/{number}",
        identity=f"{number}/1-1-1",
        place=place,
        published_at=float(place),
    )
    return replace(made, **fields)


def versions(*numbers: int) -> list[Version]:
    """Versions of those numbers, published in that order."""
    return [version(number, place) for place, number in enumerate(numbers, 1)]


def kept(found: list[Version], **rules: object) -> list[int]:
    """The numbers that stay, newest first."""
    return list(retained(found, Policy(**rules)))


def test_without_a_rule_everything_stays():
    """0 is no rule, and no rule is the default."""
    assert kept(versions(1, 2, 3)) == [3, 2, 1]
    assert retained(versions(1), Policy()) == {1: ("the newest", "the newest good one", "no rule")}


def test_the_last_are_those_of_the_highest_numbers():
    """Not those that were published last: what is served is the highest number."""
    assert kept(versions(10, 30, 20), keep_last=2) == [30, 20]
    assert kept(versions(1), keep_last=2) == [1]


def test_every_kth_version_by_the_order_of_publication():
    """Counted as they were published, so that it does not change what has gone meanwhile; the newest stays besides."""
    steps = versions(100, 200, 300, 400, 500)
    assert kept(steps, keep_every=2) == [500, 400, 200]
    assert kept([each for each in steps if each.version != 100], keep_every=2) == [500, 400, 200]


@pytest.mark.parametrize(("goal", "best"), [("max", [4, 3, 1]), ("min", [4, 2, 1])])
def test_the_best_by_a_metric(goal, best):
    """The goal says which value is best; of two equal ones the newer counts."""
    values = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.4}
    found = [version(number, metrics={"auc": value}) for number, value in values.items()]
    if goal == "min":
        found = [replace(each, metrics={"auc": 0.5}) if each.version == 4 else each for each in found]
        found[0] = replace(found[0], metrics={"auc": 0.4})
    assert kept(found, keep_best=2, metric="auc", goal=goal) == best


def test_of_equals_the_newer_is_the_better():
    """Also where the lowest value is the best."""
    found = [version(number, metrics={"loss": 0.5}) for number in (1, 2, 3, 4)]
    for goal in ("max", "min"):
        assert kept(found, keep_best=2, metric="loss", goal=goal) == [4, 3]


def test_a_version_without_the_metric_is_never_among_the_best():
    """Neither as the lowest nor as the highest value, and another metric does not stand for it."""
    found = [version(1, metrics={"loss": 3.0}), version(2, metrics={"auc": 1.0}), version(3), version(4)]
    assert kept(found, keep_best=3, metric="loss", goal="min") == [4, 1]


def test_pinned_and_held_versions_stay():
    """Whatever the rules say; the reasons name each."""
    found = [version(1, pinned=True), version(2), version(3), version(4)]
    decided = retained(found, Policy(keep_last=1), {2: "job 7 reads it"})
    assert decided == {
        4: ("the newest", "the newest good one", "keep_last = 1"),
        2: ("job 7 reads it",),
        1: ("pinned",),
    }


def test_the_newest_good_version_stays_beside_a_newer_bad_one():
    """A rollback's target must not go because what was gone back behind is newer."""
    found = [version(1), version(2), version(3, withdrawn_at=9.0)]
    assert kept(found, keep_last=1) == [3, 2]


def test_a_version_stays_if_any_rule_keeps_it():
    """Rules add up; each reason is named."""
    found = [version(number, metrics={"auc": 1.0 / number}) for number in range(1, 9)]
    rules = Policy(keep_last=2, keep_every=5, keep_best=1, metric="auc")
    assert {number: said[-1] for number, said in retained(found, rules).items()} == {
        8: "keep_last = 2",
        7: "keep_last = 2",
        5: "keep_every = 5",
        1: "keep_best = 1",
    }


SOME = st.integers(0, 5)
POLICIES = st.builds(
    Policy, keep_last=SOME, keep_every=SOME, keep_best=SOME, metric=st.just("auc"), goal=st.sampled_from(["max", "min"])
)
METRICS = st.dictionaries(st.sampled_from(["auc", "loss"]), st.floats(allow_nan=False), max_size=2)


@st.composite
def histories(draw):
    """Up to a dozen versions of any numbers, published in any order."""
    numbers = draw(st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=12))
    return [
        version(
            number,
            place,
            metrics=draw(METRICS),
            pinned=draw(st.booleans()),
            withdrawn_at=draw(st.sampled_from([None, 1.0])),
        )
        for place, number in enumerate(numbers, 1)
    ]


@given(histories(), POLICIES)
def test_what_must_never_go_stays(found, policy):
    """The newest, the newest good and every pinned version stay by any rules, and each that stays has its reasons."""
    decided = retained(found, policy)
    assert decided.keys() <= {each.version for each in found}
    assert all(decided.values())
    never = [each.version for each in found if each.pinned]
    never += [max(each.version for each in some) for some in (found, [v for v in found if v.good]) if some]
    assert set(never) <= decided.keys()
    assert list(decided) == sorted(decided, reverse=True)


@given(histories(), POLICIES, st.randoms())
def test_the_order_of_the_rows_does_not_matter(found, policy, rng):
    """The same rows in any order are decided alike."""
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert retained(shuffled, policy) == retained(found, policy)


@given(histories(), POLICIES)
def test_a_second_pass_takes_nothing_more(found, policy):
    """What stays once stays as long as nothing is published."""
    stays = retained(found, policy)
    assert retained([each for each in found if each.version in stays], policy).keys() == stays.keys()


@given(histories(), POLICIES)
def test_rules_only_add(found, policy):
    """All rules together keep what each of them keeps alone, and nothing else."""
    alone = [
        replace(Policy(metric="auc", goal=policy.goal), **{name: getattr(policy, name)})
        for name in ("keep_last", "keep_every", "keep_best")
        if getattr(policy, name)
    ]
    union = set().union(*(retained(found, rule) for rule in alone))
    assert retained(found, policy).keys() == (union if alone else {each.version for each in found})


@given(histories(), SOME, SOME)
def test_a_higher_count_never_keeps_less(found, less, more):
    """keep_last and keep_best are monotonous."""
    low, high = sorted((less + 1, more + 1))
    for name in ("keep_last", "keep_best"):
        small, large = (retained(found, Policy(metric="auc", **{name: count})) for count in (low, high))
        assert small.keys() <= large.keys()
