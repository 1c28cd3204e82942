"""Fingerprints against TensorFlow's own."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from savedmodel_values import floats, tensors

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import FingerprintDef
from smdaemon.savedmodel import verify, write_weights
from smdaemon.savedmodel.canonical import canonical
from smdaemon.savedmodel.fingerprint import differences, fingerprint_of
from smdaemon.savedmodel.reader import read_fingerprint, read_index, read_saved_model

HASHES = [
    "saved_model_checksum",
    "graph_def_program_hash",
    "signature_def_hash",
    "saved_object_graph_hash",
    "checkpoint_hash",
]
FIXTURES = [
    "saved_model_half_plus_two_gpu/00000123",
    "saved_model_half_plus_two_tf2_cpu/00000123",
    "saved_model_half_plus_two_2_versions/00000123",
    "saved_model_half_plus_three/00000123",
    "saved_model_half_plus_two_mlmd/00000123",
]


def hashes(fingerprint):
    """The five hashes by name."""
    return {name: getattr(fingerprint, name) for name in HASHES}


def tensorflows(export_dir):
    """The fingerprint that TensorFlow computes of an export."""
    pytest.importorskip("tensorflow")
    from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

    return FingerprintDef.FromString(fingerprinting.CreateFingerprintDef(str(export_dir)))


def ours(export_dir):
    """The fingerprint that we compute of an export."""
    return fingerprint_of(read_saved_model(export_dir)[1], read_index(export_dir))


def test_fingerprint_of_our_export_is_tensorflows(tmp_path):
    """What the writer puts into fingerprint.pb, by its short cuts, is what TensorFlow computes and what we compute."""
    write_weights(tmp_path / "model", floats(["a/0/x", "a/1/x", "b c", "T", "Tin"]))
    written = read_fingerprint(tmp_path / "model")
    assert hashes(written) == hashes(tensorflows(tmp_path / "model"))
    assert written == ours(tmp_path / "model")
    assert written.version.producer == tensorflows(tmp_path / "model").version.producer


@pytest.mark.parametrize("fixture", FIXTURES)
def test_fingerprint_of_others_models_is_tensorflows(shared, fixture):
    """Models of TensorFlow 1 and 2, with functions, signatures, string constants and colocations."""
    export_dir = shared / "fixtures" / fixture
    assert hashes(ours(export_dir)) == hashes(tensorflows(export_dir))


def test_fingerprint_of_a_model_that_tensorflow_saves(tmp_path):
    """A function of many arguments: Python's order of its numbered attributes is not C++'s."""
    tf = pytest.importorskip("tensorflow")

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = [tf.Variable(tf.ones([2, 2])) for _ in range(3)]

        @tf.function(input_signature=[tf.TensorSpec([None, 2], name="x"), tf.TensorSpec([], name="y")])
        def call(self, x, y):
            return {"z": x @ self.weights[0] @ self.weights[1] + self.weights[2] * y, "y": y}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.call)
    stored = read_fingerprint(tmp_path / "model")
    assert hashes(ours(tmp_path / "model")) == hashes(stored) == hashes(tensorflows(tmp_path / "model"))
    assert differences(stored, *read_saved_model(tmp_path / "model"), read_index(tmp_path / "model")) == []


def test_uuid_follows_from_the_hashes(tmp_path):
    """The same content has the same id, other content another; it is a decimal number of 128 bits."""
    for name, named in {"one": floats("ab"), "same": floats("ab"), "other": floats("ba")}.items():
        write_weights(tmp_path / name, named)
    one, same, other = (read_fingerprint(tmp_path / name).uuid for name in ("one", "same", "other"))
    assert one == same != other
    assert 0 <= int(one) < 2**128


def test_differences_names_the_hash_that_is_off(tmp_path):
    """A fingerprint with a wrong hash is told by that hash."""
    write_weights(tmp_path / "model", floats(["x"]))
    content, model = read_saved_model(tmp_path / "model")
    for name in HASHES:
        stored = read_fingerprint(tmp_path / "model")
        setattr(stored, name, getattr(stored, name) ^ 1)
        assert differences(stored, content, model, read_index(tmp_path / "model")) == [name]


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3).map("/".join),
        st.sampled_from([np.zeros(2, np.float32), np.ones((0, 3), np.int64), np.array(b"s", dtype=object)]),
        min_size=1,
        max_size=8,
    )
)
def test_what_is_written_is_canonical(arrays):
    """Whatever the names, the writer's short cut through its own bytes and the long way through the messages agree."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_weights(Path(folder, "model"), tensors(arrays), sync=False)
        except DropError:
            return
        content, model = read_saved_model(Path(folder, "model"))
        assert content == canonical(model)
        assert read_fingerprint(Path(folder, "model")) == ours(Path(folder, "model"))
        assert verify(Path(folder, "model")).fingerprint == "matches"
