"""Checkpoints that TensorFlow writes: their names, their trees of objects, and the SavedModels made of them."""

import warnings

import numpy as np
import pytest

from smdaemon.savedmodel.verify import verify
from smdaemon.savedmodel.writer import write_saved_model
from smdaemon.sources.formats import open_source
from smdaemon.sources.select import select
from smdaemon.sources.tf_checkpoint import TfCheckpointFormat

tf = pytest.importorskip("tensorflow")


def exported(source_path, export_dir, **choice):
    """The SavedModel of a source's tensors, verified; also the names that were chosen."""
    separator = choice.pop("separator", None)
    with open_source(source_path) as source:
        tensors = select(source.tensors, **choice)
        contents = source.contents(tensors, separator=separator)
        write_saved_model(export_dir, contents, sync=False)
    verify(export_dir)
    return set(tensors)


def loaded(export_dir):
    """The model as TensorFlow 2 loads it, once TensorFlow 1's loader could too."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(export_dir))
    return tf.saved_model.load(str(export_dir))


class Net(tf.Module):
    """Objects of every kind: attributes, list, dict, a shared object, a table, a variable twice."""

    def __init__(self, seed):
        super().__init__()
        self.layers = [tf.Module(), tf.Module()]
        for item, layer in enumerate(self.layers):
            layer.kernel = tf.Variable(np.full((2, 3), seed + item, np.float32), name="kernel")
            layer.steps = tf.Variable(seed, dtype=tf.int64)
        self.by_name = {"a/b": tf.Variable([1.0 + seed]), "c.d": tf.Variable(2.0 + seed)}
        self.tied = self.layers[0].kernel
        self.twin = self.layers[1]
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(["x", "y"]), tf.constant([seed, seed + 1], tf.int64))


def test_variables_that_share_a_name_are_told_apart(tmp_path):
    """Also where the path of the first is the name that they share: TensorFlow 1 and 2 load both."""
    module = tf.Module()
    module.w = tf.Variable(1.0, name="w")
    module.sub = tf.Module()
    module.sub.w = tf.Variable(2.0, name="w")
    tf.train.Checkpoint(module).write(str(tmp_path / "ckpt"))
    assert exported(tmp_path / "ckpt.index", tmp_path / "model") == {"w", "sub/w"}
    root = loaded(tmp_path / "model")
    assert (root.w.numpy(), root.sub.w.numpy()) == (1.0, 2.0)


def test_objects_keep_their_tree_and_the_checkpoint_its_keys(tmp_path):
    """Lists, dicts and shared objects load as they were; the export is read back into the objects like the checkpoint."""
    prefix = tf.train.Checkpoint(net=Net(5)).save(str(tmp_path / "ckpt"))
    names = exported(tmp_path, tmp_path / "model")
    # of the paths to a shared object the checkpoint has the shortest
    assert {
        "net/tied",
        "net/twin/kernel",
        "net/by_name/a/b",
        "net/by_name/c.d",
        "save_counter",
        "net/table/table-keys",
    } <= names
    root = loaded(tmp_path / "model")
    assert root.net.layers[1].kernel.numpy().tolist() == [[6.0] * 3] * 2
    assert root.net.by_name["a/b"].numpy().tolist() == [6.0]
    assert root.net.by_name["c.d"].numpy() == 7.0
    assert root.net.tied is root.net.layers[0].kernel
    assert root.net.twin is root.net.layers[1]
    assert len(root.variables) == 7
    assert len(root.trainable_variables) == 4
    assert root.save_counter.numpy() == 1
    fresh = Net(50)
    status = tf.train.Checkpoint(net=fresh).read(str(tmp_path / "model/variables/variables"))
    status.assert_existing_objects_matched()
    assert fresh.layers[0].kernel.numpy()[0, 0] == 5.0
    assert fresh.table.lookup(tf.constant(["y"])).numpy().tolist() == [6]
    assert prefix.endswith("ckpt-1")


def test_chosen_objects_leave_a_tree_that_loads(tmp_path):
    """What is excluded is not in the export, and nothing points to it."""
    tf.train.Checkpoint(net=Net(5)).save(str(tmp_path / "ckpt"))
    exported(tmp_path, tmp_path / "model", exclude=["*steps", "save_counter", "*table-*"])
    root = loaded(tmp_path / "model")
    assert len(root.variables) == 4
    assert not hasattr(root.net.layers[0], "steps")
    exported(tmp_path, tmp_path / "renamed", include=["net/t*"], exclude=["*table*"], rename={"net/tied": "w"})
    root = loaded(tmp_path / "renamed")
    assert root.w.numpy()[0, 0] == 5.0
    assert root.net.twin.steps.numpy() == 5


def test_keras_models_and_their_optimizers_are_kept_whole(tmp_path):
    """Every variable of a Keras checkpoint is in the export; a model of the same build reads it back."""

    def build():
        model = tf.keras.Sequential([tf.keras.layers.Dense(4, input_shape=(3,)), tf.keras.layers.Dense(1)])
        return model, tf.keras.optimizers.Adam()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, optimizer = build()
        optimizer.build(model.trainable_variables)
        twin, twin_optimizer = build()
        twin_optimizer.build(twin.trainable_variables)
    optimizer.iterations.assign(77)
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "best"))
    names = exported(tmp_path / "best", tmp_path / "model")
    with open_source(tmp_path / "best") as source:
        assert source.metadata == {"step": "77"}
    root = loaded(tmp_path / "model")
    assert len(root.variables) == len(model.variables) + len(optimizer.variables)
    assert len(names) >= len(root.variables)
    tf.train.Checkpoint(model=twin, optimizer=twin_optimizer).read(
        str(tmp_path / "model/variables/variables")
    ).assert_existing_objects_matched()
    for ours, theirs in zip(twin.variables, model.variables, strict=True):
        assert np.array_equal(ours, theirs)


def test_slots_stay_slots(tmp_path):
    """A slot of TensorFlow 1's optimizers lies beneath its variable in the checkpoint; it is kept, and read back as a slot."""

    def build():
        module = tf.Module()
        module.w = tf.Variable([1.0, 2.0], name="w")
        optimizer = tf.compat.v1.train.MomentumOptimizer(0.5, 0.9)
        optimizer.minimize(lambda: tf.reduce_sum(module.w**2))
        return module, optimizer

    module, optimizer = build()
    tf.train.Checkpoint(m=module, o=optimizer).save(str(tmp_path / "ckpt"))
    names = exported(tmp_path / "ckpt-1", tmp_path / "model")
    assert "m/w/.OPTIMIZER_SLOT/o/momentum" in names
    root = loaded(tmp_path / "model")
    assert root.m.w.numpy().tolist() == [0.0, 0.0]
    assert sorted(tuple(variable.shape) for variable in root.variables) == [(), (2,), (2,)]
    twin, twin_optimizer = build()
    twin_optimizer.get_slot(twin.w, "momentum").assign([9.0, 9.0])
    tf.train.Checkpoint(m=twin, o=twin_optimizer).read(str(tmp_path / "model/variables/variables"))
    assert twin_optimizer.get_slot(twin.w, "momentum").numpy().tolist() == [2.0, 4.0]
    exported(tmp_path / "ckpt-1", tmp_path / "named", separator="/")
    assert getattr(loaded(tmp_path / "named").m, "w/.OPTIMIZER_SLOT/o/momentum").numpy().tolist() == [2.0, 4.0]


def trained(directory, **saving):
    """A checkpoint of a TensorFlow 1 session: variables with slots beneath them, one of them partitioned."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        with v1.variable_scope("layer", use_resource=saving.pop("resource", True)):
            w = v1.get_variable("w", initializer=tf.constant([1.0, 2.0]))
            v1.get_variable("part", [5, 2], partitioner=v1.fixed_size_partitioner(2), initializer=v1.ones_initializer())
        step = v1.train.get_or_create_global_step()
        train = v1.train.AdamOptimizer(0.1).minimize(tf.reduce_sum(w**2), global_step=step)
        session.run(v1.global_variables_initializer())
        session.run(train)
        value = session.run(w)
        return v1.train.Saver(**saving).save(session, str(directory / "model.ckpt"), global_step=step), value


@pytest.mark.parametrize("resource", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
def test_names_of_tensorflow_1_may_lie_beneath_each_other(tmp_path, resource, sharded):
    """A slot whose variable's name it extends stands beside it under its whole name, and no tensor is lost."""
    prefix, value = trained(tmp_path, resource=resource, sharded=sharded)
    assert prefix.endswith("model.ckpt-1")
    names = exported(tmp_path, tmp_path / "model")
    assert names == {
        "beta1_power",
        "beta2_power",
        "global_step",
        "layer/part",
        "layer/w",
        "layer/w/Adam",
        "layer/w/Adam_1",
    }
    root = loaded(tmp_path / "model")
    assert root.layer.w.numpy().tolist() == value.tolist()
    assert getattr(root.layer, "w/Adam").shape == (2,)
    assert root.layer.part.numpy().tolist() == [[1.0, 1.0]] * 5
    assert {variable.name for variable in root.variables} == {f"{name}:0" for name in names}


def test_a_saved_model_is_a_source_of_its_variables(tmp_path):
    """One of TensorFlow 2 keeps its tree, one of TensorFlow 1 its names."""
    net = Net(3)
    tf.saved_model.save(net, str(tmp_path / "v2"))
    with open_source(tmp_path / "v2") as source:
        assert source.format == "saved-model"
        assert "twin/kernel" in source.tensors
    exported(tmp_path / "v2", tmp_path / "again", exclude=["*table*"])
    root = loaded(tmp_path / "again")
    assert root.layers[1].kernel.numpy()[0, 0] == 4.0
    assert root.tied is root.layers[0].kernel
    exported(tmp_path / "again", tmp_path / "third")
    assert loaded(tmp_path / "third").layers[1].kernel.numpy()[0, 0] == 4.0


def test_the_state_of_an_iterator_stays_behind(tmp_path):
    """It is no value of a model, and of a type that only TensorFlow reads."""
    iterator = iter(tf.data.Dataset.range(10).shuffle(3))
    next(iterator)
    generator = tf.random.Generator.from_seed(1)
    tf.train.Checkpoint(it=iterator, w=tf.Variable(1.0), g=generator).save(str(tmp_path / "ckpt"))
    assert TfCheckpointFormat().is_complete(tmp_path / "ckpt-1.index")
    with open_source(tmp_path / "ckpt-1") as source:
        assert source.metadata == {"step": "1", "left_out": "it/ITERATOR_STATE"}
    assert exported(tmp_path / "ckpt-1", tmp_path / "model") == {"w", "g/_state_var", "save_counter"}
    assert loaded(tmp_path / "model").w.numpy() == 1.0


def test_variables_of_distributed_jobs_are_whole(tmp_path):
    """Shards of a variable are one tensor under its name, replicas one variable."""
    from tensorflow.python.distribute.sharded_variable import ShardedVariable

    module = tf.Module()
    module.big = ShardedVariable([tf.Variable([[1.0, 2.0]]), tf.Variable([[3.0, 4.0], [5.0, 6.0]])], name="big")
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        module.same = tf.Variable([7.0], name="same")
    tf.train.Checkpoint(m=module).save(str(tmp_path / "ckpt"))
    assert exported(tmp_path / "ckpt-1", tmp_path / "model") == {"m/big", "m/same", "save_counter"}
    root = loaded(tmp_path / "model")
    assert root.m.big.numpy().tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert root.m.same.numpy().tolist() == [7.0]
