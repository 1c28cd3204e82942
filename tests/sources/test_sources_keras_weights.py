"""Keras weights: what Keras writes is what we read; what it would not write is refused."""

import random
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from sources_builders import Value, open_descriptors, read_all, value_of

from smdaemon.errors import ConfigError, DropError, SmdaemonError
from smdaemon.sources.formats import claiming, format_named, open_source
from smdaemon.sources.keras_weights import KerasWeightsFormat
from smdaemon.sources.step import step_of

h5py = pytest.importorskip("h5py")
FORMAT = format_named("keras-weights")


@pytest.fixture(scope="module")
def keras():
    """Keras, as it comes with TensorFlow."""
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def saved(keras, tmp_path_factory):
    """A trained model of several layers, one of them in bfloat16, and its file."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(2, dtype="bfloat16", name="last"),
        ]
    )
    model.compile("adam", "mse")
    model.fit(np.ones((8, 3), np.float32), np.ones((8, 2), np.float32), epochs=3, batch_size=8, verbose=0)
    path = tmp_path_factory.mktemp("keras") / "ranker.weights.h5"
    model.save_weights(path)
    return model, path


def write(path, **arrays):
    """A file with these arrays as Keras lays a layer out; bfloat16 as Keras notes it."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        for name, array in arrays.items():
            held = group.create_dataset(name, data=array)
            if array.dtype == ml_dtypes.bfloat16:
                held.attrs["dtype"] = "bfloat16"
    return path


def code_of(path):
    """The code that reading everything fails with."""
    with pytest.raises(DropError) as caught:
        read_all(path)
    return caught.value.code


def test_what_keras_trained_is_read(saved):
    """Every variable under Keras's path with Keras's value; the optimizer's too, and its steps as metadata."""
    model, path = saved
    values = read_all(path)
    layers = {"dense": 0, "batch_normalization": 1, "dense_1": 3}
    expected = {
        f"layers/{name}/vars/{number}": value_of(np.asarray(variable))
        for name, place in layers.items()
        for number, variable in enumerate(model.layers[place].variables)
    }
    expected |= {
        f"optimizer/vars/{number}": value_of(np.asarray(variable))
        for number, variable in enumerate(model.optimizer.variables)
    }
    assert values == expected
    assert values["layers/dense_1/vars/0"].dtype == "bfloat16"
    with open_source(path) as source:
        assert source.metadata == {"step": "3"}
        assert source.format == "keras-weights"
        assert source.files() == (path,)


def test_nested_models_are_read(keras, tmp_path):
    """The layers of a model in a model keep their path."""
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    outer = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dropout(0.5)])
    path = tmp_path / "x.weights.h5"
    outer.save_weights(path)
    kernel = read_all(path)["layers/sequential/layers/dense/vars/0"]
    assert kernel == value_of(np.asarray(inner.layers[0].kernel))


def test_tensorflow_loads_what_keras_wrote_and_we_published(keras, saved, tmp_path):
    """The values go the whole way: exported, loaded by TensorFlow, compared with Keras's own."""
    tf = pytest.importorskip("tensorflow")
    from smdaemon.savedmodel import write_weights

    model, path = saved
    with open_source(path) as source:
        write_weights(tmp_path / "model", source.tensors)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    kernel = loaded.layers.dense.vars[0]
    assert np.array_equal(kernel.numpy(), model.layers[0].kernel.numpy())


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16", "?"])
def test_every_dtype_in_either_order(tmp_path, dtype, order):
    """Bit by bit, scalars and empty arrays as well."""
    kind = np.dtype(dtype).newbyteorder(order)
    arrays = {"0": np.arange(6).reshape(2, 3).astype(kind), "1": np.array(1, kind), "2": np.zeros((0, 3), kind)}
    path = write(tmp_path / "x.weights.h5", **arrays)
    assert read_all(path) == {f"layers/dense/vars/{name}": value_of(array) for name, array in arrays.items()}


def test_bfloat16_is_told_by_its_attribute_alone(tmp_path):
    """Two opaque bytes are a number only where Keras says which."""
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    path = write(tmp_path / "x.weights.h5", a=values)
    assert read_all(path) == {"layers/dense/vars/a": Value("bfloat16", (2,), values.tobytes())}
    with h5py.File(path, "a") as file:
        del file["layers/dense/vars/a"].attrs["dtype"]
    assert code_of(path) == "dtype-unsupported"


@pytest.mark.parametrize("bounds", ["earliest", "v108", "latest"])
def test_every_superblock_is_read(tmp_path, bounds):
    """Files of later releases of HDF5 begin otherwise."""
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w", libver=bounds) as file:
        file["vars/0"] = np.arange(3)
    assert FORMAT.is_complete(path)
    assert set(read_all(path)) == {"vars/0"}


def test_a_file_that_is_being_written_is_not_complete(tmp_path):
    """From the first byte to the last: only a closed file is."""
    path = tmp_path / "x.weights.h5"
    path.touch()
    assert not FORMAT.is_complete(path)
    with h5py.File(path, "w") as file:
        assert not FORMAT.is_complete(path)
        for number in range(3):
            file[f"vars/{number}"] = np.ones(10_000)
            assert not FORMAT.is_complete(path)
            file.flush()
            assert not FORMAT.is_complete(path)
    assert FORMAT.is_complete(path)


def test_every_truncation_is_noticed(tmp_path):
    """A prefix of a file is never complete, and never read."""
    content = write(tmp_path / "x.weights.h5", a=np.arange(9.0)).read_bytes()
    path = tmp_path / "cut.weights.h5"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert not FORMAT.is_complete(path)
        assert code_of(path) == "source-truncated"
    path.write_bytes(content + b"x")
    assert not FORMAT.is_complete(path)
    assert code_of(path) == "source-corrupt"


def test_broken_files_are_refused_or_read(tmp_path):
    """Whatever byte of the structure is another one: an error of ours, or values; no descriptor is left open."""
    content = write(tmp_path / "x.weights.h5", a=np.arange(9.0), b=np.ones(3, np.int8)).read_bytes()
    path = tmp_path / "broken.weights.h5"
    before = open_descriptors()
    rng = random.Random(5)
    codes = set()
    for place in range(52, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :])
        try:
            read_all(path)
        except SmdaemonError as error:
            codes.add(error.code)
    assert "source-corrupt" in codes
    assert codes <= {"source-corrupt", "source-truncated", "source-empty", "dtype-unsupported", "name-invalid"}
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04" + bytes(60), b"\x89HDF\r\n\x1a\n\x09" + bytes(60), b"\x89HDF\r\n\x1a\n" + bytes(60)],
    ids=["no HDF5", "a version of the future", "short offsets"],
)
def test_a_strange_beginning_is_refused_at_once(tmp_path, content):
    """What can never become a sound file is not waited for."""
    path = tmp_path / "x.weights.h5"
    path.write_bytes(content)
    for act in (FORMAT.is_complete, FORMAT.open):
        with pytest.raises(DropError) as caught:
            act(path)
        assert caught.value.code == "source-corrupt"


def test_nothing_leads_out_of_the_file(tmp_path):
    """Links to other files, values that lie in them, and virtual ones are refused, whatever is there."""
    secret = write(tmp_path / "secret.h5", a=np.arange(3.0))
    (tmp_path / "raw").write_bytes(bytes(24))
    path = tmp_path / "x.weights.h5"

    def external_link(file):
        file["vars/0"] = h5py.ExternalLink(str(secret), "/layers/dense/vars/a")

    def external_value(file):
        file.create_dataset("vars/0", (3,), "f8", external=[(str(tmp_path / "raw"), 0, 24)])

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "layers/dense/vars/a", (3,))
        file.create_virtual_dataset("vars/0", layout)

    def soft_link(file):
        file["vars/1"] = np.ones(2)
        file["vars/0"] = h5py.SoftLink("/vars/1")

    def cycle(file):
        file["vars/inner"] = file.require_group("vars")

    for fill in (external_link, external_value, virtual, soft_link, cycle):
        with h5py.File(path, "w") as file:
            fill(file)
        assert code_of(path) == "source-corrupt", fill.__name__


def test_what_keras_does_not_write_is_refused(tmp_path):
    """Compressed, unwritten and typed otherwise: with a code each."""
    path = tmp_path / "x.weights.h5"
    odd = h5py.h5t.STD_I32LE.copy()
    odd.set_precision(20)

    def of_odd_numbers(file):
        h5py.h5d.create(file.id, b"x", odd, h5py.h5s.create_simple((2,)))

    for fill, code in (
        (lambda file: file.create_dataset("x", data=np.ones(10), compression="gzip"), "source-corrupt"),
        (lambda file: file.create_dataset("x", (3,), "f4"), "source-corrupt"),
        (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "source-corrupt"),
        (lambda file: file.__setitem__("x", np.dtype("f4")), "source-corrupt"),
        (lambda file: file.create_dataset("x", data="text"), "dtype-unsupported"),
        (lambda file: file.create_dataset("x", data=np.array([b"ab"])), "dtype-unsupported"),
        (of_odd_numbers, "dtype-unsupported"),
        (lambda file: file.create_group("a..b").create_dataset("x", data=np.ones(1)), "name-invalid"),
        (lambda file: file.create_group("layers"), "source-empty"),
    ):
        with h5py.File(path, "w") as file:
            fill(file)
        assert code_of(path) == code


def test_names_and_steps(tmp_path):
    """A drop by its ending; the step from its name before that of the optimizer."""
    path = write(tmp_path / "ckpt-41.weights.h5", a=np.ones(1))
    assert claiming(path).name == "keras-weights"
    assert step_of(path, {"step": "7"}) == 41
    assert step_of(Path("runs/ranker.weights.h5"), {"step": "7"}) == 7
    assert claiming(tmp_path / "model.h5") is None


def test_a_large_value_is_streamed(tmp_path):
    """In chunks, by position."""
    values = np.arange(3 << 18, dtype=np.float32)
    path = write(tmp_path / "x.weights.h5", a=values)
    with open_source(path) as source:
        parts = [len(part) for part in source.tensors["layers/dense/vars/a"].buffers()]
    assert max(parts) <= 1 << 20
    assert sum(parts) == values.nbytes


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    """Whether a file is complete is told without it; opening it needs it."""
    path = write(tmp_path / "x.weights.h5", a=np.ones(1))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert KerasWeightsFormat().is_complete(path)
    with pytest.raises(ConfigError, match="h5py") as caught:
        open_source(path)
    assert caught.value.code == "extra-missing"
    assert "smdaemon[keras]" in caught.value.remedy
