"""Signatures that are refused, dtypes and shapes in every spelling, and method names that change."""

import numpy as np
import pytest
from savedmodel_values import floats

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import NodeDef, SavedModel, TensorInfo, TensorProto, TensorShapeProto
from smdaemon.savedmodel import (
    GraphTensor,
    MethodNameUpdater,
    SparseTensor,
    build_signature_def,
    build_tensor_info,
    classification_signature_def,
    get_tensor_from_tensor_info,
    predict_signature_def,
    ragged_tensor,
    regression_signature_def,
    supervised_train_signature_def,
    verify,
    write_weights,
)
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.tensor_info import describe_tensor_info
from smdaemon.savedmodel.tensor_values import array_of
from smdaemon.tensorbundle.dtypes import DTYPES

TEXT = GraphTensor("t:0", "string", (None,))
FLOAT = GraphTensor("f:0", "float32", (None,))
SPARSE = SparseTensor(GraphTensor("i", "int64"), TEXT, GraphTensor("d", "int64"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: predict_signature_def({}, {"y": FLOAT}), "no inputs"),
        (lambda: predict_signature_def({"x": FLOAT}, None), "no outputs"),
        (lambda: regression_signature_def(None, FLOAT), "no examples"),
        (lambda: regression_signature_def(FLOAT, FLOAT), "must be string, not float32"),
        (lambda: regression_signature_def(TEXT, None), "no predictions"),
        (lambda: regression_signature_def(TEXT, TEXT), "must be float32, not string"),
        (lambda: regression_signature_def(SPARSE, FLOAT), "must be a dense tensor"),
        (lambda: classification_signature_def(None, TEXT, FLOAT), "no examples"),
        (lambda: classification_signature_def(TEXT), "neither classes nor scores"),
        (lambda: classification_signature_def(FLOAT, TEXT), "examples of a classification signature must be string"),
        (lambda: classification_signature_def(TEXT, FLOAT), "classes of a classification signature must be string"),
        (
            lambda: classification_signature_def(TEXT, None, TEXT),
            "scores of a classification signature must be float32",
        ),
        (lambda: supervised_train_signature_def({}, {"loss": FLOAT}), "no inputs"),
        (lambda: build_tensor_info("x"), "describes no tensor"),
        (lambda: build_tensor_info(GraphTensor("", "float32")), "no name"),
        (lambda: build_tensor_info(GraphTensor("x", "float33")), "no dtype 'float33'"),
        (lambda: build_tensor_info(GraphTensor("x", True)), "no dtype"),
        (lambda: build_tensor_info(GraphTensor("x", object())), "no dtype"),
        (lambda: build_tensor_info(GraphTensor("x", "int8", "ab")), "no shape"),
        (lambda: build_tensor_info(GraphTensor("x", "int8", (1, -2))), "holds -2"),
        (lambda: build_tensor_info(GraphTensor("x", "int8", (1, 1.5))), "holds 1.5"),
        (lambda: build_tensor_info(GraphTensor("x", "int8", 4)), "no shape"),
        (lambda: ragged_tensor(FLOAT, []), "row splits"),
        (lambda: build_signature_def(defaults={"x": NodeDef(name="n", op="Add")}), "not a Const"),
        (lambda: build_signature_def(defaults={"x": np.array([object()])}), "default of 'x'"),
        (lambda: describe_tensor_info(TensorInfo()), "neither a name"),
    ],
)
def test_refusals(make, words):
    """What TensorFlow refuses is refused, with the value in the message."""
    with pytest.raises(DropError, match=words) as caught:
        make()
    assert caught.value.code == "signature-invalid"


@pytest.mark.parametrize("dtype", [1, "float32", "float", "DT_FLOAT", np.float32, np.dtype("f4"), DTYPES[0]])
def test_dtypes_in_every_spelling(dtype):
    """Numbers, names, numpy's and smdaemon's own."""
    assert build_tensor_info(GraphTensor("x", dtype)).dtype == 1


@pytest.mark.parametrize("dtype", [str, bytes, object, np.dtype("S3"), "string"])
def test_strings_in_every_spelling(dtype):
    """Whatever numpy calls text is a string."""
    assert build_tensor_info(GraphTensor("x", dtype)).dtype == 7


def test_shapes_in_every_spelling():
    """Tuples, arrays' shapes, messages; a dimension of any size is None or -1, a rank of any size None."""
    known = TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1), TensorShapeProto.Dim(size=np.int64(3))])
    for shape in ((None, 3), [-1, 3], known):
        assert build_tensor_info(GraphTensor("x", "int8", shape)).tensor_shape == known
    assert build_tensor_info(GraphTensor("x", "int8", None)).tensor_shape.unknown_rank
    assert len(build_tensor_info(GraphTensor("x", "int8", ())).tensor_shape.dim) == 0
    assert describe_tensor_info(build_tensor_info(GraphTensor("x", "int8", known))).shape == (None, 3)


def test_defaults_from_constants():
    """A Const node and a TensorProto are taken as they are."""
    node = NodeDef(name="c", op="Const")
    node.attr["value"].tensor.CopyFrom(TensorProto(dtype=3, int_val=[4]))
    assert build_signature_def(defaults={"x": node}).defaults["x"].int_val[:] == [4]
    assert build_signature_def(defaults={"x": TensorProto(dtype=1)}).defaults["x"].dtype == 1


def constant(dtype=1, dims=(2,), **fields):
    """A TensorProto."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in dims])
    return TensorProto(dtype=dtype, tensor_shape=shape, **fields)


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        (constant(float_val=[1, 2]), [1.0, 2.0]),
        (constant(dims=(3,), float_val=[1, 2]), [1.0, 2.0, 2.0]),
        (constant(dims=(2, 2), float_val=[7]), [[7.0, 7.0], [7.0, 7.0]]),
        (constant(7, string_val=[b"a"]), [b"a", b"a"]),
        (constant(dims=(0, 3)), []),
        (constant(dims=(), tensor_content=b"\0\0\x80?"), 1.0),
    ],
)
def test_constants_unfold(tensor, value):
    """The last value that is listed stands for the rest."""
    assert array_of(tensor).tolist() == value


@pytest.mark.parametrize(
    "tensor",
    [
        constant(),
        constant(dims=(-1,), float_val=[1]),
        constant(float_val=[1, 2, 3]),
        constant(tensor_content=b"123"),
        constant(7, tensor_content=b"12"),
        constant(dims=(1 << 62, 4), float_val=[1, 2]),
        constant(8, scomplex_val=[1, 2, 3]),
        constant(19, half_val=[-1, 1]),
        constant(dims=(1,) * 40, float_val=[1]),
        TensorProto(dtype=1, tensor_shape=TensorShapeProto(unknown_rank=True)),
        constant(20),
    ],
)
def test_bad_constants(tensor):
    """Shapes and values that contradict each other, and what unfolds too far."""
    with pytest.raises(DropError) as caught:
        array_of(tensor)
    assert caught.value.code in {"savedmodel-corrupt", "dtype-unsupported"}


def test_a_huge_constant_of_one_value_takes_no_memory():
    """2**40 elements of the same value are one element that is looked at often."""
    assert array_of(constant(dims=(1 << 40,), float_val=[3]))[1 << 39] == 3


@pytest.fixture
def signed(tmp_path):
    """A model with a signature, and a stale fingerprint."""
    write_weights(tmp_path / "model", floats(["a"]), tags=["serve"])
    _, model = read_saved_model(tmp_path / "model")
    model.meta_graphs[0].signature_def["f"].CopyFrom(predict_signature_def({"x": FLOAT}, {"y": FLOAT}))
    model.meta_graphs[0].graph_def.node.add(name="f", op="Placeholder")
    model.meta_graphs.add().CopyFrom(model.meta_graphs[0])
    model.meta_graphs[1].meta_info_def.tags.append("gpu")
    (tmp_path / "model" / "saved_model.pb").write_bytes(model.SerializeToString())
    return tmp_path / "model"


def methods(export_dir):
    """The method of the signature `f` in each meta graph."""
    return [meta_graph.signature_def["f"].method_name for meta_graph in read_saved_model(export_dir)[1].meta_graphs]


def test_method_names_change(signed, tmp_path):
    """In all meta graphs or in that of some tags; in place, with a fingerprint of its own, or elsewhere."""
    updater = MethodNameUpdater(signed)
    updater.replace_method_name("f", "regress")
    updater.replace_method_name("f", "classify", tags=["gpu", "serve"])
    updater.save()
    assert methods(signed) == ["regress", "classify"]
    assert verify(signed).fingerprint == "matches"
    updater.replace_method_name("f", "other", tags="serve")
    (tmp_path / "elsewhere").mkdir()
    assert updater.save(tmp_path / "elsewhere") == tmp_path / "elsewhere" / "saved_model.pb"
    assert methods(tmp_path / "elsewhere") == ["other", "classify"]
    assert methods(signed) == ["regress", "classify"]
    assert sorted(path.name for path in signed.iterdir()) == ["fingerprint.pb", "saved_model.pb", "variables"]


def test_method_names_change_in_text(signed):
    """A model in text format stays one."""
    from google.protobuf import text_format

    _, model = read_saved_model(signed)
    (signed / "saved_model.pb").unlink()
    (signed / "saved_model.pbtxt").write_text(text_format.MessageToString(model))
    updater = MethodNameUpdater(signed)
    updater.replace_method_name("f", "regress")
    updater.save()
    assert methods(signed) == ["regress", "regress"]
    assert not (signed / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("f", ""), "signature-invalid"),
        (("", "x"), "signature-invalid"),
        (("g", "x"), "signature-invalid"),
        (("f", "x", ["tpu"]), "tags-not-found"),
    ],
)
def test_method_names_that_cannot_change(signed, arguments, code):
    """Unknown keys and tags."""
    with pytest.raises(DropError) as caught:
        MethodNameUpdater(signed).replace_method_name(*arguments)
    assert caught.value.code == code


def test_looking_up_in_an_empty_graph():
    """Nothing is in a graph without nodes."""
    with pytest.raises(DropError):
        get_tensor_from_tensor_info(TensorInfo(name="x:0"), SavedModel().meta_graphs.add())
