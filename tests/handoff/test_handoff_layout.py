"""The plan of a segment: tensors at aligned places; believed in nothing."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.staging.base import Spec
from smdaemon.staging.layout import ALIGNMENT, decode_layout, encode_layout, laid_out

SPECS = st.dictionaries(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda shape: Spec("float32", shape, 4 * shape[0] * shape[1])),
    min_size=1,
    max_size=8,
)


@given(SPECS)
def test_a_layout_survives_its_plan(specs):
    """Every tensor is where it was, at an aligned offset."""
    layout = laid_out(specs)
    again = decode_layout(encode_layout(layout), layout.nbytes)
    assert again.rows == layout.rows
    assert all(row.offset % ALIGNMENT == 0 for row in layout.rows)


def test_tied_tensors_lie_at_one_place():
    """A tensor that has two names is there once."""
    specs = {"a": Spec("int8", (3,), 3), "b": Spec("int8", (3,), 3), "c": Spec("int8", (3,), 3)}
    layout = laid_out(specs, {"c": "a"})
    assert [row.offset for row in layout.rows] == [0, 64, 0]
    assert layout.nbytes == 128
    again = decode_layout(encode_layout(layout), 128)
    assert again.rows == layout.rows
    assert again.places() == [(0, 3), (64, 3)]
    assert again.nbytes == 67


ROW = ["w", "float32", [2], 0, 8]
BAD = {
    "no object": [],
    "another layout": {"layout": 2, "tensors": [ROW]},
    "no tensors": {"layout": 1, "tensors": []},
    "a name twice": {"layout": 1, "tensors": [ROW, [*ROW[:3], 64, 8]]},
    "no name": {"layout": 1, "tensors": [["", *ROW[1:]]]},
    "an unknown dtype": {"layout": 1, "tensors": [["w", "float33", *ROW[2:]]]},
    "strings": {"layout": 1, "tensors": [["w", "string", *ROW[2:]]]},
    "a negative size": {"layout": 1, "tensors": [["w", "float32", [-2], 0, -8]]},
    "a size that is true": {"layout": 1, "tensors": [["w", "float32", [True, 2], 0, 8]]},
    "bytes that do not fit": {"layout": 1, "tensors": [["w", "float32", [2], 0, 9]]},
    "beyond the segment": {"layout": 1, "tensors": [["w", "float32", [2], 128, 8]]},
    "a negative offset": {"layout": 1, "tensors": [["w", "float32", [2], -8, 8]]},
    "over each other": {"layout": 1, "tensors": [ROW, ["v", "float32", [2], 4, 8]]},
    "two sizes at one place": {"layout": 1, "tensors": [ROW, ["v", "float32", [1], 0, 4]]},
    "too few columns": {"layout": 1, "tensors": [["w", "float32"]]},
    "a huge number": {"layout": 1, "tensors": [["w", "float32", [1 << 80], 0, 8]]},
}


@pytest.mark.parametrize("told", BAD.values(), ids=BAD)
def test_a_plan_that_contradicts_itself_is_refused(told):
    """Every lie about places, sizes and types."""
    with pytest.raises(DropError) as refused:
        decode_layout(json.dumps(told).encode(), 128)
    assert refused.value.code in {"handoff-protocol", "source-empty", "name-clash", "dtype-unsupported"}


@given(st.binary(max_size=100))
def test_whatever_comes_is_a_layout_or_our_error(plan):
    """Noise raises nothing else."""
    with suppress(DropError):
        decode_layout(plan, 128)
