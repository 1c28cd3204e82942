"""Models that TensorFlow makes for the tests of whole exports: a TF2 module, and a TF1 checkpoint with its graph."""

from pathlib import Path

import numpy as np


def linear_module(tf, path: Path, *, device: str = "/device:CPU:0") -> Path:
    """A SavedModel of y = x @ kernel + bias with a signature; its multiplication is pinned to `device`."""

    class Linear(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(np.zeros((2, 3), np.float32), name="kernel")
            self.bias = tf.Variable(np.zeros(3, np.float32), name="bias")

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
        def __call__(self, x):
            with tf.device(device):
                return {"y": x @ self.kernel + self.bias}

    module = Linear()
    options = tf.saved_model.SaveOptions(save_debug_info=True)
    tf.saved_model.save(module, str(path), signatures=module.__call__, options=options)
    return path


def tf1_checkpoint(tf, prefix: Path) -> Path:
    """A TF1 checkpoint with its .meta: y = x * w + b, w = 3 and b = 4."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        w = v1.get_variable("w", initializer=np.float32(3), use_resource=True)
        b = v1.get_variable("b", initializer=np.float32(4), use_resource=True)
        tf.add(x * w, b, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix), write_state=False)
    return prefix


KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.array([10, 20, 30], np.float32)


def values(path: Path) -> Path:
    """An npz with the values of a Linear, an optimizer's among them."""
    np.savez(path, **{"kernel": KERNEL, "bias": BIAS, "optimizer/step": np.int64(7)})
    return path
