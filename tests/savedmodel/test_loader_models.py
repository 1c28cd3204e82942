"""Loading models without TensorFlow: our own exports and those that TensorFlow's projects ship."""

import gc
from pathlib import Path

import numpy as np
import pytest
from savedmodel_values import VARIABLE_DTYPES, content, floats, tensors, values_of

from smdaemon.errors import DropError
from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel import contains_saved_model, load, load_v2, maybe_saved_model_directory, write_weights
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.loaded_tree import LoadedObject
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.tensorbundle import ArrayTensor, PartitionedTensor, TensorSlice, dtype_named, write_bundle

FIXTURES = [
    "saved_model_half_plus_two_gpu/00000123",
    "saved_model_half_plus_two_tf2_cpu/00000123",
    "saved_model_half_plus_two_2_versions/00000123",
    "saved_model_half_plus_two_mlmd/00000123",
    "saved_model_half_plus_three/00000123",
]


@pytest.fixture
def model(tmp_path):
    """An export with objects, a list and a dict."""
    arrays = {
        "layers/0/w": np.arange(6.0),
        "layers/1/w": np.ones((2, 2), np.float32),
        "table/a b": np.array(1),
        "a.b": np.array([b"x"], dtype=object),
    }
    write_weights(tmp_path / "model", tensors(arrays), shards=2, tags=["serve", "tpu"])
    return tmp_path / "model", arrays


def test_variables_have_the_names_they_were_written_under(model):
    """Name, dtype, shape and value; a bundle key and a name that the variable was made with find it, too."""
    export_dir, arrays = model
    with load(export_dir, ["tpu", "serve"]) as loaded:
        assert set(loaded.variables) == set(arrays)
        assert len(loaded.variables) == 4
        for name, array in arrays.items():
            variable = loaded.variables[name]
            assert content(variable.read()) == content(array)
            assert content(np.asarray(variable)) == content(array)
            assert variable.shape == array.shape
            assert b"".join(bytes(buffer) for buffer in variable.buffers()) == (
                b"x" if name == "a.b" else array.tobytes()
            )
            assert loaded.variables[variable.key] is variable
        first = loaded.variables["layers/0/w"]
        assert (first.dtype.name, first.nbytes, first.trainable) == ("float64", 48, True)
        assert repr(first) == "<LazyArray 'layers/0/w' float64 (6,)>"
        assert np.asarray(first, dtype=np.float32).dtype == np.float32
        assert "gone" not in loaded.variables
        with pytest.raises(ValueError, match="copy"):
            np.array(first, copy=False)


def test_the_tree_is_objects_lists_and_dicts(model):
    """What was nested is nested, and the variables in it are those of `variables`."""
    loaded = load_v2(model[0])
    root = loaded.root
    assert root.layers[0].w is loaded.variables["layers/0/w"]
    assert [layer.w.shape for layer in root.layers] == [(6,), (2, 2)]
    assert root.table["a b"].read() == 1
    assert root["a.b"].read().tolist() == [b"x"]
    assert {id(variable) for variable in root.variables} == {id(variable) for variable in loaded.variables.values()}
    assert "layers" in root
    assert "layers" in dir(root)
    assert {"layers", "table"} <= set(root)
    assert root.layers[0].variables == [loaded.variables["layers/0/w"]]
    assert root.layers[0].trainable_variables == [loaded.variables["layers/0/w"]]
    assert isinstance(root, LoadedObject)
    assert "layers" in repr(root)
    with pytest.raises(AttributeError, match="gone"):
        root.gone  # noqa: B018


def test_every_dtype(tmp_path):
    """Vectors, scalars and empty matrices of all that a variable can be."""
    arrays = {f"{dtype}/{name}": array for dtype in VARIABLE_DTYPES for name, array in values_of(dtype).items()}
    write_weights(tmp_path / "model", tensors(arrays))
    loaded = load_v2(tmp_path / "model")
    assert {name: content(variable.read()) for name, variable in loaded.variables.items()} == {
        name: content(array) for name, array in arrays.items()
    }


@pytest.mark.parametrize("fixture", FIXTURES)
def test_others_models(shared, fixture):
    """TensorFlow 1 and 2: the variables a and b of half plus two (or three), signatures, assets, init op."""
    with load(shared / "fixtures" / fixture, {"serve"}) as loaded:
        assert loaded.variables["a"].read() == 0.5
        assert loaded.variables["b"].read() == (3 if "three" in fixture else 2)
        assert loaded.root.a is loaded.variables["a"]
        signature = loaded.signatures["serving_default"]
        assert signature.method_name == "tensorflow/serving/predict"
        assert signature.inputs["x"].dtype == "float32"
        assert signature.outputs["y"].dtype == "float32"
        assert "__saved_model_init_op" not in loaded.signatures
        assert loaded.init_op
        assert loaded.train_op is None
        assert all(path.is_file() for path in loaded.assets.values())
        assert loaded.check_fingerprint() in {"absent", "unchecked"}


def test_tags_must_be_exactly_those(model):
    """A subset, a superset or another set is answered with the sets that there are."""
    for tags in (["serve"], ["serve", "tpu", "gpu"], "serve", []):
        with pytest.raises(DropError, match=r"\['serve', 'tpu'\]") as caught:
            load(model[0], tags)
        assert caught.value.code == "tags-not-found"
    assert load_v2(model[0], ["serve", "tpu"]).tags == ("serve", "tpu")


def test_several_meta_graphs(model):
    """Tags choose one; without tags none can be chosen."""
    export_dir, _ = model
    _, message = read_saved_model(export_dir)
    message.meta_graphs.add().CopyFrom(message.meta_graphs[0])
    message.meta_graphs[1].meta_info_def.tags[:] = ["train"]
    (export_dir / "saved_model.pb").write_bytes(deterministic(message))
    assert load(export_dir, "train").tags == ("train",)
    with pytest.raises(DropError, match="several meta graphs") as caught:
        load_v2(export_dir)
    assert caught.value.code == "tags-not-found"


def test_only_what_is_read_is_opened(tmp_path):
    """Reading one variable opens no data file but its own: the others may be missing."""
    write_weights(tmp_path / "model", tensors({f"v{n}": np.full(1000 * n, n) for n in range(10)}), shards=10)
    with load_v2(tmp_path / "model") as loaded:
        entries = dict(loaded.bundle.entries())
    kept = {entries["_CHECKPOINTABLE_OBJECT_GRAPH"].shard, entries["v3/.ATTRIBUTES/VARIABLE_VALUE"].shard}
    for path in (tmp_path / "model" / "variables").glob("*.data-*"):
        if int(path.name[15:20]) not in kept:
            path.unlink()
    with load_v2(tmp_path / "model") as loaded:
        assert loaded.variables["v3"].read()[0] == 3
        lost = next(variable for variable in loaded.variables.values() if entries[variable.key].shard not in kept)
        with pytest.raises(DropError) as caught:
            lost.read()
        assert caught.value.code == "bundle-missing-shard"


def open_files():
    """How many descriptors the process has."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed_by_with_and_by_the_collector(model):
    """A variable may outlive its model; when nothing refers to the files, they are closed."""
    before = open_files()
    variable = load_v2(model[0]).variables["layers/0/w"]
    assert variable.read().sum() == 15
    assert open_files() > before
    del variable
    assert open_files() == before
    with load_v2(model[0]) as loaded:
        loaded.variables["layers/0/w"].read()
    assert open_files() == before


def test_slices_are_put_together(tmp_path, model):
    """A bundle that holds a variable in two pieces."""
    export_dir, _ = model
    loaded = load_v2(export_dir)
    key = loaded.variables["layers/0/w"].key
    kept = {OBJECT_GRAPH_KEY: ArrayTensor(np.asarray(loaded.bundle.array(OBJECT_GRAPH_KEY), object))}
    rows = np.arange(6.0)
    parts = [(TensorSlice(((start, 3),)), ArrayTensor(rows[start : start + 3])) for start in (0, 3)]
    others = {
        variable.key: ArrayTensor(variable.read()) for variable in loaded.variables.values() if variable.key != key
    }
    for path in (export_dir / "variables").iterdir():
        path.unlink()
    partitioned = PartitionedTensor(dtype_named("float64"), (6,), parts)
    write_bundle(export_dir / "variables" / "variables", kept | others | {key: partitioned})
    assert load_v2(export_dir).variables["layers/0/w"].read().tolist() == rows.tolist()


def test_models_in_text(model):
    """saved_model.pbtxt instead of saved_model.pb."""
    from google.protobuf import text_format

    export_dir, _ = model
    _, message = read_saved_model(export_dir)
    (export_dir / "saved_model.pbtxt").write_text(text_format.MessageToString(message))
    (export_dir / "saved_model.pb").unlink()
    assert load_v2(export_dir).variables["layers/0/w"].read().sum() == 15


def test_a_model_without_variables(model):
    """No bundle, no variables: the objects are there all the same."""
    export_dir, _ = model
    for path in (export_dir / "variables").iterdir():
        path.unlink()
    loaded = load_v2(export_dir)
    assert dict(loaded.variables) == {}
    assert loaded.bundle is None
    assert loaded.root.layers[0].w.name == "layers/0/w"
    assert [missing.name for missing in loaded.root.variables] == ["a.b", "layers/0/w", "layers/1/w", "table/a_b"]


def test_fingerprint_and_debug_info(model):
    """Another model's fingerprint is refused when it is asked for; a debug file that is none likewise."""
    export_dir, _ = model
    loaded = load_v2(export_dir)
    assert loaded.check_fingerprint() == "matches"
    assert loaded.fingerprint.uuid
    assert loaded.debug_info is None
    write_weights(export_dir.parent / "other", floats(["x"]))
    (export_dir / "fingerprint.pb").write_bytes((export_dir.parent / "other" / "fingerprint.pb").read_bytes())
    (export_dir / "debug").mkdir()
    (export_dir / "debug" / "saved_model_debug_info.pb").write_bytes(b"\xff")
    loaded = load_v2(export_dir)
    with pytest.raises(DropError) as caught:
        loaded.check_fingerprint()
    assert caught.value.code == "savedmodel-inconsistent"
    with pytest.raises(DropError) as caught:
        loaded.debug_info  # noqa: B018
    assert caught.value.code == "savedmodel-corrupt"


def test_init_op_from_collections(model):
    """The collections of TensorFlow 1, which name one op each."""
    export_dir, _ = model
    _, message = read_saved_model(export_dir)
    collection = message.meta_graphs[0].collection_def["legacy_init_op"].node_list
    collection.value.append("ready")
    message.meta_graphs[0].collection_def["saved_model_train_op"].node_list.value.extend(["a", "b"])
    (export_dir / "saved_model.pb").write_bytes(deterministic(message))
    loaded = load_v2(export_dir)
    assert loaded.init_op == "ready"
    with pytest.raises(DropError, match="names 2 ops"):
        loaded.train_op  # noqa: B018


def test_where_a_model_may_lie(model, tmp_path):
    """A directory with one of the files that every model has."""
    assert contains_saved_model(model[0])
    assert not maybe_saved_model_directory(str(tmp_path))
    assert not contains_saved_model(tmp_path / "nowhere")
    (tmp_path / "saved_model.pbtxt").touch()
    assert contains_saved_model(tmp_path)
