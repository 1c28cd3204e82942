"""Tables whose content is in the drop: exported with a template, they hold what the drop says and not what the template did."""

import pytest

from smdaemon.export.pipeline import export
from smdaemon.export.plan import ExportPlan, ModePlan

tf = pytest.importorskip("tensorflow")


def tables_module(value):
    """A scale, and tables that give `value` for "a" or for 1, one of them under a name with "." and "/"."""

    class Tables(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(value, dtype=tf.int64)
            self.words = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            self.words.insert(["a"], tf.constant([value], tf.int64))
            self.dense = tf.lookup.experimental.DenseHashTable(tf.int64, tf.int64, -1, -5, -6)
            self.dense.insert(tf.constant([1], tf.int64), tf.constant([value], tf.int64))
            self.odd = {"v1.0/words": tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)}
            self.odd["v1.0/words"].insert(["a"], tf.constant([value], tf.int64))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
        def __call__(self, word):
            dense = self.dense.lookup(tf.constant([1], tf.int64))
            odd = self.odd["v1.0/words"].lookup(word)
            return {"scale": self.scale, "words": self.words.lookup(word), "dense": dense, "odd": odd}

    return Tables()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the SavedModels `old` and `new`, and the checkpoint `ckpt` of the new one."""
    folder = tmp_path_factory.mktemp("tables")
    for name, value in (("old", 1), ("new", 9)):
        module = tables_module(value)
        tf.saved_model.save(module, str(folder / name), module.__call__.get_concrete_function())
    tf.train.Checkpoint(module).write(str(folder / "ckpt"))
    tf.train.Checkpoint(model=module).write(str(folder / "job"))
    return folder


def run(path):
    """What the default signature gives for the word "a"."""
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](word=tf.constant(["a"]))
    return {name: value.numpy().reshape(-1).tolist() for name, value in outputs.items()}


@pytest.mark.parametrize(
    ("source", "options"), [("ckpt", {}), ("new", {}), ("job", {"name_map": {"model/*": "*"}, "unused": "error"})]
)
def test_the_content_of_tables_comes_with_the_weights(models, tmp_path, source, options):
    """A checkpoint or a SavedModel as the drop: all tables of the template take the drop's content."""
    drop = models / (source if source == "new" else f"{source}.index")
    export(ExportPlan(drop, template=models / "old", sync=False, **options), tmp_path / "out")
    assert run(tmp_path / "out") == {"scale": [9], "words": [9], "dense": [9], "odd": [9]}


def test_the_content_of_tables_comes_into_modes_too(models, tmp_path):
    """As above, where the template gives the graph of a mode."""
    plan = ExportPlan(models / "new", modes={"predict": ModePlan(models / "old")}, sync=False)
    export(plan, tmp_path / "out")
    assert run(tmp_path / "out") == {"scale": [9], "words": [9], "dense": [9], "odd": [9]}


def test_tables_stay_where_the_drop_leaves_them_out(models, tmp_path):
    """By the names that the drop has for them: the weights are new, the tables are the template's."""
    plan = ExportPlan(models / "ckpt.index", template=models / "old", exclude=("*/table-*",), sync=False)
    export(plan, tmp_path / "out")
    assert run(tmp_path / "out") == {"scale": [9], "words": [1], "dense": [1], "odd": [1]}
