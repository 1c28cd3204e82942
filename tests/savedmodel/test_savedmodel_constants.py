"""Names against those of the installed TensorFlow."""

import pytest

from smdaemon.savedmodel import constants
from smdaemon.savedmodel.restore_graph import GRAPH_PRODUCER
from smdaemon.savedmodel.tree import Kind, nest
from smdaemon.savedmodel.weights import TENSORFLOW_VERSION

tf = pytest.importorskip("tensorflow")


def test_constants_are_tensorflows():
    """Every public name of tf.saved_model and of its modules of constants is here, with the same value."""
    from tensorflow.python.saved_model import signature_constants, tag_constants
    from tensorflow.python.saved_model.pywrap_saved_model import constants as files

    for module in (tf.saved_model, tf.compat.v1.saved_model, files, tag_constants, signature_constants):
        theirs = {name: value for name, value in vars(module).items() if name.isupper() and not name.startswith("_")}
        assert theirs
        # what has no counterpart here: names of TensorFlow's own experiments
        ours = {name: getattr(constants, name) for name in theirs if hasattr(constants, name)}
        assert {name: theirs[name] for name in ours} == ours
        if module in {tf.saved_model, tf.compat.v1.saved_model}:
            assert set(theirs) == set(ours)


def test_versions_are_the_installed_release():
    """What exports claim is the release that the tests hold them to."""
    assert tf.version.VERSION.split(".")[:2] == TENSORFLOW_VERSION.split(".")[:2]
    assert tf.version.GRAPH_DEF_VERSION == GRAPH_PRODUCER


def test_properties_of_a_loaded_object_are_reserved():
    """No tensor becomes an attribute where TensorFlow's object has a property that cannot be set."""
    from tensorflow.python.trackable.autotrackable import AutoTrackable

    fixed = [
        name
        for name in dir(AutoTrackable)
        if isinstance(found := getattr(AutoTrackable, name), property) and found.fset is None
    ]
    assert fixed
    for name in fixed:
        branch = nest([f"m/{name}"]).root.children["m"]
        assert branch.kind is Kind.DICT, name
