"""Names as a tree."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.savedmodel.tree import ROOT_RESERVED, Branch, Kind, Leaf, nest

TENSORFLOW_NAME = r"[A-Za-z0-9.][A-Za-z0-9_./-]*"


def shape_of(child):
    """The tree as nested tuples of kind and children; a leaf as its name."""
    if isinstance(child, Leaf):
        return child.name
    return child.kind.value, {name: shape_of(grandchild) for name, grandchild in child.children.items()}


def test_slashes_become_nesting():
    """Parts that are identifiers are attributes, parts that count from 0 are items."""
    tree = nest(["layer/1/kernel", "layer/0/kernel", "step"])
    layer = ("list", {"0": ("object", {"kernel": "layer/0/kernel"}), "1": ("object", {"kernel": "layer/1/kernel"})})
    assert shape_of(tree.root) == ("object", {"layer": layer, "step": "step"})


def test_dots_become_nesting_where_there_are_no_slashes():
    """Names in the manner of torch are split at dots; with a slash anywhere, dots are part of the names."""
    assert nest(["a.b"]).leaves[0].path == ("a", "b")
    assert [leaf.path for leaf in nest(["a.b", "c/d"]).leaves] == [("a.b",), ("c", "d")]


def test_separator_can_be_forced():
    """A forced separator leaves the other one in the parts."""
    assert nest(["a/b.c"], separator=".").leaves[0].path == ("a/b", "c")


def test_other_names_make_a_dict():
    """Keywords, gaps in the count and names with spaces cannot be attributes or items."""
    kinds = {"a/class": Kind.DICT, "a/1": Kind.DICT, "a/b c": Kind.DICT, "a/00": Kind.DICT, "a/__init__": Kind.DICT}
    for name, kind in kinds.items():
        branch = nest([name]).root.children["a"]
        assert isinstance(branch, Branch)
        assert branch.kind is kind, name


def test_the_root_is_an_object_whatever_its_names():
    """TensorFlow cannot load a dict or a list as the root."""
    assert nest(["0", "1"]).root.kind is Kind.OBJECT
    assert nest(["a b"]).root.kind is Kind.OBJECT


def test_lists_are_in_the_order_of_their_numbers():
    """Item 10 comes after item 9."""
    names = [f"x/{number}" for number in range(12)]
    assert [leaf.name for leaf in nest(reversed(names)).leaves] == names


def test_variables_have_names_that_tensorflow_takes():
    """Illegal characters are replaced, and siblings stay apart."""
    leaves = nest(["a b/x", "a_b/x", "a:b/x", "_w", "d/ü"]).leaves
    assert {leaf.name: leaf.variable for leaf in leaves} == {
        "_w": "var_w",
        "a b/x": "a_b_1/x",
        "a:b/x": "a_b_2/x",
        "a_b/x": "a_b/x",
        "d/ü": "d/_",
    }


def test_what_only_tensorflows_python_takes_is_replaced():
    """Its C++ imports no graph with a backslash in a name, nor each angle bracket."""
    leaves = nest(["emb/<pad>", "a\\b/x", "c>d"]).leaves
    assert [leaf.variable for leaf in leaves] == ["a_b/x", "c_d", "emb/_pad_"]


def test_what_is_put_before_a_name_makes_it_no_siblings():
    """A name that must not begin with "_" gives way to one that has the letters before it by itself."""
    variables = [leaf.variable for leaf in nest(["_x", "var_x", "_y/a", "var_y/a", "<z>", "_z_"]).leaves]
    assert sorted(variables) == ["var_x", "var_x_1", "var_y/a", "var_y_1/a", "var_z_", "var_z__1"]


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\0b", "a/\ud800", "a."])
def test_invalid_names_are_refused(name):
    """Names that are empty, absolute, relative or no text."""
    with pytest.raises(DropError) as caught:
        nest([name])
    assert caught.value.code == "name-invalid"
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["a/.ATTRIBUTES/b", "a/b.ATTRIBUTES", "x.ATTRIBUTES/b", ".ATTRIBUTES/VARIABLE_VALUE"])
def test_parts_that_end_a_key_are_refused(name):
    """TensorFlow could not find the value: it takes the first `.ATTRIBUTES/` of a key for the end of the path."""
    with pytest.raises(DropError, match=r"ends with '\.ATTRIBUTES'") as caught:
        nest([name])
    assert caught.value.code == "name-invalid"
    assert nest(["a/.ATTRIBUTES_/b"]).leaves[0].path == ("a", ".ATTRIBUTES_", "b")


@pytest.mark.parametrize(
    "names", [["a", "a/b"], ["a/b/c", "a/b"], ["a", "a"], ["a.b", "a.b.c"], ["signatures/0"], ["__call__"], ["_self_x"]]
)
def test_clashing_names_are_refused(names):
    """A tensor that is also a parent, a name given twice, a name that the model needs itself."""
    with pytest.raises(DropError) as caught:
        nest(names)
    assert caught.value.code == "name-clash"


def test_names_of_the_root_are_free_below_it():
    """Only the root carries signatures and lists of variables."""
    nest([f"model/{name}" for name in ROOT_RESERVED])


def test_a_name_of_many_parts_does_not_recurse():
    """Ten thousand levels are no deeper than Python's stack."""
    name = "/".join(["a"] * 10_000)
    assert nest([name]).leaves[0].variable == name


PARTS = st.one_of(
    st.sampled_from(["0", "1", "2", "a", "b", "_x", "var_x", "a b", "a>", "a\\", "class", "ä", "variables"]),
    st.text(max_size=4),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), max_size=12))
def test_any_names_give_a_tree_or_an_error(names):
    """Every tree has each name once, in one order, with unique legal variables; everything else is refused by name."""
    try:
        tree = nest(names)
    except DropError as error:
        refused = error.code
    else:
        refused = None
    if refused:
        assert refused in {"name-invalid", "name-clash"}
        return
    assert sorted(leaf.name for leaf in tree.leaves) == sorted(names)
    variables = [leaf.variable for leaf in tree.leaves]
    assert len(set(variables)) == len(variables)
    # no variable lies beneath another: their ops have names beneath theirs
    assert not any(other.startswith(f"{variable}/") for variable in variables for other in variables)
    for variable in variables:
        assert re.fullmatch(TENSORFLOW_NAME, variable)
    assert tree == nest(reversed(names))


def test_joined_names_may_lie_beneath_a_tensor():
    """A tensor beneath another stands beside it under the rest of its name; a list with one is a dict; variables keep names."""
    tree = nest(["w", "w/Adam", "l/w", "l/w/m/n", "l/w/m", "0/a", "n/0", "n/0/x"], "/", joined=True)
    paths = {leaf.name: leaf.path for leaf in tree.leaves}
    assert paths["w/Adam"] == ("w/Adam",)
    assert paths["l/w/m/n"] == ("l", "w/m/n")
    assert paths["l/w/m"] == ("l", "w/m")
    assert all(leaf.variable == leaf.name for leaf in tree.leaves)
    assert tree.root.children["l"].kind is Kind.OBJECT
    assert tree.root.children["n"].kind is Kind.DICT
    with pytest.raises(DropError):
        nest(["w", "w/Adam"], "/")
