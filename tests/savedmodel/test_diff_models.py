"""What differs between two SavedModels, by function and by command."""

import json

import numpy as np
import pytest
from savedmodel_values import VARIABLE_DTYPES, tensors, values_of

from smdaemon.cli.main import dispatch
from smdaemon.errors import DropError
from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel import GraphTensor, predict_signature_def, write_weights
from smdaemon.savedmodel.diff import Change, compare_values, diff
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.tensorbundle import CHUNK_BYTES, ArrayTensor

ARRAYS = {"a/w": np.arange(6.0), "a/b": np.ones(3, np.float32), "n": np.array(3), "s": np.array([b"x"], dtype=object)}


def written(path, arrays=None, **options):
    """A model of these arrays."""
    write_weights(path, tensors(ARRAYS | (arrays or {})), **options)
    return path


def edit(export_dir, change):
    """Edit saved_model.pb."""
    _, model = read_saved_model(export_dir)
    change(model.meta_graphs[0])
    (export_dir / "saved_model.pb").write_bytes(deterministic(model))


@pytest.fixture
def first(tmp_path):
    """The model that others are compared with."""
    return written(tmp_path / "first")


def test_equal_models_have_no_differences(first, tmp_path):
    """Whatever the number of data files."""
    difference = diff(first, written(tmp_path / "second", shards=3))
    assert not difference
    assert [meta_graph.tags for meta_graph in difference.meta_graphs] == [("serve",)]


def test_variables(first, tmp_path):
    """Dtype, shape, and how far values are apart; added and removed ones."""
    second = tmp_path / "second"
    arrays = {
        "a/w": np.array([0, 1, 2, 3, 4, 7.5]),
        "a/b": np.ones(4, np.float32),
        "n": np.array(3, np.int32),
        "s": np.array([b"y"], dtype=object),
        "new": np.array(1),
    }
    write_weights(second, tensors(arrays))
    (meta_graph,) = diff(first, second).meta_graphs
    assert meta_graph.variables.added == ("new",)
    assert set(meta_graph.variables.changed) == {
        Change("a/w", "values", None, 2.5),
        Change("a/b", "shape", (3,), (4,)),
        Change("n", "dtype", "int64", "int32"),
        Change("s", "values", None, None),
    }
    assert diff(second, first).meta_graphs[0].variables.removed == ("new",)
    without = diff(first, second, values=False).meta_graphs[0].variables.changed
    assert {change.name for change in without} == {"a/b", "n"}


def test_graphs_signatures_functions_devices_assets(first, tmp_path):
    """Each under its own heading."""
    second = written(tmp_path / "second")

    def change(meta_graph):
        node = next(node for node in meta_graph.graph_def.node if node.op == "Placeholder")
        node.attr["shape"].shape.dim.add().size = 2
        meta_graph.graph_def.node[0].device = "/device:GPU:0"
        meta_graph.graph_def.node.add(name="more", op="NoOp")
        meta_graph.graph_def.library.function.add().signature.name = "f"
        x = GraphTensor("x:0", "float32", (None,))
        meta_graph.signature_def["f"].CopyFrom(predict_signature_def({"x": x}, {"y": x}))
        meta_graph.asset_file_def.add(filename="words").tensor_info.name = "w:0"

    edit(second, change)
    (meta_graph,) = diff(first, second).meta_graphs
    assert meta_graph.nodes.added == ("more",)
    assert [item.what for item in meta_graph.nodes.changed] == ["attrs shape"]
    assert meta_graph.functions.added == ("f",)
    assert meta_graph.signatures.added == ("f",)
    assert meta_graph.devices.added == ("/device:GPU:0",)
    assert meta_graph.assets.added == ("words",)
    third = written(tmp_path / "third")

    def change_again(meta_graph):
        change(meta_graph)
        meta_graph.signature_def["f"].inputs["x"].dtype = 2
        meta_graph.signature_def["f"].method_name = "m"
        meta_graph.graph_def.node[1].device = "/device:GPU:0"
        meta_graph.graph_def.library.function[0].signature.description = "other"

    edit(third, change_again)
    (second / "assets").mkdir()
    (second / "assets" / "words").write_text("one")
    (meta_graph,) = diff(second, third).meta_graphs
    assert [(item.what, item.a, item.b) for item in meta_graph.signatures.changed] == [
        ("method", "tensorflow/serving/predict", "m"),
        ("input x", "float32 (?) x:0", "float64 (?) x:0"),
    ]
    assert meta_graph.devices.changed == (Change("/device:GPU:0", "count", 1, 2),)
    assert [item.name for item in meta_graph.functions.changed] == ["f"]
    assert [item.name for item in meta_graph.assets.changed] == ["words"]
    assert not meta_graph.nodes


def test_tag_sets(first, tmp_path):
    """Meta graphs that only one model has."""
    difference = diff(first, written(tmp_path / "second", tags=["train", "gpu"]))
    assert difference.tag_sets.added == ("gpu, train",)
    assert difference.tag_sets.removed == ("serve",)
    assert difference.meta_graphs == ()


@pytest.mark.parametrize("dtype", VARIABLE_DTYPES, ids=str)
def test_values_of_every_dtype(dtype):
    """A tensor is equal to itself, and not to another."""
    for array in values_of(dtype).values():
        same = ArrayTensor(array.copy())
        assert compare_values(ArrayTensor(array), same) == (True, None)
    vector = values_of(dtype)["vector"]
    is_same, largest = compare_values(ArrayTensor(vector), ArrayTensor(vector[::-1].copy()))
    assert not is_same or vector.tolist() == vector[::-1].tolist()
    assert largest is None or largest > 0


@pytest.mark.parametrize(
    ("a", "b", "largest"),
    [
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([np.inf], [-np.inf], np.inf),
        ([np.inf, 1.0], [np.inf, 1.5], 0.5),
        ([0.0], [-0.0], None),
        ([3 + 4j], [0j], 5.0),
        ([2**62], [2**62 + 1], 1.0),
        ([-(2**63)], [2**63 - 1], 2.0**64),
        ([True], [False], 1.0),
    ],
)
def test_how_far_values_are_apart(a, b, largest):
    """Numbers that are none, beyond all bounds, or too large for a float."""
    assert compare_values(ArrayTensor(np.array(a)), ArrayTensor(np.array(b))) == (False, largest)


def test_buffers_of_different_lengths():
    """Pieces that do not meet are compared byte by byte all the same."""
    array = np.arange(CHUNK_BYTES // 4, dtype=np.float64)
    other = array.copy()
    other[-1] += 2

    class Cut(ArrayTensor):
        def buffers(self):
            for buffer in super().buffers():
                yield from (buffer[at : at + 1000 * 8] for at in range(0, len(buffer), 1000 * 8))

    assert compare_values(ArrayTensor(array), Cut(array)) == (True, None)
    assert compare_values(ArrayTensor(array), Cut(other)) == (False, 2.0)


def test_the_command(capsys, first, tmp_path):
    """Exit code 0 for equal models, 1 for others, 2 for a command line that is off; lines, and JSON."""
    second = written(tmp_path / "second", {"a/w": np.arange(6.0) + 1, "new": np.array(1)})
    assert dispatch(["diff", str(first), str(first)]) == 0
    assert capsys.readouterr().out == "no differences\n"
    assert dispatch(["diff", str(first), str(second)]) == 1
    out = capsys.readouterr().out
    assert "meta graph: serve\n  variables: 1 added, 0 removed, 1 changed\n    + new\n" in out
    assert "    ~ a/w: values differ, largest difference 1\n" in out
    assert dispatch(["diff", "--json", str(first), str(second)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["same"] is False
    assert found["meta_graphs"][0]["variables"]["added"] == ["new"]
    assert dispatch(["diff", "--no-values", str(first), str(written(tmp_path / "third", {"n": np.array(4)}))]) == 0
    assert dispatch(["diff", str(first)]) == 2
    assert dispatch(["diff", "--json", str(first), str(written(tmp_path / "nan", {"a/w": np.full(6, np.nan)}))]) == 1
    assert '"b": "infinite"' in capsys.readouterr().out
    assert dispatch(["diff", str(first), str(tmp_path / "nowhere")]) == 1
    assert "savedmodel-missing" in capsys.readouterr().err


def test_what_cannot_be_read_is_refused(first, tmp_path):
    """A damaged value is an error, not a difference."""
    second = written(tmp_path / "second")
    (shard,) = second.glob("variables/*.data-*")
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(DropError):
        diff(first, second)
