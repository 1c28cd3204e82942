"""`experimental_io_device`, beside TensorFlow's own save."""

import pytest

from smdaemon.errors import DropError
from smdaemon.placement import validate_io_device

BOTH_ACCEPT = (
    "",
    "/job:localhost",
    "/job:localhost/replica:0/task:0/device:CPU:0",
    "cpu:0",
    "/CPU:0",
    "/device:CPU:*",
    "/task:0",
)
BOTH_REFUSE = ("localhost", "/device:CPU:x", "/job:localhost/device:CPU:0/device:GPU:0", "/cpu:0/gpu:0", "0")


def _tensorflow_accepts(folder, text):
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    module.v = tf.Variable([1.0])
    try:
        tf.saved_model.save(module, str(folder), options=tf.saved_model.SaveOptions(experimental_io_device=text))
        tf.saved_model.load(str(folder), options=tf.saved_model.LoadOptions(experimental_io_device=text))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", BOTH_ACCEPT)
def test_hosts_and_their_cpus_are_accepted(tmp_path, text):
    """As TensorFlow saves and loads with them."""
    validate_io_device(text)
    assert _tensorflow_accepts(tmp_path, text)


@pytest.mark.parametrize("text", BOTH_REFUSE)
def test_what_is_no_device_is_refused(tmp_path, text):
    """Where the option is read; TensorFlow says it in the middle of a save."""
    with pytest.raises(DropError) as caught:
        validate_io_device(text)
    assert caught.value.code == "device-invalid"
    assert not _tensorflow_accepts(tmp_path, text)


@pytest.mark.parametrize("text", ["/gpu:0", "/job:localhost/device:GPU:0", "/device:TPU:1"])
def test_accelerators_are_refused(text):
    """They touch no files: TensorFlow quietly takes a CPU instead where soft placement lets it."""
    with pytest.raises(DropError, match="cannot touch the file system") as caught:
        validate_io_device(text)
    assert caught.value.code == "device-invalid"
    assert "'/job:localhost', or its CPU" in caught.value.remedy


@pytest.mark.parametrize("text", ["/job:worker/task:7", "/job:chief/cpu:0"])
def test_hosts_of_a_cluster_are_accepted(text):
    """Which hosts there are is not known where nothing is run."""
    validate_io_device(text)
