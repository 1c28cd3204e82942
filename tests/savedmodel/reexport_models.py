"""SavedModels that TensorFlow itself wrote, small ones of every kind, and its loaders to run them again."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from smdaemon.savedmodel.reexport import reexport
from smdaemon.savedmodel.writer import write_saved_model
from smdaemon.tensorbundle import ArrayTensor, Tensor

v1 = tf.compat.v1


def tensors_of(**arrays: object) -> dict[str, Tensor]:
    """The arrays as tensors; python floats become float32."""
    return tensors_named(arrays)


def tensors_named(arrays: dict[str, object]) -> dict[str, Tensor]:
    """As `tensors_of`, for names that are no identifiers."""
    return {
        name: ArrayTensor(array if isinstance(array, np.ndarray) else np.array(array, np.float32))
        for name, array in arrays.items()
    }


def exported(target: Path, template: Path, tensors: dict[str, Tensor], *, shards: int = 1, **options: object) -> Path:
    """`template` re-exported with `tensors` into `target`."""
    write_saved_model(target, reexport(template, tensors, **options), shards=shards, sync=False)
    return target


class Affine(tf.Module):
    """layer.kernel * x + layer.bias."""

    def __init__(self):
        super().__init__()
        self.layer = tf.Module()
        self.layer.kernel = tf.Variable([[1.0, 2.0]], name="dense/kernel")
        self.layer.bias = tf.Variable([0.0, 0.0], name="dense/bias")

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
    def __call__(self, x):
        """The signature."""
        return {"y": x @ self.layer.kernel + self.layer.bias}


def save_affine(path: Path, **options: object) -> Path:
    """An Affine as TensorFlow 2 saves it, with one signature."""
    module = Affine()
    tf.saved_model.save(
        module, str(path), module.__call__.get_concrete_function(), tf.saved_model.SaveOptions(**options)
    )
    return path


def save_v1(path: Path, build: object) -> Path:
    """What `build()` makes in a graph, a pair of inputs and outputs, as TensorFlow 1 saves it."""
    with tf.Graph().as_default(), v1.Session() as session:
        inputs, outputs = build()
        session.run(v1.global_variables_initializer())
        session.run(v1.tables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": v1.saved_model.predict_signature_def(inputs, outputs)},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    return path


def run_v2(path: Path, **inputs: object) -> dict[str, np.ndarray]:
    """The outputs of the default signature by tf.saved_model.load."""
    model = tf.saved_model.load(str(path))
    feeds = {name: tf.constant(value) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in model.signatures["serving_default"](**feeds).items()}


def run_v1(path: Path, tags: tuple[str, ...] = ("serve",), **inputs: object) -> dict[str, np.ndarray]:
    """The same by TensorFlow 1's loader."""
    with tf.Graph().as_default(), v1.Session() as session:
        meta_graph = v1.saved_model.load(session, list(tags), str(path))
        signature = meta_graph.signature_def["serving_default"]
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in signature.outputs.items()}, feeds)


def run_cpp(
    cpp_load: object, path: Path, tags: tuple[str, ...] = ("serve",), **inputs: object
) -> dict[str, np.ndarray]:
    """The same by the C++ loader; inputs and outputs are float32."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    meta_graph = next(graph for graph in model.meta_graphs if set(graph.meta_info_def.tags) == set(tags))
    signature = meta_graph.signature_def["serving_default"]
    feeds = {signature.inputs[name].name: (np.asarray(value, np.float32), 1) for name, value in inputs.items()}
    names = list(signature.outputs)
    fetches = [(signature.outputs[name].name, np.float32) for name in names]
    return dict(zip(names, cpp_load.run(cpp_load.load(path, tags), feeds, fetches), strict=True))


def run_cli(path: Path, inputs: str) -> str:
    """What `saved_model_cli run` prints for the default signature."""
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run", "--dir", str(path)]
    command += ["--tag_set", "serve", "--signature_def", "serving_default", "--input_exprs", inputs]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
