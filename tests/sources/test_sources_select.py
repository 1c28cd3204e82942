"""Choosing and renaming tensors."""

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.sources.select import select
from smdaemon.tensorbundle.tensors import ArrayTensor

TENSORS = {name: ArrayTensor(np.zeros(1)) for name in ("a/kernel", "a/bias", "b/kernel", "Step")}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["a/kernel", "a/bias", "b/kernel", "Step"]),
        ({"include": ["*/kernel"]}, ["a/kernel", "b/kernel"]),
        ({"include": ["a*", "b*"], "exclude": ["*bias"]}, ["a/kernel", "b/kernel"]),
        ({"exclude": ["S*"]}, ["a/kernel", "a/bias", "b/kernel"]),
        ({"include": ["a/[bk]*"]}, ["a/kernel", "a/bias"]),
        ({"include": ["Step"], "exclude": ["*"]}, []),
        ({"include": ["a/*"], "rename": {"a/bias": "offset"}}, ["a/kernel", "offset"]),
        ({"rename": {"a/kernel": "b/kernel", "b/kernel": "a/kernel"}}, ["b/kernel", "a/bias", "a/kernel", "Step"]),
    ],
)
def test_chosen_names(options, names):
    """Patterns match whole names, with their case; order is the source's; names may be swapped."""
    assert list(select(TENSORS, **options)) == names


def test_values_follow_their_new_names():
    """A renamed tensor is the same tensor."""
    assert select(TENSORS, rename={"Step": "step"})["step"] is TENSORS["Step"]


@pytest.mark.parametrize(
    ("options", "code", "culprit"),
    [
        ({"include": ["a*", "c*"]}, "request-invalid", "'c*'"),
        ({"include": ["A*"]}, "request-invalid", "'A*'"),
        ({"exclude": ["step"]}, "request-invalid", "'step'"),
        ({"rename": {"c": "d"}}, "request-invalid", "'c'"),
        ({"include": ["a*"], "rename": {"Step": "d"}}, "request-invalid", "'Step'"),
        ({"rename": {"Step": "a/bias"}}, "name-clash", "'a/bias'"),
        ({"rename": {"Step": "x", "a/bias": "x"}}, "name-clash", "'x'"),
        ({"rename": {"Step": "../x"}}, "name-invalid", "'../x'"),
        ({"rename": {"Step": ""}}, "name-invalid", "empty"),
    ],
)
def test_refused_choices(options, code, culprit):
    """What fits nothing, or would give one name twice, is refused and named."""
    with pytest.raises(DropError) as caught:
        select(TENSORS, **options)
    assert caught.value.code == code
    assert culprit in caught.value.message
