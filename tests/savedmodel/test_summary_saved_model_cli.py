"""Summaries hold every fact that `saved_model_cli show --all` prints."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
from hostile_models import bad_function, edited
from savedmodel_values import floats

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import DataType
from smdaemon.savedmodel import summarize, write_weights
from smdaemon.savedmodel.tensor_info import dtype_name

tf = pytest.importorskip("tensorflow")

FIXTURES = ["saved_model_half_plus_two_tf2_cpu/00000123", "saved_model_half_plus_two_gpu/00000123"]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A model with functions of every kind of argument."""

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(tf.ones([2, 3]), name="w")

        @tf.function
        def traced(self, x, flag=True, mode=None):
            return x * 2 if flag else x

        @tf.function(input_signature=[tf.TensorSpec([None, 2]), {"a": tf.TensorSpec([], tf.int32)}])
        def nested(self, x, d):
            return {"y": x @ self.w, "z": d["a"]}

        @tf.function
        def many(self, *values, key="q", **named):
            return values[0]

    made = Module()
    made.traced(tf.ones([2]))
    made.traced(tf.ones([3], tf.int32), flag=False, mode="fast")
    made.many(tf.ones([1]), tf.ones([2]), key=tf.ones([]), z=3)
    export_dir = tmp_path_factory.mktemp("cli") / "model"
    tf.saved_model.save(made, str(export_dir))
    return export_dir


def facts_of_cli(text):
    """What the tool printed, without its words."""
    signatures = {}
    for key, body in re.findall(
        r"signature_def\['(.*?)'\]:\n(.*?)(?=\nsignature_def|\nThe MetaGraph|\Z)", text, re.DOTALL
    ):
        tensors = re.findall(
            r"(inputs|outputs)\['(.*?)'\] tensor_info:\s+dtype: (\S+)\s+shape: (.*?)\n\s+name: (\S*)", body
        )
        signatures[key] = (
            re.search(r"Method name is: (.*)", body)[1],
            {(side, name, dtype, shape, tensor) for side, name, dtype, shape, tensor in tensors},
        )
    functions = {}
    for name, body in re.findall(r"Function Name: '(.*?)'\n(.*?)(?=\n  Function Name|\Z)", text, re.DOTALL):
        functions[name] = sorted(
            sorted(re.findall(r"TensorSpec\(shape=\((.*?)\), dtype=tf\.(\w+), name='(.*?)'\)", option))
            for option in body.split("Option #")[1:]
        )
    tags = re.findall(r"MetaGraphDef with tag-set: '(.*?)'", text)
    ops = {op for found in re.findall(r"following ops: \{(.*)\}", text) for op in re.findall(r"'(.*?)'", found)}
    return tags, signatures, functions, ops


def facts_of_summary(summary):
    """The same of ours, in the tool's spelling."""
    signatures, functions, ops = {}, {}, set()
    for meta_graph in summary.meta_graphs:
        ops |= set(meta_graph.ops)
        for key, signature in meta_graph.signatures.items():
            signatures[key] = (
                signature.method,
                {
                    (side, name, spelled(tensor.dtype), shape_text(tensor.shape), tensor.tensor)
                    for side in ("inputs", "outputs")
                    for name, tensor in getattr(signature, side).items()
                },
            )
        for function in meta_graph.concrete_functions:
            functions[function.name] = sorted(
                sorted(
                    (spec_shape(tensor["shape"]), tensor["dtype"], tensor["name"])
                    for tensor in tensors_in(list(call.arguments))
                )
                for call in function.calls
            )
    return [", ".join(meta_graph.tags) for meta_graph in summary.meta_graphs], signatures, functions, ops


def spelled(name):
    """float32 -> DT_FLOAT."""
    return next(DataType.Name(number) for number in DataType.values() if dtype_name(number) == name)


def shape_text(shape):
    """A shape as the tool prints those of signatures."""
    return "unknown_rank" if shape is None else f"({', '.join('-1' if dim is None else str(dim) for dim in shape)})"


def spec_shape(shape):
    """A shape as Python prints those of functions, without the brackets."""
    return str(tuple(shape))[1:-1]


def tensors_in(value):
    """The tensors in a function's arguments."""
    if isinstance(value, dict) and value.keys() == {"name", "dtype", "shape"}:
        return [value]
    beneath = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in beneath for tensor in tensors_in(item)]


def shown(capsys, export_dir):
    """What `saved_model_cli show --all` prints."""
    from tensorflow.python.tools import saved_model_cli

    saved_model_cli._show_all(str(export_dir))
    return capsys.readouterr().out


def test_a_tensorflow_2_model(capsys, module):
    """Tags, signatures with dtypes, shapes and methods, ops, functions with their arguments."""
    text = shown(capsys, module)
    expected = facts_of_cli(text)
    assert facts_of_summary(summarize(module)) == expected
    assert len(expected[2]) == 3
    (traced,) = [found for found in summarize(module).meta_graphs[0].concrete_functions if found.name == "traced"]
    assert sorted(call.arguments[1:] for call in traced.calls) == [(False, "fast"), (True, None)]


@pytest.mark.parametrize("fixture", FIXTURES)
def test_models_of_tensorflows_projects(capsys, shared, fixture):
    """The same of models made long ago."""
    export_dir = shared / "fixtures" / fixture
    assert facts_of_summary(summarize(export_dir)) == facts_of_cli(shown(capsys, export_dir))


def test_sparse_and_ragged_inputs_are_named_by_their_parts(tmp_path):
    """A signature's composite tensors say which tensors of the graph they are."""
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(tmp_path / "model"))
    with tf.Graph().as_default(), v1.Session() as session:
        sparse, ragged = v1.sparse_placeholder(tf.int32, [None, 3], "s"), v1.ragged.placeholder(tf.float32, 1, [], "r")
        signature = v1.saved_model.predict_signature_def({"s": sparse, "r": ragged}, {"y": ragged.flat_values})
        builder.add_meta_graph_and_variables(session, ["serve"], {"x": signature})
    builder.save()
    inputs = summarize(tmp_path / "model").meta_graphs[0].signatures["x"].inputs
    assert inputs["s"].tensor == ", ".join(part.name for part in (sparse.values, sparse.indices, sparse.dense_shape))
    assert inputs["r"].tensor == f"{ragged.flat_values.name}, {ragged.row_splits.name}"


def test_inspect_prints_them(capsys, module):
    """The command shows functions with arguments, and gives all of it as JSON; TensorFlow is not imported for it."""
    from smdaemon.cli.main import dispatch

    assert dispatch(["inspect", str(module)]) == 0
    out = capsys.readouterr().out
    assert "  function nested\n" in out
    assert "      argument x: float32 (?, 2)\n      argument {a: d_a: int32 ()}\n" in out
    assert "      argument False\n      argument 'fast'\n" in out
    assert "      argument key=key: float32 ()\n      argument z=3\n" in out
    assert dispatch(["inspect", "--json", str(module)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(dataclasses.asdict(summarize(module))))
    program = (
        "import sys; from smdaemon.cli.main import dispatch; dispatch(['inspect', sys.argv[1]]);"
        " sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(module)], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_functions_that_are_not_described(tmp_path):
    """An object graph that contradicts itself is refused."""
    write_weights(tmp_path / "model", floats(["a"]))
    edited(bad_function)(tmp_path / "model")
    with pytest.raises(DropError) as caught:
        summarize(tmp_path / "model")
    assert caught.value.code == "savedmodel-inconsistent"
