"""Object graphs of checkpoints: names from keys, odd and hostile graphs; without TensorFlow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import SavedModel, TrackableObjectGraph
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.kept_objects import kept_contents
from smdaemon.savedmodel.verify import verify
from smdaemon.savedmodel.writer import write_saved_model
from smdaemon.sources.checkpoint_names import tensor_names
from smdaemon.sources.formats import open_source
from smdaemon.tensorbundle import ArrayTensor, write_bundle

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def graph(*nodes):
    """An object graph: for each node its children by name, or the key of its variable with its name."""
    made = TrackableObjectGraph()
    for node in nodes:
        added = made.nodes.add()
        if isinstance(node, dict):
            for name, number in node.items():
                added.children.add(node_id=number, local_name=name)
        else:
            key, full_name = node
            added.attributes.add(name="VARIABLE_VALUE", full_name=full_name, checkpoint_key=key)
    return made


def floats(*keys):
    """A value for each key."""
    return {key: ArrayTensor(np.float32(number)) for number, key in enumerate(keys)}


def saved(contents):
    """The one meta graph of a model."""
    (meta_graph,) = SavedModel.FromString(contents.model).meta_graphs
    return meta_graph


def test_names_are_paths_of_objects():
    """Escapes are undone, other values than a variable's have their kind at the end, and no two have one name."""
    keys = [
        OBJECT_GRAPH_KEY,
        f"a/b{VALUE}",
        f"a.Sb{VALUE}",
        f"c..d{VALUE}",
        f"w/.OPTIMIZER_SLOT/o/m{VALUE}",
        "t/.ATTRIBUTES/table-keys",
        ".ATTRIBUTES/py_state",
        "bare",
    ]
    names = tensor_names(keys, objects=True)
    assert list(names) == ["a/b", "a.Sb", "c.d", "w/.OPTIMIZER_SLOT/o/m", "t/table-keys", "py_state", "bare"]
    assert list(names.values()) == keys[1:]
    assert list(tensor_names(keys, objects=False)) == keys[1:]


def test_rings_and_reserved_names_are_no_trouble(tmp_path):
    """An edge back to the root stays; edges under names that the root has for itself go, their variables stay listed."""
    keys = [f"a/x{VALUE}", f"signatures{VALUE}", f"variables/0{VALUE}"]
    made = graph(
        {"a": 1, "signatures": 3, "variables": 4}, {"x": 2, "up": 0}, *((key, "v") for key in keys[:2]), {"0": 5}
    )
    made.nodes.add().attributes.add(name="VARIABLE_VALUE", full_name="odd name", checkpoint_key=keys[2])
    contents = kept_contents(made, floats(*keys))
    nodes = saved(contents).object_graph_def.nodes
    assert [child.local_name for child in nodes[0].children] == ["a", "variables", "trainable_variables", "signatures"]
    assert [child.node_id for child in nodes[nodes[0].children[1].node_id].children] == [2, 3, 5]
    assert [nodes[number].variable.name for number in (2, 3, 5)] == ["a/x", "signatures", "variables/0"]
    write_saved_model(tmp_path / "model", contents, sync=False)
    assert verify(tmp_path / "model").tensors == 3
    assert made == graph({"a": 1, "signatures": 3, "variables": 4}, {"x": 2, "up": 0}, *((key, "v") for key in keys[:2]), {"0": 5}, (keys[2], "odd name"))  # fmt: skip


def test_a_tensor_that_no_object_names_becomes_a_variable_of_the_root(tmp_path):
    """Nothing of a checkpoint is lost."""
    keys = [f"a{VALUE}", f"lost/b{VALUE}"]
    contents = kept_contents(graph({"a": 1}, (keys[0], "a")), floats(*keys))
    write_saved_model(tmp_path / "model", contents, sync=False)
    verify(tmp_path / "model")
    assert {node.variable.name for node in saved(contents).object_graph_def.nodes if node.HasField("variable")} == {
        "a",
        "lost/b",
    }


def test_kinds_of_objects_are_told_by_their_childrens_names():
    """0 to n-1 make a list, names that are no attributes a dict, all else an object."""
    key = f"x{VALUE}"
    made = graph(
        {"l": 1, "d": 2, "o": 3, "k": 4}, {"0": 5, "1": 5}, {"a/b": 5, "c": 5}, {"c": 5}, {"layer-0": 5}, (key, "x")
    )
    nodes = saved(kept_contents(made, floats(key))).object_graph_def.nodes
    assert [nodes[number].user_object.identifier for number in range(5)] == [
        "_generic_user_object",
        "trackable_list_wrapper",
        "trackable_dict_wrapper",
        "_generic_user_object",
        "_generic_user_object",
    ]


@pytest.mark.parametrize(
    "made",
    [TrackableObjectGraph(), graph({"a": 7}, (f"a{VALUE}", "a")), graph({"a": -1}, (f"a{VALUE}", "a"))],
    ids=["no nodes", "beyond", "before"],
)
def test_a_graph_that_contradicts_itself_is_refused(made):
    """Edges that lead nowhere."""
    with pytest.raises(DropError) as caught:
        kept_contents(made, floats(f"a{VALUE}"))
    assert caught.value.code == "source-corrupt"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_spoiled_object_graph_is_refused_or_exported(tmp_path_factory, data):
    """Bytes flipped: a DropError, or an export that is sound; never another exception."""
    keys = [f"a/x{VALUE}", f"a/0{VALUE}", "t/.ATTRIBUTES/table-keys"]
    made = graph({"a": 1, "t": 4}, {"x": 2, "0": 3}, (keys[0], "x"), (keys[1], "y"), {})
    made.nodes[4].attributes.add(name="table", checkpoint_key="t/.ATTRIBUTES/table")
    made.nodes[1].slot_variables.add(original_variable_node_id=2, slot_name="m", slot_variable_node_id=3)
    content = bytearray(made.SerializeToString(deterministic=True))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[position] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("spoiled")
    strings = np.array(bytes(content), dtype=object)
    write_bundle(directory / "ckpt-1", {**floats(*keys), OBJECT_GRAPH_KEY: ArrayTensor(strings)}, sync=False)
    code = None
    try:
        with open_source(directory / "ckpt-1") as source:
            write_saved_model(directory / "model", source.contents(source.tensors), sync=False)
        verify(directory / "model")
    except DropError as error:
        code = error.code
    assert code in {None, "source-corrupt", "source-empty", "savedmodel-corrupt", "dtype-unsupported", "name-invalid"}
