"""Keras models and models of distributed jobs as templates; other readers of what comes out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from reexport_models import exported, run_cpp, run_v1, run_v2, save_affine, tensors_named  # noqa: E402 - TensorFlow is absent on some machines

from smdaemon.placement import SOFT, STRIP, device_places  # noqa: E402 - see above
from smdaemon.savedmodel import verify  # noqa: E402 - see above
from smdaemon.savedmodel.reader import read_saved_model  # noqa: E402 - see above

X = np.array([[1.0, -2.0, 3.0]], np.float32)


@pytest.fixture(scope="module")
def mirrored_jobs(tmp_path_factory):
    """The folder that mirrored_templates.py fills."""
    folder = tmp_path_factory.mktemp("mirrored")
    script = Path(__file__).with_name("mirrored_templates.py")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True, timeout=200)
    return folder


@pytest.fixture(scope="module")
def keras_model():
    """A functional model with trainable and other variables, and the arrays of a later moment of its training by path."""
    keras = pytest.importorskip("keras")
    inputs = keras.Input([3], name="x")
    hidden = keras.layers.BatchNormalization(name="norm")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="relu", name="out")(hidden))
    random = np.random.default_rng(7)
    return model, {variable.path: random.random(variable.shape, np.float32) for variable in model.variables}


@pytest.mark.parametrize("how", ["save", "export"])
def test_keras_models_compute_with_new_values(keras_model, tmp_path, how):
    """By the paths of Keras's variables. `export` stores each variable twice; both get the new value."""
    model, values = keras_model
    template = tmp_path / "template"
    if how == "save":
        tf.saved_model.save(model, str(template))
    else:
        model.export(str(template), verbose=False)
    before = [variable.numpy() for variable in model.variables]
    path = exported(tmp_path / "1", template, tensors_named(values), shards=2)
    for variable in model.variables:
        variable.assign(values[variable.path])
    expected = model(X).numpy()
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    assert np.abs(expected).max() > 0
    (name,) = tf.saved_model.load(str(path)).signatures["serving_default"].structured_input_signature[1]
    (given,) = run_v2(path, **{name: X}).values()
    assert np.allclose(given, expected, atol=1e-6)
    assert verify(path).fingerprint == "matches"
    if how == "export":
        copies = tf.saved_model.load(str(path))._all_variables
        by_name = {variable.name: variable.numpy() for variable in copies}
        assert all(np.array_equal(by_name[f"{path}:0"], values[path]) for path in values)
        (given,) = run_v1(path, **{name: X}).values()
        assert np.allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize("variable_policy", ["none", "save_variable_devices", "expand_distributed_variables"])
def test_a_mirrored_job_is_exported_for_one_device(mirrored_jobs, tmp_path, cpp_load, variable_policy):
    """What each replica holds, by the names it has there: one value comes out, and with devices stripped it runs anywhere."""
    kernel = np.array([[1.0], [2.0], [3.0]], np.float32)
    local = {
        "kernel:0": kernel,
        "kernel/replica_1:0": kernel,
        "mean:0": np.array([1.0], np.float32),
        "mean/replica_1:0": np.array([4.0], np.float32),
    }
    path = exported(tmp_path / "1", mirrored_jobs / variable_policy, tensors_named(local), policy=STRIP)
    expected = (X @ kernel + 2.5).tolist()
    assert run_v2(path, x=X)["y"].tolist() == expected
    if variable_policy != "expand_distributed_variables":  # whose saver leaves the mean's second replica uninitialised
        assert run_v1(path, x=X)["y"].tolist() == expected
        assert run_cpp(cpp_load, path, x=X)["y"].tolist() == expected
    assert not devices_of(path)


def devices_of(path):
    """Every device that the model names."""
    _, model = read_saved_model(path)
    return {device for _, device in device_places(model.meta_graphs[0]) if device}


def test_a_checkpoint_of_a_mirrored_job_has_single_node_names(mirrored_jobs, tmp_path):
    """What tf.train.Checkpoint writes under a strategy goes by a name map into a template of one device."""
    reader = tf.train.load_checkpoint(str(mirrored_jobs / "ckpt-1"))
    arrays = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    tensors = tensors_named({key: np.array(array) for key, array in arrays.items() if not isinstance(array, bytes)})
    path = exported(tmp_path / "1", mirrored_jobs / "plain", tensors, name_map={"model/*": "*"}, policy=STRIP)
    assert run_v2(path, x=X)["y"].tolist() == (X @ np.ones((3, 1))).tolist()


def test_sharded_variables_of_a_parameter_server_are_joined(tmp_path):
    """A ShardedVariable is one entry of the template; its parts are given as the servers hold them."""
    from tensorflow.python.distribute.sharded_variable import ShardedVariable

    class Rows(tf.Module):
        def __init__(self):
            super().__init__()
            self.table = ShardedVariable(
                [tf.Variable(tf.zeros([size, 2]), name=f"table/part_{part}") for part, size in enumerate((3, 2))]
            )

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="row")])
        def __call__(self, row):
            return {"y": tf.nn.embedding_lookup(self.table, row)}

    tf.saved_model.save(Rows(), str(tmp_path / "template"))
    whole = np.arange(10, dtype=np.float32).reshape(5, 2)
    parts = {"table/part_0": whole[:3], "table/part_1": whole[3:]}
    path = exported(tmp_path / "1", tmp_path / "template", tensors_named(parts), shards=2)
    row = np.array([4, 0], np.int32)
    (got,) = run_v2(path, row=row).values()
    assert np.array_equal(got, whole[row])


def test_devices_are_soft_where_that_is_asked_for(mirrored_jobs, tmp_path):
    """Job and task go, the type stays, in functions too."""
    new = tensors_named({"kernel": np.ones((3, 1), np.float32), "mean": [0.0]})
    path = exported(tmp_path / "1", mirrored_jobs / "none", new, policy=SOFT)
    devices = devices_of(path)
    assert "/device:CPU:1" in devices
    assert not [device for device in devices if "job" in device]


def test_default_attributes_can_be_stripped(tmp_path):
    """Attributes at their defaults go, and the model computes the same."""
    template = save_affine(tmp_path / "template")
    new = tensors_named({"layer/kernel": [[3.0, 4.0]], "layer/bias": [1.0, -1.0]})
    kept, stripped = (
        exported(tmp_path / str(strip), template, new, strip_default_attrs=strip) for strip in (False, True)
    )
    assert (stripped / "saved_model.pb").stat().st_size <= (kept / "saved_model.pb").stat().st_size
    assert run_v2(stripped, x=[[2.0]])["y"].tolist() == [[7.0, 7.0]]


@pytest.mark.filterwarnings("ignore:os.fork")  # importing OpenVINO may start a process, and JAX warns of that
def test_openvino_reads_and_runs_a_reexport(tmp_path):
    """OpenVINO's TensorFlow front end gives the numbers that TensorFlow gives."""
    openvino = pytest.importorskip("openvino")
    new = tensors_named({"layer/kernel": [[3.0, 4.0]], "layer/bias": [1.0, -1.0]})
    path = exported(tmp_path / "1", save_affine(tmp_path / "template"), new, shards=2)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU")
    x = np.array([[2.0], [-3.0]], np.float32)
    (got,) = compiled({0: x}).values()
    assert np.allclose(got, run_v2(path, x=x)["y"], atol=1e-5)
