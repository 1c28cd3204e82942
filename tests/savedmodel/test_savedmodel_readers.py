"""What TensorFlow's own readers make of our exports."""

import subprocess
import sys

import numpy as np
import pytest
from savedmodel_values import VARIABLE_DTYPES, content, floats, tensors, values_of

from smdaemon.savedmodel import write_weights
from smdaemon.savedmodel.tree import ROOT_RESERVED

tf = pytest.importorskip("tensorflow")

NESTED = {
    "layers/0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers/0/bias": np.array([1, 2, 3], np.float32),
    "layers/1/kernel": np.zeros((3, 0), np.float32),
    "table/first word": np.array([b"a", b"bc"], dtype=object),
    "table/class": np.array(3, np.int64),
    "0": np.array([True, False]),
    "odd name!": np.array(2.5, np.float64),
    "_x": np.array(1, np.uint8),
}


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """An export with attributes, a list, a dict and a root with odd names."""
    export_dir = tmp_path_factory.mktemp("nested") / "model"
    write_weights(export_dir, tensors(NESTED), shards=2)
    return export_dir


@pytest.fixture(scope="module")
def every_dtype(tmp_path_factory):
    """Every dtype that a variable can have, as vector, scalar and empty matrix; the export and its arrays."""
    arrays = {f"{dtype}/{name}": array for dtype in VARIABLE_DTYPES for name, array in values_of(dtype).items()}
    export_dir = tmp_path_factory.mktemp("dtypes") / "model"
    write_weights(export_dir, tensors(arrays))
    return export_dir, arrays


def test_the_tree_comes_back_as_objects_lists_and_dicts(nested):
    """tf.saved_model.load gives the nesting of the names."""
    model = tf.saved_model.load(str(nested))
    assert len(model.layers) == 2
    assert content(model.layers[0].kernel) == content(NESTED["layers/0/kernel"])
    assert content(model.layers[0].bias) == content(NESTED["layers/0/bias"])
    assert model.layers[1].kernel.shape == (3, 0)
    assert set(model.table) == {"first word", "class"}
    assert content(model.table["first word"]) == content(NESTED["table/first word"])
    assert getattr(model, "0").numpy().tolist() == [True, False]
    assert getattr(model, "odd name!").numpy() == 2.5
    assert model._x.numpy() == 1


def test_variables_are_listed(nested):
    """`variables` holds all in order, `trainable_variables` those that have gradients; both are the tree's own objects."""
    model = tf.saved_model.load(str(nested))
    assert [variable.name for variable in model.variables] == [
        "0:0",
        "var_x:0",
        "layers/0/bias:0",
        "layers/0/kernel:0",
        "layers/1/kernel:0",
        "odd_name_:0",
        "table/class:0",
        "table/first_word:0",
    ]
    assert all(variable.dtype.is_floating for variable in model.trainable_variables)
    assert len(model.trainable_variables) == 4
    assert model.variables[3] is model.layers[0].kernel
    assert model.layers[0].kernel.trainable
    assert not model.variables[0].trainable


def test_there_is_an_empty_map_of_signatures(nested):
    """Who looks for a signature finds none, rather than no place to look."""
    assert dict(tf.saved_model.load(str(nested)).signatures) == {}


def test_every_dtype_comes_back(every_dtype):
    """Values, shapes and dtypes by tf.saved_model.load, for every dtype that TensorFlow has variables of."""
    export_dir, arrays = every_dtype
    loaded = {variable.name: variable.numpy() for variable in tf.saved_model.load(str(export_dir)).variables}
    assert {name: content(value) for name, value in loaded.items()} == {
        f"{name}:0": content(array) for name, array in arrays.items()
    }


def test_the_v1_loader_restores_every_dtype(every_dtype):
    """tf.compat.v1's loader lists the variables and restores them through the saver."""
    export_dir, arrays = every_dtype
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(export_dir))
        variables = tf.compat.v1.global_variables()
        values = session.run({variable.name: variable for variable in variables})
        assert all(variable.trainable for variable in tf.compat.v1.trainable_variables())
    assert {name: content(value) for name, value in values.items()} == {
        f"{name}:0": content(array) for name, array in arrays.items()
    }


def test_the_v1_saver_saves_what_it_restored(nested, tmp_path):
    """The saver of the graph writes a checkpoint with the same keys and values."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(nested))
        saver = tf.compat.v1.train.Saver(saver_def=meta_graph.saver_def)
        saver.save(session, str(tmp_path / "again"), write_meta_graph=False)
    again = tf.train.load_checkpoint(str(tmp_path / "again"))
    ours = tf.train.load_checkpoint(str(nested / "variables" / "variables"))
    keys = set(ours.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert set(again.get_variable_to_shape_map()) == keys
    assert all(content(again.get_tensor(key)) == content(ours.get_tensor(key)) for key in keys)


def test_a_tensor_called_save_does_not_meet_the_saver(tmp_path):
    """The saver moves to another scope."""
    write_weights(tmp_path / "model", floats(["save/Const", "save_1", "x"]))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "model"))
        assert session.run(tf.compat.v1.global_variables()) == [0, 1, 2]
    assert meta_graph.saver_def.restore_op_name == "save_2/restore_all"


ODD_NAMES = [
    "convs.0.<user___rates___movie>.weight",
    "emb.<pad>",
    r"a\b",
    "_x",
    "var_x",
    "c>",
    "->",
]


def test_every_loader_takes_odd_names(tmp_path, cpp_load):
    """What names may hold in Python's checks and not in C++'s is in no graph: TensorFlow 1 and Serving load it."""
    write_weights(tmp_path / "model", floats(ODD_NAMES))
    cpp_load.load(tmp_path / "model")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tmp_path / "model"))
        assert len(session.run(tf.compat.v1.global_variables())) == len(ODD_NAMES)


def test_the_cpp_loader_restores_every_dtype(every_dtype, cpp_load):
    """The loader of TensorFlow Serving restores; values are fetched from its session."""
    export_dir, arrays = every_dtype
    model = cpp_load.load(export_dir)
    names = [name for name, array in arrays.items() if array.dtype != object]
    fetches = [(f"{name}/Read/ReadVariableOp:0", arrays[name].dtype) for name in names]
    values = cpp_load.run(model, {}, fetches)
    assert {name: content(value) for name, value in zip(names, values, strict=True)} == {
        name: content(arrays[name]) for name in names
    }


def test_tensorflow_saves_again_what_it_loaded(nested, tmp_path):
    """tf.saved_model.save takes the loaded object, and the result has the same variables."""
    tf.saved_model.save(tf.saved_model.load(str(nested)), str(tmp_path / "again"))
    again = tf.saved_model.load(str(tmp_path / "again"))
    assert content(again.layers[0].kernel) == content(NESTED["layers/0/kernel"])
    assert content(again.table["first word"]) == content(NESTED["table/first word"])
    assert len(again.variables) == len(NESTED)


def test_a_checkpoint_restores_a_module_of_the_same_shape(nested):
    """tf.train.Checkpoint reads the bundle into a module that has the same names."""
    layer, module = tf.Module(), tf.Module()
    layer.kernel, layer.bias = tf.Variable(tf.ones([2, 3])), tf.Variable(tf.ones([3]))
    module.layers, module.table = [layer], {"class": tf.Variable(0, dtype=tf.int64)}
    status = tf.train.Checkpoint(module).read(str(nested / "variables" / "variables"))
    status.assert_existing_objects_matched()
    assert content(layer.kernel) == content(NESTED["layers/0/kernel"])
    assert module.table["class"].numpy() == 3


def test_names_that_a_loaded_object_uses_itself_are_kept_as_keys(tmp_path):
    """Below the root such names make a dict, whose keys are free."""
    names = ["_trackable_children", "__class__", "_update_uid", "keys", "items", "_self_x", *sorted(ROOT_RESERVED)]
    write_weights(tmp_path / "model", floats([f"m/{name}" for name in names]))
    model = tf.saved_model.load(str(tmp_path / "model"))
    assert {name: model.m[name].numpy() for name in names} == {name: number for number, name in enumerate(names)}
    tf.saved_model.save(model, str(tmp_path / "again"))


def test_tags_are_those_asked_for(tmp_path):
    """Both loaders find the meta graph by its tags."""
    write_weights(tmp_path / "model", floats(["x"]), tags=["serve", "gpu"])
    assert tf.saved_model.load(str(tmp_path / "model"), tags=["gpu", "serve"]).x.numpy() == 0


def test_saved_model_cli_shows_an_export(nested):
    """TensorFlow's own tool goes through the whole model."""
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--all", "--dir", str(nested)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert shown.returncode == 0, shown.stderr
    assert "tag-set: 'serve'" in shown.stdout
