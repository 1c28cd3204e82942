"""Bytes that are encoded by hand, and the canonical order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.proto.pool import deterministic
from smdaemon.proto.tensorflow import AttrValue, FunctionDef, NodeDef, SavedVariable, TensorShapeProto
from smdaemon.savedmodel import wire
from smdaemon.savedmodel.canonical import canonical


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_shapes_are_those_of_protobuf(dims):
    """A shape encoded by hand is the message's own serialisation."""
    expected = TensorShapeProto(dim=[TensorShapeProto.Dim(size=dim) for dim in dims])
    assert wire.shape(tuple(dims)) == deterministic(expected)


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.text(max_size=200), st.booleans())
def test_fields_are_those_of_protobuf(enum, name, trainable):
    """Numbers, text and flags encoded by hand are read back by protobuf."""
    name = name.encode("utf-8", "replace").decode()
    content = wire.number(1, enum) + wire.number(3, trainable) + wire.text(6, name)
    read = SavedVariable.FromString(content)
    assert (read.dtype, read.trainable, read.name) == (enum, trainable, name)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_varints_are_read_back(value):
    """What varint writes read_varint reads, and no byte more."""
    assert wire.read_varint(wire.varint(value) + b"\x01", 0) == (value, len(wire.varint(value)))


def test_fields_of_a_message_are_found():
    """Each field with its number and the place of its payload, whatever its wire type."""
    content = AttrValue(f=1.5).SerializeToString() + wire.chunk(2, b"xyz") + wire.number(3, 300)
    assert [(number, content[payload:end]) for number, _, payload, end in wire.fields(content)] == [
        (4, b"\0\0\xc0\x3f"),
        (2, b"xyz"),
        (3, b"\xac\x02"),
    ]


def test_groups_are_one_field():
    """The old kind of nesting, which unknown fields may have, is skipped as a whole."""
    content = b"\x0b" + b"\x13\x0d\0\0\0\0\x14" + b"\x12\x01a" + b"\x0c" + b"\x18\x05"
    assert list(wire.fields(content)) == [(1, 0, 1, 12), (3, 12, 13, 14)]


@pytest.mark.parametrize(
    "content", [b"\x0c", b"\x0b\x08\x01", b"\x12\x05abc", b"\x80", b"\x0f", b"\xff" * 11, b"\x09\x00"]
)
def test_what_is_no_message_is_refused(content):
    """Lengths beyond the end, endless varints and unknown wire types."""
    with pytest.raises(ValueError, match="byte"):
        list(wire.fields(content))


def test_maps_are_sorted_as_cpp_sorts_them():
    """Shorter keys before those that begin with them, small numbers before large ones, however deep."""
    node = NodeDef(name="n")
    for key in ("Tin", "T", "Tin2", "a"):
        node.attr[key].b = True
    node.attr["f"].func.attr["xy"].i = 1
    node.attr["f"].func.attr["x"].i = 2
    function = FunctionDef(node_def=[node])
    for number in (300, 2, 1, 0):
        function.arg_attr[number].attr["k"].i = number
    content = canonical(function)
    assert FunctionDef.FromString(content) == function
    assert len(content) == len(deterministic(function))
    places = [content.index(b"\n" + bytes((len(key),)) + key) for key in (b"T", b"Tin", b"Tin2", b"a", b"f")]
    assert places == sorted(places)
    assert content.index(b"\n\x01x") < content.index(b"\n\x02xy")
    numbers = [content[payload:end] for number, _, payload, end in wire.fields(content) if number == 7]
    assert [entry[:3] for entry in numbers] == [b"\x08\x00\x12", b"\x08\x01\x12", b"\x08\x02\x12", b"\x08\xac\x02"]
