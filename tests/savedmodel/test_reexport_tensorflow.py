"""Real SavedModels re-exported with new values, loaded and run by TensorFlow's own readers."""

from functools import partial

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from reexport_models import (  # noqa: E402 - TensorFlow is absent on some machines
    exported,
    run_cli,
    run_cpp,
    run_v1,
    run_v2,
    save_affine,
    save_v1,
    tensors_named,
    tensors_of,
    v1,
)

from smdaemon.savedmodel import verify  # noqa: E402 - see above

X = np.array([[2.0]], np.float32)


@pytest.fixture(scope="module")
def affine(tmp_path_factory):
    """A tf.Module with a function, saved by TensorFlow 2."""
    return save_affine(tmp_path_factory.mktemp("affine") / "template", save_debug_info=True)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_module_runs_with_new_values_in_every_loader(affine, tmp_path, cpp_load, shards):
    """v2 loader, v1 loader, C++ loader: signature and function give the new numbers."""
    new = tensors_named({"layer/kernel": [[3.0, 4.0]], "layer/bias": [1.0, -1.0]})
    path = exported(tmp_path / "1", affine, new, shards=shards)
    expected = [[7.0, 7.0]]
    assert run_v2(path, x=X)["y"].tolist() == expected
    assert run_v1(path, x=X)["y"].tolist() == expected
    assert run_cpp(cpp_load, path, x=X)["y"].tolist() == expected
    assert tf.saved_model.load(str(path))(tf.constant(X))["y"].numpy().tolist() == expected
    assert verify(path).fingerprint == "matches"
    assert (path / "debug/saved_model_debug_info.pb").read_bytes() == (
        affine / "debug/saved_model_debug_info.pb"
    ).read_bytes()


def test_the_command_line_tool_runs_it(affine, tmp_path):
    """`saved_model_cli run` prints the new numbers."""
    new = tensors_named({"dense/kernel:0": [[3.0, 4.0]], "dense/bias:0": [1.0, -1.0]})
    assert "[[7. 7.]]" in run_cli(exported(tmp_path / "1", affine, new), "x=[[2.]]")


def test_kept_values_are_the_templates(affine, tmp_path):
    """With missing="keep" a variable without a tensor keeps its value; without debug info there is none."""
    new = tensors_named({"layer/bias": [1.0, 1.0]})
    path = exported(tmp_path / "1", affine, new, missing="keep", debug_info=False)
    assert run_v2(path, x=X)["y"].tolist() == [[3.0, 5.0]]
    assert not (path / "debug").exists()


def test_a_loaded_model_can_be_saved_by_tensorflow_again(affine, tmp_path):
    """What TensorFlow revives of a re-export it also saves."""
    new = tensors_named({"layer/kernel": [[3.0, 4.0]], "layer/bias": [0.0, 0.0]})
    model = tf.saved_model.load(str(exported(tmp_path / "1", affine, new)))
    tf.saved_model.save(model, str(tmp_path / "2"))
    assert run_v2(tmp_path / "2", x=X)["y"].tolist() == [[6.0, 8.0]]


def test_a_checkpoint_of_the_module_reads_from_the_new_bundle(affine, tmp_path):
    """`tf.train.Checkpoint.read` restores the module from variables/."""
    new = tensors_named({"layer.kernel": [[3.0, 4.0]], "layer.bias": [0.0, 5.0]})
    path = exported(tmp_path / "1", affine, new)
    module = tf.Module()
    module.layer = tf.Module()
    module.layer.bias = tf.Variable([9.0, 9.0])
    tf.train.Checkpoint(layer=module.layer).read(str(path / "variables/variables")).expect_partial()
    assert module.layer.bias.numpy().tolist() == [0.0, 5.0]


INPUT_SHAPES = {
    "saved_model_half_plus_two_2_versions/00000123": (1, 1),
    "saved_model_half_plus_two_2_versions/00000124": (1, 1),
    "saved_model_half_plus_two_mlmd/00000123": (1,),
    "saved_model_half_plus_three/00000123": (1, 1),
    "saved_model_half_plus_two_tf2_cpu/00000123": (1,),
}


@pytest.mark.parametrize("name", INPUT_SHAPES)
def test_the_models_of_tensorflow_serving_run_with_new_values(shared, tmp_path, cpp_load, name):
    """The function a * x + b of TensorFlow Serving's test data runs with new numbers; assets and assets.extra are kept."""
    template = shared / "fixtures" / name
    new = tensors_of(a=3.0, b=4.0, c=4.0)
    path = exported(tmp_path / "1", template, new, missing="keep")
    loaders = [run_v1, partial(run_cpp, cpp_load)]
    if "half_plus_three" not in name:  # tf.saved_model.load refuses the shapes of this old graph, the template's too
        loaders.append(run_v2)
    x = np.full(INPUT_SHAPES[name], 2.0, np.float32)
    for run in loaders:
        assert [value.reshape(-1).tolist() for value in run(path, x=x).values()] == [[10.0]]
    for folder in ("assets", "assets.extra"):
        files = sorted(file.relative_to(template) for file in (template / folder).rglob("*"))
        assert files == sorted(file.relative_to(path) for file in (path / folder).rglob("*"))
        assert all((template / file).read_bytes() == (path / file).read_bytes() for file in files)


def test_a_template_that_forgets_what_it_restored_is_refused(shared):
    """The main op of one of TensorFlow Serving's models initialises all variables: no loader would keep the new values."""
    from smdaemon.savedmodel.mismatch import Mismatch
    from smdaemon.savedmodel.reexport import reexport

    with pytest.raises(Mismatch, match="sets 'a' back to its initial value") as caught:
        reexport(shared / "fixtures/saved_model_half_plus_two_gpu/00000123", tensors_of(a=3.0, b=4.0), missing="keep")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("rows", [0, 1])
def test_partitioned_variables_take_whole_tensors_or_partitions(tmp_path, cpp_load, rows):
    """A template with slices; the new values come whole or as part_0, part_1, and every loader restores its slices."""

    def build():
        axis = rows
        weights = v1.get_variable(
            "w",
            [3, 2] if axis == 0 else [2, 3],
            partitioner=v1.fixed_size_partitioner(2, axis=axis),
            use_resource=True,
            initializer=v1.zeros_initializer(),
        )
        bias = v1.get_variable("b", [], initializer=v1.zeros_initializer())
        x = v1.placeholder(tf.float32, [None, weights.shape[0]])
        return {"x": x}, {"y": x @ tf.convert_to_tensor(weights) + bias}

    template = save_v1(tmp_path / "template", build)
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    weights = weights if rows == 0 else np.ascontiguousarray(weights.T)
    first, second = np.split(weights, [2], axis=rows)
    x = np.array([[1.0, 2.0, 3.0][: weights.shape[0]]], np.float32)
    for number, new in enumerate(
        (
            {"w": weights, "b": 1.0},
            {"w/part_0": first, "w/part_1": second, "b": 1.0},
            {"w/part_0:0": first, "w/part_1:0": second, "b:0": 1.0},
        )
    ):
        path = exported(tmp_path / str(number), template, tensors_named(new), shards=2)
        assert np.array_equal(run_v1(path, x=x)["y"], x @ weights + 1)
        assert np.array_equal(run_cpp(cpp_load, path, x=x)["y"], x @ weights + 1)
        assert verify(path).tensors == 2
    kept = exported(tmp_path / "kept", template, tensors_of(b=1.0), missing="keep")
    assert np.array_equal(run_v1(kept, x=x)["y"], np.ones((1, weights.shape[1])))


def test_a_table_and_its_asset_come_along(tmp_path):
    """A StaticHashTable from a file: the re-export has the asset and looks words up, the weights are new."""
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen\n")

    class Embedding(tf.Module):
        def __init__(self):
            super().__init__()
            initializer = tf.lookup.TextFileInitializer(
                str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            )
            self.table = tf.lookup.StaticHashTable(initializer, 0)
            self.rows = tf.Variable([0.0, 0.0], name="rows")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
        def __call__(self, word):
            return {"y": tf.gather(self.rows, self.table.lookup(word))}

    tf.saved_model.save(Embedding(), str(tmp_path / "template"))
    path = exported(tmp_path / "1", tmp_path / "template", tensors_of(rows=[5.0, 7.0]))
    words.unlink()
    for outputs in (run_v2(path, word=["green", "red"]), run_v1(path, word=["green", "red"])):
        assert next(iter(outputs.values())).tolist() == [7.0, 5.0]


@pytest.mark.parametrize("new_table", [False, True])
def test_a_mutable_table_keeps_its_content_or_takes_the_new(tmp_path, new_table):
    """The content of a MutableHashTable stays, unless tensors are given under its own keys; its size may change."""

    class Counter(tf.Module):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            self.table.insert(tf.constant(["a"]), tf.constant([1], tf.int64))
            self.scale = tf.Variable(1, dtype=tf.int64, name="scale")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
        def __call__(self, word):
            return {"y": self.scale * self.table.lookup(word)}

    tf.saved_model.save(Counter(), str(tmp_path / "template"))
    new = {"scale": np.array(10)}
    if new_table:
        new["table/.ATTRIBUTES/table-keys"] = np.array([b"b", b"c"], object)
        new["table/.ATTRIBUTES/table-values"] = np.array([2, 3])
    path = exported(tmp_path / "1", tmp_path / "template", tensors_named(new))
    outputs = run_v2(path, word=["a", "b", "c"])
    assert next(iter(outputs.values())).tolist() == ([-10, 20, 30] if new_table else [10, -10, -10])


def test_a_table_of_tensorflow_1_stays(tmp_path):
    """The saver restores a table's keys and values too: these entries are no variables, and nothing asks for them."""

    def build():
        table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, -1.0, name="counts", checkpoint=True)
        with tf.control_dependencies([table.insert(tf.constant([1], tf.int64), tf.constant([4.0]))]):
            scale = v1.get_variable("scale", [], initializer=v1.ones_initializer(), use_resource=True)
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, table.insert([1], [4.0]))
        x = v1.placeholder(tf.int64, [None])
        return {"x": x}, {"y": table.lookup(x) * scale}

    template = save_v1(tmp_path / "template", build)
    path = exported(tmp_path / "1", template, tensors_of(scale=10.0))
    assert run_v1(path, x=[1, 2])["y"].tolist() == [40.0, -10.0]
