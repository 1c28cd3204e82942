"""Makes SavedModels that name devices, with TensorFlow: `python placement_models.py FOLDER`.

A process of its own, as the number of logical devices is fixed when TensorFlow starts: the tests that read have one CPU.
"""

import sys
from pathlib import Path

import tensorflow as tf

tf1 = tf.compat.v1

POLICIES = {"none": None, "devices": "save_variable_devices", "expand": "expand_distributed_variables"}
X = tf.TensorSpec([2], tf.float32, name="x")


class Pinned(tf.Module):
    """`serving_default(x)` is 3 * (x + 1) * [1, 2]; its functions are pinned to a device of another job."""

    def __init__(self):
        super().__init__()
        self.v = tf.Variable([1.0, 2.0])
        rows = tf.lookup.KeyValueTensorInitializer(tf.constant(["a"]), tf.constant([3.0]))
        self.table = tf.lookup.StaticHashTable(rows, 0.0)

    @tf.function(input_signature=[X])
    def inner(self, x):
        """Called by the signature: a function of a function."""
        with tf.device("/job:worker/replica:0/task:0/device:GPU:1"):
            return (x + 1) * self.v

    @tf.function(input_signature=[X])
    def serve(self, x):
        """The signature."""
        factor = self.table.lookup(tf.constant("a"))
        with tf.device("/device:GPU:1"):
            y = self.inner(x)
            return {"y": tf.cond(tf.reduce_sum(x) > -1e9, lambda: factor * y, lambda: y)}


class Scaled(tf.Module):
    """`serving_default(x)` is x * [1, 2], of a variable on more than one device."""

    def __init__(self):
        super().__init__()
        self.v = tf.Variable([1.0, 2.0])

    @tf.function(input_signature=[X])
    def serve(self, x):
        """The signature."""
        return {"y": x * self.v}


def save(module, export_dir, policy=None):
    """As tf.saved_model.save, with a variable policy."""
    options = tf.saved_model.SaveOptions(experimental_variable_policy=policy)
    tf.saved_model.save(module, str(export_dir), signatures=module.serve, options=options)


def second_cpu_model(export_dir, *, clear_devices):
    """A model of TensorFlow 1: `s(x)` is 8 * x * [1, 2] + 1, all on CPU:1, with loop, branch, queue and a function."""
    with tf1.Graph().as_default(), tf1.device("/job:localhost/replica:0/task:0/device:CPU:1"):
        x = tf1.placeholder(tf.float32, [2], name="x")
        v = tf1.get_variable("v", initializer=[1.0, 2.0], use_resource=False)
        handle = tf1.get_variable("handle", initializer=[1.0, 1.0], use_resource=True)
        with tf1.colocate_with(v):
            y = x * v

        @tf.function
        def twice(z):
            with tf.device("/job:localhost/replica:0/task:0/device:CPU:1"):
                return z + z

        _, y = tf1.while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, z * 2), [0, y])
        y = tf1.cond(tf1.reduce_sum(y) > -1e9, lambda: y + 0, lambda: y - 1)
        tf1.train.input_producer(tf1.constant([1.0]))
        y = twice(y) + handle
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        with tf1.Session(config=tf1.ConfigProto(device_count={"CPU": 2})) as session:
            session.run(tf1.global_variables_initializer())
            builder = tf1.saved_model.Builder(str(export_dir))
            builder.add_meta_graph_and_variables(session, ["serve"], {"s": signature}, clear_devices=clear_devices)
            builder.save()


def main(folder):
    """Makes all models below `folder`."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    save(Pinned(), folder / "pinned")
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        mirrored = Scaled()
    with tf.device("CPU:1"):
        second = Scaled()
    for name, policy in POLICIES.items():
        save(mirrored, folder / f"mirrored_{name}", policy)
        save(second, folder / f"second_{name}", policy)
    tf1.disable_control_flow_v2()
    second_cpu_model(folder / "v1", clear_devices=False)
    second_cpu_model(folder / "v1_cleared", clear_devices=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
