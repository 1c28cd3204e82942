"""The SavedModels that are measured with. Each is made in a process of its own, so that nobody measured has anything imported."""

from pathlib import Path
from typing import Any

from benchmarks.inputs import generated

ROWS = 8
"""How many rows of a model's first dimension a call of it looks at."""
LARGE_CONSTANTS = 2000


def train(template: str, checkpoint: str, tensors: int, nbytes: int) -> str:
    """A module of `tensors` variables saved by TensorFlow as SavedModel `template` and, with other values, as `checkpoint`.

    Returns TensorFlow's release.
    """
    import tensorflow as tf  # type: ignore[import-untyped] # it ships no types

    module, signatures = _module(tensors, nbytes, functions=2)
    tf.saved_model.save(module, template, signatures=signatures)
    for variable in module.all:
        variable.assign_add(tf.ones_like(variable))
    tf.train.Checkpoint(module).write(checkpoint)
    release: str = tf.__version__
    return release


def serve(export_dir: str, tensors: int, nbytes: int, functions: int) -> int:
    """A module of `tensors` variables and `functions` signatures saved by TensorFlow; returns the bytes of its graph."""
    import tensorflow as tf

    module, signatures = _module(tensors, nbytes, functions)
    tf.saved_model.save(module, export_dir, signatures=signatures)
    return Path(export_dir, "saved_model.pb").stat().st_size


def weights(export_dir: str, tensors: int, nbytes: int) -> int:
    """The SavedModel of `tensors` variables as smdaemon writes it; returns the bytes of its graph."""
    from smdaemon.savedmodel.weights import write_weights
    from smdaemon.tensorbundle.tensors import ArrayTensor

    arrays = {name: ArrayTensor(array) for name, array in generated(tensors, nbytes)}
    write_weights(Path(export_dir), arrays, sync=False)
    return Path(export_dir, "saved_model.pb").stat().st_size


def large_graph(export_dir: str, tensors: int, nbytes: int, graph_bytes: int) -> int:
    """As `weights`, with `graph_bytes` of constants in the graph; returns the bytes of the graph."""
    from smdaemon.proto.tensorflow import DataType, SavedModel

    path = Path(export_dir, "saved_model.pb")
    weights(export_dir, tensors, nbytes)
    Path(export_dir, "fingerprint.pb").unlink()  # of another graph from here on
    model = SavedModel.FromString(path.read_bytes())
    each = graph_bytes // LARGE_CONSTANTS // 4
    for name, array in generated(LARGE_CONSTANTS, LARGE_CONSTANTS * each * 4):
        node = model.meta_graphs[0].graph_def.node.add(name=f"constants/{name}", op="Const")
        node.attr["dtype"].type = DataType.DT_FLOAT
        value = node.attr["value"].tensor
        value.dtype = DataType.DT_FLOAT
        value.tensor_shape.dim.add(size=array.size)
        value.tensor_content = array.tobytes()
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path.stat().st_size


def _module(tensors: int, nbytes: int, functions: int) -> tuple[Any, dict[str, Any]]:
    """A tf.Module with the variables as a list `all`, and its signatures, each of which reads its share of them."""
    import tensorflow as tf

    module = tf.Module()
    module.all = [tf.Variable(array, name=name.replace("/", "_")) for name, array in generated(tensors, nbytes)]
    spec = tf.TensorSpec([None], tf.float32, name="x")

    def made(share: list[Any]) -> Any:
        def call(x: Any) -> dict[str, Any]:
            """A few ops a variable, as a layer has."""
            for variable in share:
                x = tf.nn.relu(x * tf.reduce_mean(variable[:ROWS]) + 1.0)
            return {"y": x}

        return tf.function(call, input_signature=[spec])

    module.calls = [made(module.all[index::functions]) for index in range(functions)]
    return module, {f"call_{index}": call.get_concrete_function() for index, call in enumerate(module.calls)}
