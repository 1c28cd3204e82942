"""Makes SavedModels and a checkpoint of a MirroredStrategy on two logical CPUs: `mirrored_templates.py FOLDER`.

A process of its own, since TensorFlow takes its logical devices only before it has used any. The models compute
x @ kernel + mean; the mean is one that every replica writes on its own and that is averaged when it is read.
"""

import sys
from pathlib import Path

import tensorflow as tf


def mirrored_module():
    """The module, with a replica of each variable on each device."""
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        module = tf.Module()
        module.kernel = tf.Variable([[1.0], [1.0], [1.0]], name="kernel")
        module.mean = tf.Variable(
            [0.0],
            name="mean",
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )
    return module


def serving(module):
    """The function of a module with kernel and mean, half of it on the second device."""

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    def serve(x):
        with tf.device("/job:localhost/replica:0/task:0/device:CPU:1"):
            return {"y": x @ module.kernel + module.mean}

    module.serve = serve
    return serve


def main(folder: Path) -> None:
    """Writes FOLDER/{none,save_variable_devices,expand_distributed_variables}, FOLDER/plain and FOLDER/ckpt-1."""
    physical = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(physical, [tf.config.LogicalDeviceConfiguration()] * 2)
    for policy in (None, "save_variable_devices", "expand_distributed_variables"):
        module = mirrored_module()
        options = tf.saved_model.SaveOptions(experimental_variable_policy=policy)
        tf.saved_model.save(module, str(folder / (policy or "none")), serving(module), options)
    plain = tf.Module()
    plain.kernel, plain.mean = tf.Variable(tf.zeros([3, 1])), tf.Variable([0.0])
    tf.saved_model.save(plain, str(folder / "plain"), serving(plain))
    tf.train.Checkpoint(model=module).save(str(folder / "ckpt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
