"""How the tensors of a tree are called."""

import collections
import dataclasses
from typing import Any, NamedTuple

import flax.core
import flax.struct
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from smdaemon.errors import DropError
from smdaemon.savedmodel.jax.pytrees import named_leaves
from smdaemon.staging.trees import named_tensors


class Pair(NamedTuple):
    """A named tuple."""

    first: Any
    second: Any


@dataclasses.dataclass
class Model:
    """A class that JAX knows nothing of."""

    kernel: Any
    bias: Any = None


@flax.struct.dataclass
class State:
    """A class that JAX knows as a tree."""

    params: Any
    step: Any


W = np.ones((2, 3), np.float32)


def test_parts_are_joined_in_the_order_of_the_tree() -> None:
    """Keys, indices and fields make a name; None is no tensor."""
    tree = {"b": [W, (W, None)], "a": Pair(W, {"x": 1.5}), 3: collections.OrderedDict(z=W)}
    assert list(named_tensors(tree)) == ["b/0", "b/1/0", "a/first", "a/second/x", "3/z"]


def test_a_dataclass_is_its_fields() -> None:
    """Also where no library knows it."""
    assert list(named_tensors({"m": Model(W)})) == ["m/kernel"]


@pytest.mark.parametrize(
    "tree",
    [
        {"a": W, "b": {"c": [jnp.ones(2), (W,)]}},
        State({"dense": {"kernel": W}}, 3),
        flax.core.freeze({"x": {"y": W}}),
        optax.adam(1e-3).init({"w": jnp.ones(3)}),
        nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
        [Pair(W, None), collections.defaultdict(list, {"q": W})],
    ],
    ids=["dicts", "struct", "frozen", "optax", "nnx", "mixed"],
)
def test_names_are_those_of_a_functions_parameters(tree: Any) -> None:
    """What is handed over fits the function that was described with the same tree."""
    wanted = named_leaves(tree, "alone")
    got = named_tensors(tree)
    assert sorted(got) == sorted(wanted)
    assert all(got[name] is wanted[name] for name in got)


def test_two_of_one_name_are_refused() -> None:
    """The keys 1 and "1" are one name."""
    with pytest.raises(DropError, match="two tensors of the tree are called 'a/1'") as caught:
        named_tensors({"a": {1: W, "1": W}})
    assert caught.value.code == "name-clash"


def test_a_single_tensor_has_no_name() -> None:
    """The remedy is a dict."""
    with pytest.raises(DropError) as caught:
        named_tensors(W)
    assert caught.value.code == "name-invalid"
    assert "dict" in caught.value.remedy


def test_an_empty_tree_has_no_tensors() -> None:
    """That is for the caller to refuse."""
    assert named_tensors({"a": {}, "b": None}) == {}
