"""The rules of completeness, whatever a writer does."""

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from watch_fakes import Claims

from smdaemon.sources.base import Identity
from smdaemon.watch.completeness import GIVE_UP_QUIET_PERIODS, Moment, Sight, Touch, given_up_at, ready_at, renew
from smdaemon.watch.drops import Sightings

QUIET = 10.0
ONE, OTHER = Identity(1, 1, 1), Identity(1, 2, 2)


def test_a_second_look_keeps_what_was_known():
    """The earliest time of rest and the most that was noticed."""
    sight = renew(renew(None, ONE, Touch.CLOSED, 5.0), ONE, Touch.SEEN, 7.0)
    assert sight == Sight(ONE, 5.0, Touch.CLOSED)


def test_a_change_starts_anew():
    """Nothing that was known about the bytes before holds for the bytes now."""
    assert renew(Sight(ONE, 5.0, Touch.MOVED), OTHER, Touch.SEEN, 7.0) == Sight(OTHER, 7.0, Touch.SEEN)


def test_every_file_of_a_set_must_be_at_rest():
    """The last one decides; one that was closed needs no rest."""
    sights = [Sight(ONE, 3.0, Touch.CLOSED), Sight(ONE, 1.0, Touch.SEEN), Sight(ONE, 2.0, Touch.SEEN)]
    assert ready_at(sights, self_judging=True, quiet_seconds=QUIET) == 12.0
    assert ready_at(sights, self_judging=False, quiet_seconds=QUIET) == 13.0


def test_a_set_is_waited_for_longer_than_a_closed_file():
    """A shard may come late."""
    sights = [Sight(ONE, 3.0, Touch.CLOSED)]
    assert given_up_at(sights, single=True, quiet_seconds=QUIET) == 3.0 + QUIET
    assert given_up_at(sights, single=False, quiet_seconds=QUIET) == 3.0 + QUIET * GIVE_UP_QUIET_PERIODS


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 6)),
        st.tuples(st.just("close"), st.none()),
        st.tuples(st.just("look"), st.none()),
        st.tuples(st.just("pass"), st.floats(0, 2 * QUIET)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=80)
@given(steps)
def test_a_file_is_reported_only_closed_or_at_rest_and_is_reported_in_the_end(steps):
    """Whatever order of writes, closes and looks: never in the middle, once for each content, and not forgotten."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.box"
        path.write_bytes(b"")
        sightings = Sightings(directory, Claims(), recursive=True, quiet_seconds=QUIET)
        now, changed_at, closed, reported = 0.0, 0.0, False, []

        def look(touch):
            drops = sightings.look({str(path): touch}, Moment(now, 0.0)).drops
            for drop in drops:
                assert closed or now - changed_at >= QUIET
                complete = path.read_bytes() == b"5xxxxx"
                assert complete or now - changed_at >= QUIET
                assert drop.identity not in reported
                reported.append(drop.identity)

        for number, (step, value) in enumerate(steps):
            if step == "write":
                path.write_bytes(b"5xxxxx"[:value])
                os.utime(path, ns=(number, number))  # two writes within one tick of the clock cannot be told apart
                changed_at, closed = now, False
            elif step == "close":
                closed = True
                look(Touch.CLOSED)
            elif step == "look":
                look(Touch.SEEN)
            else:
                now += value
        look(Touch.SEEN)
        now += QUIET * GIVE_UP_QUIET_PERIODS
        look(Touch.SEEN)
        assert reported
        assert reported[-1] == Identity.of(path.stat())
