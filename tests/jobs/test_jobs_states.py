"""The state table."""

import itertools
import json
import re
from importlib.resources import files

import pytest

from smdaemon.jobs.states import ACTIVE, PENDING, TERMINAL, TRANSITIONS, Event, ImpossibleMoveError, State, advance


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_a_move_is_in_the_table_or_impossible(state, event):
    """Every pair of state and event either gives the state of the table or is refused by name."""
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ImpossibleMoveError, match=f"'{state}' cannot move by '{event}'") as caught:
            advance(state, event)
        assert caught.value.state is state


def test_the_straight_way_leads_from_detected_to_published():
    """A job that meets nothing goes through all the steps in order."""
    state = State.DETECTED
    seen = []
    for event in (Event.QUEUE, Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT, Event.PUBLISH):
        state = advance(state, event)
        seen.append(state.value)
    assert seen == ["queued", "staging", "writing", "verifying", "committing", "published"]


def test_only_a_person_moves_an_ended_job():
    """Published and superseded jobs never move again, failed and cancelled ones only by retry."""
    leaving = {(state, event) for state, event in TRANSITIONS if state in TERMINAL}
    assert leaving == {(State.FAILED, Event.RETRY), (State.CANCELLED, Event.RETRY)}


def test_every_state_but_ended_ones_can_fail_and_every_active_one_can_wait_and_resume():
    """No job can get stuck: each open state has a way to fail, each active one a way to wait and to be resumed."""
    for state in set(State) - TERMINAL:
        assert advance(state, Event.FAIL) is State.FAILED
    for state in ACTIVE:
        assert advance(state, Event.FAULT) is State.WAITING
        assert advance(state, Event.RESUME) is State.QUEUED


def test_a_commit_cannot_be_cancelled():
    """From committing on, cancel is impossible; before it, it is always possible."""
    able = {state for state, event in TRANSITIONS if event is Event.CANCEL}
    assert able == set(State) - TERMINAL - {State.COMMITTING}


def test_every_state_can_be_reached():
    """No state of the enumeration is dead."""
    assert {State.DETECTED, *TRANSITIONS.values()} == set(State)


def test_a_state_is_before_an_attempt_in_one_or_behind_the_last():
    """Each is one of the three."""
    assert sorted([*PENDING, *ACTIVE, *TERMINAL]) == sorted(State)


def test_the_dashboard_knows_the_same_states():
    """The page, which has no Python, lists them once more."""
    script = files("smdaemon.control").joinpath("page/store.js").read_text()
    lists = dict(re.findall(r"^export const (\w+) = (\[.*\]);$", script, re.MULTILINE))
    known = {name: set(json.loads(states)) for name, states in lists.items()}
    assert known == {"WAITING": PENDING, "RUNNING": ACTIVE, "ENDED": TERMINAL}
