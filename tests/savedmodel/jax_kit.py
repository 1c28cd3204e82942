"""What the tests of the JAX export share: small functions, and a model run by each of TensorFlow's loaders."""

import numpy as np
from builder_graphs import read_model

from smdaemon.savedmodel.tensor_info import dtype_name
from smdaemon.tensorbundle.dtypes import dtype_named

KEY = "serving_default"
W = np.arange(6, dtype=np.float32).reshape(3, 2) / 8
B = np.array([1, -2], np.float32)
PARAMS = {"w": W, "b": B}
X = np.array([[1, 2, 3], [-4, 5, 0.5]], np.float32)


def affine(params, x):
    """One dense layer."""
    return x @ params["w"] + params["b"]


def signature(path, key=KEY):
    """The SignatureDef as it is written."""
    return read_model(path).meta_graphs[0].signature_def[key]


def run_v2(tf, path, feeds, key=KEY):
    """What the v2 loader's signature gives."""
    found = tf.saved_model.load(str(path)).signatures[key](**{name: tf.constant(x) for name, x in feeds.items()})
    return {name: tensor.numpy() for name, tensor in found.items()}


def run_v1(tf, path, feeds, key=KEY):
    """What the v1 loader's session gives."""
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        found = v1.saved_model.load(session, ["serve"], str(path)).signature_def[key]
        fetches = {name: info.name for name, info in found.outputs.items()}
        return session.run(fetches, {found.inputs[name].name: x for name, x in feeds.items()})


def run_cpp(cpp_load, path, feeds, key=KEY):
    """What TensorFlow's C++ loader gives, the one of TensorFlow Serving."""
    found = signature(path, key)
    names = sorted(found.outputs)
    fetches = [(found.outputs[name].name, numpy_dtype(found.outputs[name])) for name in names]
    given = {found.inputs[name].name: (x, found.inputs[name].dtype) for name, x in feeds.items()}
    return dict(zip(names, cpp_load.run(cpp_load.load(path), given, fetches), strict=True))


def numpy_dtype(info):
    """The numpy dtype of a TensorInfo."""
    return dtype_named(dtype_name(info.dtype)).numpy


def run_everywhere(tf, cpp_load, path, feeds, key=KEY):
    """What the v2 loader gives, once the others have given the same bits."""
    found = run_v2(tf, path, feeds, key)
    for other in (run_v1(tf, path, feeds, key), run_cpp(cpp_load, path, feeds, key)):
        assert found.keys() == other.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, other[name])
    return found
