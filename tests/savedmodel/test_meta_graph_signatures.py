"""Signatures by tensor names, pruning, and graphs that are spoiled; without TensorFlow."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import DataType, MetaGraphDef, VariableDef
from smdaemon.savedmodel.meta_graph import GraphOptions, export_checkpoint_with_graph, graph_path, read_meta_graph
from smdaemon.savedmodel.prune import prune
from smdaemon.savedmodel.signatures_request import SignatureRequest, SparseNames, signature_defs
from smdaemon.savedmodel.writer import write_saved_model
from smdaemon.tensorbundle import ArrayTensor, write_bundle

np = pytest.importorskip("numpy")

FLOAT, STRING, INT64 = DataType.DT_FLOAT, DataType.DT_STRING, DataType.DT_INT64


def graph():
    """The graph of f(x) + w, with a saver, a table's initialiser, and a training op; `split` has outputs of several kinds."""
    made = MetaGraphDef()

    def node(name, op, *inputs, **attrs):
        added = made.graph_def.node.add(name=name, op=op, input=inputs)
        for key, value in attrs.items():
            added.attr[key].CopyFrom(value)

    def op(name, *outputs):
        added = made.meta_info_def.stripped_op_list.op.add(name=name)
        for number, output in enumerate(outputs):
            added.output_arg.add(name=f"o{number}", **output)

    from smdaemon.proto.tensorflow import AttrValue

    def kind(enum):
        return AttrValue(type=enum)

    def strings(*values):
        made = AttrValue()
        made.tensor.dtype = STRING
        made.tensor.tensor_shape.dim.add(size=len(values))
        made.tensor.string_val.extend(values)
        return made

    shape = AttrValue(shape={"dim": [{"size": -1}, {"size": 3}]})
    node("x", "Placeholder", dtype=kind(FLOAT), shape=shape)
    node("w", "VariableV2", dtype=kind(FLOAT), shape=AttrValue(shape={"dim": [{"size": 3}]}))
    node("w/initial", "Placeholder", dtype=kind(FLOAT))
    node("w/Assign", "Assign", "w", "w/initial", T=kind(FLOAT))
    node("w/read", "Identity", "w", T=kind(FLOAT), _class=AttrValue(list={"s": [b"loc:@w", b"loc:@train"]}))
    node("called", "f", "x")
    node("y", "AddV2", "called", "w/read", T=kind(FLOAT))
    node(
        "split", "Split", "x", T=kind(FLOAT), num_split=AttrValue(i=2), types=AttrValue(list={"type": [INT64, STRING]})
    )
    node("unknown", "NobodyKnows", "x")
    node("train", "Train", "y", "w", grad=AttrValue(func={"name": "g"}))
    node("save/Const", "Placeholder", dtype=kind(STRING))
    node("save/names", "Const", dtype=kind(STRING), value=strings(b"w"))
    node("save/slices", "Const", dtype=kind(STRING), value=strings(b""))
    node(
        "save/RestoreV2",
        "RestoreV2",
        "save/Const",
        "save/names",
        "save/slices",
        dtypes=AttrValue(list={"type": [FLOAT]}),
    )
    node("save/Assign", "Assign", "w", "save/RestoreV2", T=kind(FLOAT))
    node("save/restore_all", "NoOp", "^save/Assign")
    node("save/SaveV2", "SaveV2", "save/Const", "save/names", "save/slices", "w")
    node("save/Identity", "Identity", "save/Const", "^save/SaveV2", T=kind(STRING))
    op("Placeholder", {"type_attr": "dtype"})
    op("VariableV2", {"type_attr": "dtype", "is_ref": True})
    op("AddV2", {"type_attr": "T"})
    op("Split", {"number_attr": "num_split", "type_attr": "T"}, {"type_list_attr": "types"})
    for name, calls in (("f", "inner"), ("inner", "Neg"), ("g", "Neg"), ("f_grad", "Neg")):
        function = made.graph_def.library.function.add()
        function.signature.name = name
        function.signature.output_arg.add(name="o", type=FLOAT)
        function.node_def.add(name="n", op=calls)
    made.graph_def.library.gradient.add(function_name="f", gradient_func="f_grad")
    made.graph_def.library.gradient.add(function_name="g", gradient_func="g")
    made.saver_def.filename_tensor_name = "save/Const:0"
    made.saver_def.save_tensor_name = "save/Identity:0"
    made.saver_def.restore_op_name = "save/restore_all"
    variable = VariableDef(
        variable_name="w:0", initializer_name="w/Assign", snapshot_name="w/read:0", initial_value_name="w/initial:0"
    )
    for name in ("variables", "trainable_variables"):
        made.collection_def[name].bytes_list.value.append(variable.SerializeToString())
    made.collection_def["queue_runners"].bytes_list.value.append(b"\x0a\x05train")
    made.collection_def["train_op"].node_list.value.append("train")
    made.collection_def["outputs"].node_list.value.extend(["y:0", "train:0"])
    made.collection_def["epochs"].int64_list.value.append(3)
    return made


REQUEST = {"serving_default": SignatureRequest({"x": "x"}, {"y": "y:0"})}


def checkpoint(directory, meta_graph=None):
    """A checkpoint of `w` with the graph; its prefix."""
    prefix = directory / "model.ckpt-1"
    write_bundle(prefix, {"w": ArrayTensor(np.zeros(3, np.float32))}, sync=False)
    graph_path(prefix).write_bytes((meta_graph or graph()).SerializeToString())
    return prefix


def refused(requests, meta_graph=None):
    """The error that these signatures meet."""
    with pytest.raises(DropError) as caught:
        signature_defs(requests, meta_graph or graph())
    return caught.value


def test_the_graph_tells_dtypes_and_shapes():
    """From op definitions, functions, placeholders and variables; outputs are counted over all of an op's."""
    names = ("x", "w:0", "called", "y", "split:0", "split:1", "split:2", "split:3")
    (signature,) = signature_defs({"s": SignatureRequest({}, {name: name for name in names})}, graph()).values()
    kinds = {name: info.dtype for name, info in signature.outputs.items()}
    assert [kinds[name] for name in names] == [FLOAT] * 6 + [INT64, STRING]
    assert [dim.size for dim in signature.outputs["x"].tensor_shape.dim] == [-1, 3]
    assert [dim.size for dim in signature.outputs["w:0"].tensor_shape.dim] == [3]
    assert signature.outputs["y"].tensor_shape.unknown_rank
    assert signature.outputs["called"].name == "called:0"
    assert signature.method_name == "tensorflow/serving/predict"


def test_a_sparse_tensor_is_named_by_its_parts():
    """indices, values and dense shape; the dtype is that of the values."""
    request = SignatureRequest({"x": SparseNames("split:2", "x", "split:2")}, {"y": "y"})
    info = signature_defs({"s": request}, graph())["s"].inputs["x"]
    assert info.coo_sparse.indices_tensor_name == "split:2"
    assert info.coo_sparse.values_tensor_name == "x:0"
    assert info.dtype == FLOAT


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (SignatureRequest({"x": "w/reed:0"}, {"y": "y"}), "'x' of signature 's' is 'w/reed:0', .* nearest names are 'w/read'"),
        (SignatureRequest({"x": "read"}, {"y": "y"}), "nearest names are 'w/read'"),
        (SignatureRequest({}, {"y": "qqqqqq"}), "no name is like it"),
        (SignatureRequest({}, {"y": "^y"}), "not in the graph"),
        (SignatureRequest({}, {"y": ""}), "not in the graph"),
        (SignatureRequest({}, {"y": "y:1"}), "not among the 1 outputs of 'y'"),
        (SignatureRequest({}, {"y": "y:z"}), "not the name of a tensor"),
        (SignatureRequest({}, {"y": "unknown"}), "op 'NobodyKnows' that the graph does not define"),
        (SignatureRequest({"x": "x"}, {}), "no outputs"),
        (SignatureRequest({"inputs": "x"}, {"classes": "y"}, "tensorflow/serving/classify"), "none that TensorFlow Serving takes"),
    ],
)  # fmt: skip
def test_what_the_graph_does_not_have_is_told_with_what_is_near(request_, words):
    """The error names the signature, the tensor and the nearest names."""
    error = refused({"s": request_})
    assert error.code == "signature-invalid"
    import re

    assert re.search(words, error.message), error.message


def test_keys_of_ops_are_no_signatures():
    """The key of the init op is taken."""
    assert refused({"__saved_model_init_op": REQUEST["serving_default"]}).code == "signature-invalid"


def test_pruning_keeps_what_is_needed_and_nothing_that_points_elsewhere():
    """Nodes, functions, colocations, collections."""
    made = graph()
    before = len(made.graph_def.node)
    gone = prune(made, ["y:0", "save/restore_all", "save/Identity:0"])
    names = {node.name for node in made.graph_def.node}
    assert {"split", "unknown", "train"} & names == set()
    assert gone == before - len(names) == 3
    assert {"w/initial", "w/Assign"} <= names
    (read,) = (node for node in made.graph_def.node if node.name == "w/read")
    assert list(read.attr["_class"].list.s) == [b"loc:@w"]
    assert {function.signature.name for function in made.graph_def.library.function} == {"f", "inner", "f_grad"}
    assert [gradient.function_name for gradient in made.graph_def.library.gradient] == ["f"]
    assert set(made.collection_def) == {"variables", "trainable_variables", "outputs", "epochs"}
    assert list(made.collection_def["outputs"].node_list.value) == ["y:0"]


def test_a_graph_without_a_saver_gets_one(tmp_path):
    """A .meta that no Saver wrote."""
    made = graph()
    made.ClearField("saver_def")
    with export_checkpoint_with_graph(checkpoint(tmp_path, made), GraphOptions(signatures=REQUEST)) as contents:
        assert contents.model.meta_graphs[0].saver_def.restore_op_name == "save_1/restore_all"


def test_a_main_op_is_taken_by_name_and_put_where_loaders_look(tmp_path):
    """The one asked for replaces the graph's own."""
    made = graph()
    made.collection_def["legacy_init_op"].node_list.value.append("train")
    prefix = checkpoint(tmp_path, made)
    for asked, expected in ((None, "train"), ("save/restore_all", "save/restore_all")):
        with export_checkpoint_with_graph(prefix, GraphOptions(signatures=REQUEST, main_op=asked)) as contents:
            (meta_graph,) = contents.model.meta_graphs
            assert list(meta_graph.collection_def["saved_model_main_op"].node_list.value) == [expected]
            assert meta_graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name == expected
            assert "legacy_init_op" not in meta_graph.collection_def
    with pytest.raises(DropError, match="main op 'nothing' is not in the graph"):
        export_checkpoint_with_graph(prefix, GraphOptions(main_op="nothing")).__enter__()


def test_a_graph_of_other_variables_is_refused(tmp_path):
    """Before anything is written."""
    prefix = checkpoint(tmp_path)
    for name in ("model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"):
        (tmp_path / name).unlink()
    for value in ({"v": np.zeros(3, np.float32)}, {"w": np.zeros(3)}, {"w": np.zeros(4, np.float32)}):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        write_bundle(directory / "c", {name: ArrayTensor(array) for name, array in value.items()}, sync=False)
        with pytest.raises(DropError) as caught:
            export_checkpoint_with_graph(directory / "c", GraphOptions(), meta=graph_path(prefix)).__enter__()
        assert caught.value.code == "savedmodel-inconsistent"


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x12\x00", b"\x12\x04\x0a\x02\x12\x00", b"meta_info_def {", b"\xff" * 99]
)
def test_a_file_that_is_no_graph_is_refused(tmp_path, content):
    """Empty, garbage, a graph without nodes, a node without op, broken text."""
    (tmp_path / "x.meta").write_bytes(content)
    with pytest.raises(DropError) as caught:
        read_meta_graph(tmp_path / "x.meta")
    assert caught.value.code == "checkpoint-graph-corrupt"


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_spoiled_graphs_are_refused_or_exported(tmp_path_factory, data):
    """Bytes flipped or cut: a DropError, or a graph that happens to be sound; never another exception."""
    content = bytearray(graph().SerializeToString(deterministic=True))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    directory = tmp_path_factory.mktemp("spoiled")
    prefix = checkpoint(directory)
    graph_path(prefix).write_bytes(content)
    code = None
    try:
        with export_checkpoint_with_graph(prefix, GraphOptions(signatures=REQUEST, prune=True)) as contents:
            write_saved_model(directory / "model", contents, sync=False)
    except DropError as error:
        code = error.code
    assert code in {
        None,
        "checkpoint-graph-corrupt",
        "signature-invalid",
        "savedmodel-inconsistent",
        "dtype-unsupported",
    }
