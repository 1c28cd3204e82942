"""How the names of tensors are matched with the variables of a template; no TensorFlow is needed."""

import pytest

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import TrackableObjectGraph
from smdaemon.savedmodel.name_map import VALUE_SUFFIX, NameMap, Names, match

KERNEL = f"layer/0/kernel{VALUE_SUFFIX}"
BIAS = f"layer/0/bias{VALUE_SUFFIX}"
ODD = f"words/a..b.Sc{VALUE_SUFFIX}"
KEYS = [KERNEL, BIAS, ODD, "_CHECKPOINTABLE_OBJECT_GRAPH", f"save_counter{VALUE_SUFFIX}"]


def objects():
    """The object graph of KEYS; the kernel can be reached as `first.kernel` too."""
    graph = TrackableObjectGraph()
    edges = [
        [(1, "layer"), (2, "first"), (5, "words")],
        [(2, "0")],
        [(3, "kernel"), (4, "bias")],
        [],
        [],
        [(6, "a.b/c")],
        [],
    ]
    for children in edges:
        node = graph.nodes.add()
        for number, name in children:
            node.children.add(node_id=number, local_name=name)
    for number, key, full_name in ((3, KERNEL, "dense/w"), (4, BIAS, "Variable"), (6, ODD, "Variable")):
        graph.nodes[number].attributes.add(name="VARIABLE_VALUE", full_name=full_name, checkpoint_key=key)
    return graph


def matched(*given, keys=KEYS, graph=None, renames=None):
    """What the tensors called `given` match in the template."""
    return match(Names(keys, objects() if graph is None else graph), given, NameMap(renames))


@pytest.mark.parametrize(
    "name",
    [
        KERNEL,
        "layer/0/kernel",
        "dense/w",
        "dense/w:0",
        "layer.0.kernel",
        "first/kernel",
        "first.kernel",
        f"first/kernel{VALUE_SUFFIX}",
        "layer/0/kernel/replica_1",
        "layer/0/kernel/replica_1:0",
    ],
)
def test_a_variable_goes_by_many_names(name):
    """Key, bare key, full name, every path through the objects, and names of a distributed job lead to one variable."""
    found = matched(name)
    assert found.values == {KERNEL: ((name,),)}
    assert not found.unused + found.problems


@pytest.mark.parametrize("name", ["words/a..b.Sc", "words/a..b.Sc:0", ODD, "words/a.b/c"])
def test_escaped_names_are_understood(name):
    """A part of a path that holds '.' and '/' is escaped as in a key, or not, as checkpoints are read."""
    assert matched(name).values == {ODD: ((name,),)}


@pytest.mark.parametrize("name", ["a/b/table-keys", "a.Sb/table-keys", "a.Sb/.ATTRIBUTES/table-keys", "a.b.table-keys"])
def test_the_content_of_a_table_goes_by_its_path(name):
    """The table a/b with what it is of the table at the end; escaped or not, or the key itself."""
    key = "a.Sb/.ATTRIBUTES/table-keys"
    assert matched(name, keys=[*KEYS, key]).values == {key: ((name,),)}


def test_a_variable_goes_before_another_whose_name_was_escaped():
    """a/b is the variable b of a; the variable called "a/b" has its escaped name beside it."""
    keys = [f"a/b{VALUE_SUFFIX}", f"a.Sb{VALUE_SUFFIX}"]
    assert matched("a/b", "a.Sb", keys=keys).values == {keys[0]: (("a/b",),), keys[1]: (("a.Sb",),)}


def test_dots_stand_for_slashes_without_an_object_graph():
    """TensorFlow 1's bundle has no object graph; layer.0.kernel still names layer/0/kernel."""
    found = match(Names(["layer/0/kernel"], None), ["layer.0.kernel"], NameMap())
    assert found.values == {"layer/0/kernel": (("layer.0.kernel",),)}


def test_a_name_that_many_variables_share_is_a_problem():
    """Nobody guesses which of the unnamed variables is meant."""
    found = matched("Variable")
    assert not found.values
    assert found.problems == [f"'Variable' is the name of 2 variables: {BIAS!r}, {ODD!r}"]


def test_the_closest_name_wins():
    """A tensor under the key itself goes before one under a looser name, which is then unused."""
    found = matched("dense/w", KERNEL, "layer.0.kernel")
    assert found.values == {KERNEL: ((KERNEL,),)}
    assert sorted(found.unused) == ["dense/w", "layer.0.kernel"]


def test_two_equally_close_names_are_a_problem():
    """Two paths to one variable, each with a tensor: neither is preferred."""
    found = matched("layer.0.kernel", "first.kernel")
    assert found.problems == [f"'first.kernel' and 'layer.0.kernel' are both the value of {KERNEL!r}"]


def test_replicas_belong_to_their_variable():
    """They are listed with it, the first replica first, and are not unused."""
    found = matched("dense/w/replica_2", "dense/w", "dense/w/replica_1")
    assert found.values == {KERNEL: (("dense/w", "dense/w/replica_1", "dense/w/replica_2"),)}
    assert not found.unused + found.problems


def test_partitions_are_joined_in_the_order_of_their_numbers():
    """part_10 follows part_9; replicas of a partition lie beside it."""
    names = [f"dense/w/part_{number}" for number in range(11)]
    found = matched(*reversed(names), "dense/w/part_3/replica_1")
    (parts,) = found.values.values()
    assert [part[0] for part in parts] == names
    assert parts[3] == ("dense/w/part_3", "dense/w/part_3/replica_1")


def test_a_lacking_partition_is_a_problem():
    """Partitions 0 and 2 without 1 make no variable."""
    found = matched("dense/w/part_0", "dense/w/part_2")
    assert found.problems == [f"{KERNEL!r} has partition 2 but no partition 1"]


def test_numbers_at_the_end_of_names_are_no_replicas():
    """kernel_1 is another variable than kernel."""
    assert matched("layer/0/kernel_1").unused == ["layer/0/kernel_1"]


def test_the_training_jobs_own_entries_are_passed_over():
    """A checkpoint's object graph, its save counter and Keras's descriptions of objects are neither used nor missed."""
    own = ["_CHECKPOINTABLE_OBJECT_GRAPH", f"save_counter{VALUE_SUFFIX}", "layer/.ATTRIBUTES/OBJECT_CONFIG_JSON"]
    found = matched(*own, keys=KEYS[:3])
    assert not found.values
    assert not found.unused + found.problems


@pytest.mark.parametrize(
    ("renames", "name", "expected"),
    [
        ({"model/*": "*"}, "model/a/b", "a/b"),
        ({"model/*": "*"}, "other/a", "other/a"),
        ({"*": "net/*"}, "a", "net/a"),
        ({"*/weights": "*/kernel"}, "a/weights", "a/kernel"),
        ({"a*a": "*"}, "a", "a"),
        ({"model/*": "x/*", "model/a/*": "y/*", "model/a/b": "z"}, "model/a/b", "z"),
        ({"model/*": "x/*", "model/a/*": "y/*"}, "model/a/c", "y/c"),
        ({"model/*": "x/*", "*": "y/*"}, "model/a", "x/a"),
    ],
)
def test_a_name_map_renames(renames, name, expected):
    """By exact name, else by the pattern with the most letters; each `*` stands for the same text on both sides."""
    assert NameMap(renames)(name) == expected


@pytest.mark.parametrize("renames", [{"a/*/*": "*"}, {"a/*": "b"}, {"a": "*"}, {"a/*": "*/*"}])
def test_a_bad_pattern_is_refused(renames):
    """One `*` on both sides, or none."""
    with pytest.raises(DropError) as caught:
        NameMap(renames)
    assert caught.value.code == "request-invalid"


def test_a_name_map_is_looked_up_like_any_name():
    """The new name may be a key, a full name or a path."""
    found = matched("model/w", "model/b", renames={"model/w": "dense/w", "model/b": "layer.0.bias"})
    assert found.values == {KERNEL: (("model/w",),), BIAS: (("model/b",),)}


def test_exact_names_of_a_map_must_exist():
    """A misspelt name in the map is told, on either side, even where unused tensors are ignored."""
    found = matched("a", renames={"a": "nothing", "b": "dense/w"})
    assert found.problems == [
        "the name map calls 'a' 'nothing', which the template does not have",
        "the name map names 'b', which is not among the tensors",
    ]


def test_long_hostile_names_are_looked_up_without_recursion():
    """Endless suffixes are one more unknown name."""
    name = "w" + "/replica_1" * 100_000 + ":0" * 100_000
    assert matched(name).unused == [name]
