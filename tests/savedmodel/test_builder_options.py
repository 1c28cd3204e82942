"""Every field of SaveOptions does what its name says, or is refused with the reason."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from builder_functions import KERNEL, affine_function, asserting, unary
from builder_graphs import read_model

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import GraphDebugInfo, RegisteredGradient
from smdaemon.savedmodel import verify
from smdaemon.savedmodel.debug_info import Frame
from smdaemon.savedmodel.options import SaveOptions, VariablePolicy
from smdaemon.savedmodel.saving import save
from smdaemon.savedmodel.sharding import MaxShardSizePolicy, Piece, ShardByTaskPolicy
from smdaemon.savedmodel.trackable import Variable
from smdaemon.tensorbundle.reader import BundleReader


@pytest.fixture
def tf():
    """TensorFlow."""
    return pytest.importorskip("tensorflow")


def saved(tmp_path, model=None, signatures=None, **options):
    """The meta graph of a model that is saved with these options."""
    model = SimpleNamespace(kernel=KERNEL, f=affine_function()) if model is None else model
    save(model, tmp_path / "model", signatures, SaveOptions(**options))
    verify(tmp_path / "model")
    return read_model(tmp_path / "model").meta_graphs[0]


def refused(tmp_path, code="option-refused", model=None, **options):
    """The message of the refusal; nothing was written."""
    with pytest.raises(DropError) as caught:
        saved(tmp_path, model, **options)
    assert caught.value.code == code
    assert not (tmp_path / "model").exists()
    return caught.value.message


def test_the_fields_are_tensorflows(tf):
    """Their names in TensorFlow's order, and its defaults."""
    theirs = tf.saved_model.SaveOptions()
    assert [field.name for field in dataclasses.fields(SaveOptions)] == list(theirs.__slots__)
    ours = SaveOptions()
    for name in theirs.__slots__:
        if name != "experimental_variable_policy":
            assert (getattr(ours, name) or None) == (getattr(theirs, name) or None)
    names = [policy.value for policy in type(theirs.experimental_variable_policy)]
    assert [policy.value for policy in VariablePolicy] == names


def test_namespace_whitelist(tmp_path):
    """Ops of other namespaces are named; None allows all of them, an empty list none."""
    model = SimpleNamespace(f=unary("Addons>Neg"))
    assert "Addons>Neg" in refused(tmp_path, model=model, namespace_whitelist=[])
    assert "Addons>Neg" in refused(tmp_path, model=model, namespace_whitelist=["Other"])
    assert "not a list" in refused(tmp_path, model=model, namespace_whitelist="Addons")
    saved(tmp_path, model, namespace_whitelist=["Addons"])
    save(model, tmp_path / "any")


def test_save_debug_info(tmp_path, tf):
    """The stacks of the functions' nodes are written and TensorFlow loads the model; without any the option is refused."""
    assert "where its nodes" in refused(tmp_path, save_debug_info=True)
    stack = [Frame("train.py", 30, "main", "build()"), Frame("model.py", 7, "build", "x @ kernel")]
    function = affine_function(traces={"product": stack, "gone": stack})
    saved(tmp_path, SimpleNamespace(kernel=KERNEL, f=function), save_debug_info=True)
    content = (tmp_path / "model/debug/saved_model_debug_info.pb").read_bytes()
    info = GraphDebugInfo.FromString(content)
    assert list(info.name_to_trace_id) == ["product@affine_body"]
    assert sorted(info.files) == ["model.py", "train.py"]
    frames = [
        info.frames_by_id[number] for number in info.traces_by_id[info.name_to_trace_id["product@affine_body"]].frame_id
    ]
    assert [(info.files[frame.file_index], frame.line) for frame in frames] == [("train.py", 30), ("model.py", 7)]
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.f is not None


def test_function_aliases(tmp_path, tf):
    """All functions that come of one get the alias; TensorFlow finds them by it."""
    function = affine_function()
    model = SimpleNamespace(kernel=KERNEL, f=function)
    meta_graph = saved(tmp_path, model, function, function_aliases={"twice": function})
    aliases = meta_graph.meta_info_def.function_aliases
    assert set(aliases.values()) == {"twice"}
    assert aliases.keys() == meta_graph.object_graph_def.concrete_functions.keys()
    assert len(aliases) == 2
    loaded = tf.saved_model.load(
        str(tmp_path / "model"), options=tf.saved_model.LoadOptions(experimental_load_function_aliases=True)
    )
    assert "twice" in loaded.function_aliases


def test_function_aliases_are_of_functions_that_are_saved(tmp_path):
    """Others, and what is no function, are refused."""
    assert "not saved" in refused(tmp_path, function_aliases={"a": unary()})
    assert "no GraphFunction" in refused(tmp_path, function_aliases={"a": abs})


def test_experimental_debug_stripper(tmp_path, tf):
    """An Assert that fails stops the function, unless it was stripped."""
    for strip in (False, True):
        path = tmp_path / str(strip)
        save(SimpleNamespace(f=asserting()), path, options=SaveOptions(experimental_debug_stripper=strip))
        ops = {
            node.op
            for function in read_model(path).meta_graphs[0].graph_def.library.function
            for node in function.node_def
        }
        assert ("Assert" in ops) is not strip
        function = tf.saved_model.load(str(path)).f
        if strip:
            np.testing.assert_array_equal(function(tf.constant([-1.0]))["y"], [-1])
        else:
            with pytest.raises(tf.errors.InvalidArgumentError):
                function(tf.constant([-1.0]))


def test_experimental_io_device(tmp_path):
    """The ops that read and write files are placed there, and nothing else; a GPU is refused."""
    nodes = saved(tmp_path, experimental_io_device="/job:localhost").graph_def.node
    assert {node.op for node in nodes if node.device} == {"SaveV2", "RestoreV2"}
    assert {node.device for node in nodes} == {"", "/job:localhost"}
    (tmp_path / "model").rename(tmp_path / "before")
    refused(tmp_path, "device-invalid", experimental_io_device="/device:GPU:0")


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (None, ""),
        ("SAVE_VARIABLE_DEVICES", "/device:CPU:0"),
        (VariablePolicy.EXPAND_DISTRIBUTED_VARIABLES, "/device:CPU:0"),
    ],
)
def test_experimental_variable_policy(tmp_path, tf, policy, kept):
    """Devices of variables are kept if it says so, in object graph and graph."""
    model = SimpleNamespace(w=Variable(KERNEL, device="/device:CPU:0"))
    meta_graph = saved(tmp_path, model, experimental_variable_policy=policy)
    assert meta_graph.object_graph_def.nodes[1].variable.device == kept
    assert next(node for node in meta_graph.graph_def.node if node.name == "w").device == kept
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "model")).w, KERNEL)


def test_an_unknown_variable_policy_is_refused(tmp_path):
    """With the names of those that there are."""
    assert "save_variable_devices" in refused(tmp_path, experimental_variable_policy="keep")


@pytest.mark.parametrize("keep", [True, False])
def test_experimental_custom_gradients(tmp_path, keep):
    """The table of gradient functions is kept or left out."""
    gradient = RegisteredGradient(gradient_func="unary_body", registered_op_type="CustomGradient-1")
    meta_graph = saved(tmp_path, SimpleNamespace(f=unary(gradients=[gradient])), experimental_custom_gradients=keep)
    assert list(meta_graph.graph_def.library.registered_gradients) == ([gradient] if keep else [])


def test_experimental_image_format(tmp_path):
    """Refused, as in TensorFlow's own release."""
    assert "not public" in refused(tmp_path, experimental_image_format=True)


def test_experimental_skip_saver(tmp_path, tf):
    """No ops that restore; tf.saved_model.load gets the values all the same."""
    save(SimpleNamespace(w=KERNEL), tmp_path / "model", options=SaveOptions(experimental_skip_saver=True))
    meta_graph = read_model(tmp_path / "model").meta_graphs[0]
    assert not meta_graph.HasField("saver_def")
    assert not {node.op for node in meta_graph.graph_def.node} & {"SaveV2", "RestoreV2"}
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "model")).w, KERNEL)


def contents(export_dir):
    """The sizes of the data files."""
    return [path.stat().st_size for path in sorted((export_dir / "variables").glob("*.data-*"))]


def test_experimental_sharding_callback_by_size(tmp_path, tf):
    """No data file is larger than it may be, but for what cannot be cut; TensorFlow puts the pieces together."""
    model = SimpleNamespace(
        big=np.arange(300, dtype=np.float32).reshape(100, 3),
        half=np.arange(100, dtype=np.float16),
        small=np.arange(4, dtype=np.int32),
        scalar=np.float64(3),
        empty=np.zeros((0, 3), np.float32),
    )
    saved(tmp_path, model, experimental_sharding_callback=MaxShardSizePolicy(160))
    sizes = contents(tmp_path / "model")
    assert len(sizes) > 7
    assert sorted(sizes)[-3] <= 160  # larger are the halves, which TensorFlow cannot join, and the object graph
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for name, value in vars(model).items():
        np.testing.assert_array_equal(getattr(loaded, name).numpy(), value)


def test_experimental_sharding_callback_by_task(tmp_path, tf):
    """One data file for each task that variables live on."""
    model = {
        "a": Variable(np.zeros(4, np.float32), device="/job:worker/task:1"),
        "b": Variable(np.ones(8, np.float32), device="/job:worker/task:0/device:GPU:1"),
        "c": Variable(np.full(8, 2, np.float32), device="/job:worker/task:0/device:GPU:0"),
    }
    saved(tmp_path, model, experimental_sharding_callback=ShardByTaskPolicy())
    assert contents(tmp_path / "model")[1:] == [64, 16]
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "model")).c, np.full(8, 2))


@pytest.mark.parametrize(
    ("shards", "word"),
    [
        (lambda keys: [], "nowhere"),
        (lambda keys: [[Piece(key) for key in keys], [Piece(keys[0])]], "twice"),
        (lambda keys: [[Piece(key) for key in keys], [Piece("lost")]], "'lost'"),
        (lambda keys: [[Piece(keys[0], (0, 1)), *(Piece(key) for key in keys[1:])]], "do not"),
        (lambda keys: [[*(Piece(key) for key in keys[:-1]), Piece(keys[-1], (0, 1))]], "cannot be cut"),
    ],
)
def test_a_sharding_callback_places_every_value_once(tmp_path, shards, word):
    """What it leaves out, doubles, makes up or cannot cut is named."""
    with pytest.raises(DropError) as caught:
        saved(tmp_path, experimental_sharding_callback=lambda tensors: shards([tensor.key for tensor in tensors]))
    assert caught.value.code in {"option-refused", "bundle-invalid"}
    if caught.value.code == "option-refused":
        assert word in caught.value.message
    assert not (tmp_path / "model").exists()


def test_a_sharding_callback_is_told_what_there_is(tmp_path):
    """Keys, types, shapes, bytes and devices; its files are numbered in its order."""
    seen = []

    def callback(tensors):
        seen.extend(tensors)
        return [[Piece(tensor.key)] for tensor in reversed(tensors)]

    saved(tmp_path, {"w": Variable(KERNEL, device="/device:CPU:0")}, experimental_sharding_callback=callback)
    assert (seen[0].key, seen[0].shape, seen[0].nbytes, seen[0].device) == (
        "w/.ATTRIBUTES/VARIABLE_VALUE",
        (2, 3),
        24,
        "/device:CPU:0",
    )
    with BundleReader(tmp_path / "model/variables/variables") as bundle:
        assert dict(bundle.entries())["w/.ATTRIBUTES/VARIABLE_VALUE"].shard == 1


def test_a_callback_that_cannot_be_called_and_a_size_of_nothing_are_refused(tmp_path):
    """When the options are made."""
    assert "cannot be called" in refused(tmp_path, experimental_sharding_callback=3)
    with pytest.raises(DropError):
        MaxShardSizePolicy(0)


def test_extra_tags(tmp_path, tf):
    """Besides `serve`, each once."""
    meta_graph = saved(tmp_path, extra_tags=["gpu", "serve", "gpu"])
    assert list(meta_graph.meta_info_def.tags) == ["serve", "gpu"]
    assert tf.saved_model.load(str(tmp_path / "model"), tags=["serve", "gpu"]) is not None
    (tmp_path / "model").rename(tmp_path / "before")
    assert "not a list" in refused(tmp_path, extra_tags="gpu")
