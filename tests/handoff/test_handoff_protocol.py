"""Messages of the handoff socket, and how segments move: pure, whatever the other side sends."""

import json
from contextlib import suppress
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.handoff import protocol
from smdaemon.handoff.protocol import FDS, SEGMENT_MOVES, SegmentEvent, SegmentState

KINDS = [*protocol._TYPES.values()]
VALUES = {
    int: st.integers(0, 1 << 40),
    str: st.text(max_size=20),
    int | None: st.none() | st.integers(0, 1 << 40),
}
COUNTS = {"stall_us": st.integers(0, 1 << 40), "skipped": st.integers(0, 1 << 32)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def messages(kind):
    """Messages of a type."""
    options = st.dictionaries(st.text(max_size=8), JSON, max_size=3)
    made = {each.name: COUNTS.get(each.name, VALUES.get(each.type, options)) for each in fields(kind)}
    return st.builds(kind, **made)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
@given(data=st.data())
def test_every_message_survives_its_packet(kind, data):
    """What is encoded is decoded as it was."""
    message = data.draw(messages(kind))
    least, most = FDS.get(kind, (0, 0))
    for count in range(least, most + 1):
        assert protocol.decode(protocol.encode(message), count) == message


@given(
    st.binary(max_size=200)
    | (JSON | st.fixed_dictionaries({"type": JSON})).map(lambda value: json.dumps(value).encode())
)
def test_whatever_comes_is_a_message_or_our_error(packet):
    """No packet raises anything but `handoff-protocol`."""
    with suppress(DropError):
        protocol.decode(packet)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
@given(data=st.data())
def test_a_message_with_a_field_of_another_type_is_refused(kind, data):
    """Strings for numbers, numbers for texts, missing and unknown fields: none is taken."""
    told = json.loads(protocol.encode(data.draw(messages(kind))))
    name = data.draw(st.sampled_from([each.name for each in fields(kind)]))
    wrong = {"n": [1]} if isinstance(told[name], str | int | None) else "text"
    if data.draw(st.booleans()):
        told[name] = [wrong]
    else:
        told["surplus"] = 1
    with pytest.raises(DropError) as refused:
        protocol.decode(json.dumps(told).encode(), FDS.get(kind, (0, 0))[0])
    assert refused.value.code == "handoff-protocol"


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("number", [-1, 1 << 61])
def test_what_is_added_up_is_neither_negative_nor_huge(name, number):
    """In a commit and in one that is offered: no sum of the daemon goes down or overflows."""
    told = protocol.commit_fields(protocol.Commit("e", 1, 1, "m")) | {name: number}
    for refused in (lambda: protocol.commit_of(told), lambda: decoded({"type": "commit", **told})):
        with pytest.raises(DropError, match=name):
            refused()


def decoded(told):
    """A message that comes with one descriptor."""
    return protocol.decode(json.dumps(told).encode(), 1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_descriptors_come_with_their_messages_only(kind):
    """A message with too many or too few descriptors is refused."""
    least, most = FDS.get(kind, (0, 0))
    values = {int: 1, str: "x", int | None: None}
    packet = protocol.encode(kind(**{each.name: values.get(each.type, {}) for each in fields(kind)}))
    for count in {least - 1, most + 1} - {-1}:
        with pytest.raises(DropError):
            protocol.decode(packet, count)


def test_a_message_is_never_longer_than_a_packet():
    """What has no bound belongs into the plan, and is refused elsewhere."""
    with pytest.raises(DropError, match="over 65536"):
        protocol.encode(protocol.Fail("x", "code", "m" * 70_000, ""))


def test_a_commit_that_can_be_sent_can_be_offered():
    """To another daemon, as part of a longer message, and with numbers of any length."""
    longest = next(
        commit
        for count in range(protocol.MESSAGE_BYTES, 0, -1)
        if (commit := sendable_or_none(protocol.Commit("e", 1, 1, "m", 1, {"tags": ["x" * count]}))) is not None
    )
    largest = 1 << 62
    told = protocol.commit_fields(replace(longest, segment=largest, bytes=largest, stall_us=1 << 40, skipped=1 << 32))
    assert len(protocol.encode(protocol.Offer(largest, largest, told))) > protocol.MESSAGE_BYTES - 256


def sendable_or_none(commit):
    """The commit, unless it is too long."""
    try:
        return protocol.sendable(commit)
    except DropError:
        return None


@pytest.mark.parametrize("state", SegmentState)
@pytest.mark.parametrize("event", SegmentEvent)
def test_segments_move_by_the_table_and_by_nothing_else(state, event):
    """Every pair that the table lacks is refused."""
    if (state, event) in SEGMENT_MOVES:
        assert protocol.advance(state, event) is SEGMENT_MOVES[state, event]
    else:
        with pytest.raises(DropError, match="cannot move"):
            protocol.advance(state, event)


def test_a_segment_that_may_still_be_written_is_never_free_again():
    """When a trainer goes, what it had begun to fill is gone, not free."""
    assert SEGMENT_MOVES[SegmentState.FILLING, SegmentEvent.DISCONNECT] is SegmentState.GONE
    assert not any(state is SegmentState.GONE for state, _ in SEGMENT_MOVES)
