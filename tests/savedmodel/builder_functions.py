"""Functions written by hand that the tests of `save` export."""

import numpy as np
from builder_graphs import node, type_of

from smdaemon.proto.tensorflow import AttrValue, FunctionDef
from smdaemon.savedmodel.functions import GraphFunction
from smdaemon.savedmodel.structure import TensorSpec

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
FLOAT, RESOURCE, STRING = 1, 20, 7


def definition(name, inputs, outputs):
    """A FunctionDef of that signature: names and types; the value of output `y` is `y_node:output:0`, and so on."""
    made = FunctionDef()
    made.signature.name = name
    made.signature.is_stateful = True
    for argument, kind in inputs.items():
        made.signature.input_arg.add(name=argument, type=kind)
    for argument, kind in outputs.items():
        made.signature.output_arg.add(name=argument, type=kind)
        made.ret[argument] = f"{argument}_node:output:0"
    return made


def result(made, name, source):
    """The value of the output `name`."""
    node(made, f"{name}_node", "Identity", [source], T=type_of("float32"))


def affine_function(capture="kernel", **options):
    """z, a, kernel -> output_2 = z @ kernel + a, output_10 = -a. Neither its inputs nor its outputs are sorted by name."""
    made = definition("affine_body", {"z": FLOAT, "a": FLOAT, "kernel": RESOURCE}, {"o2": FLOAT, "o10": FLOAT})
    kind = type_of("float32")
    node(made, "read", "ReadVariableOp", ["kernel"], dtype=kind)
    node(made, "product", "MatMul", ["z", "read:value:0"], T=kind)
    node(made, "sum", "AddV2", ["product:product:0", "a"], T=kind)
    node(made, "negative", "Neg", ["a"], T=kind)
    result(made, "o2", "sum:z:0")
    result(made, "o10", "negative:y:0")
    return GraphFunction(
        "affine",
        made,
        [TensorSpec("z", "float32", (None, 2)), TensorSpec("a", "float32", ())],
        [TensorSpec("output_2", "float32", (None, 3)), TensorSpec("output_10", "float32", ())],
        [capture],
        **options,
    )


def unary(op="Neg", name="unary", **options):
    """X -> y of one op."""
    made = definition(f"{name}_body", {"x": FLOAT}, {"y": FLOAT})
    node(made, "op", op, ["x"], T=type_of("float32"))
    result(made, "y", "op:y:0")
    spec = TensorSpec("x", "float32", (None,))
    return GraphFunction(name, made, [spec], [TensorSpec("y", "float32", (None,))], **options)


def read_file(capture, **options):
    """Asset -> the content of the file."""
    made = definition("read_body", {"path": STRING}, {"content": STRING})
    node(made, "read", "ReadFile", ["path"])
    node(made, "content_node", "Identity", ["read:contents:0"], T=AttrValue(type=STRING))
    return GraphFunction(
        "read", made, [], [TensorSpec("content", "string", ())], [capture], returns="tensor", **options
    )


def asserting():
    """X -> x, if all of x is positive."""
    made = definition("asserting_body", {"x": FLOAT}, {"y": FLOAT})
    zero = AttrValue()
    zero.tensor.dtype = FLOAT
    zero.tensor.tensor_shape.SetInParent()
    zero.tensor.float_val.append(0)
    node(made, "zero", "Const", dtype=type_of("float32"), value=zero)
    axis = AttrValue()
    axis.tensor.dtype = 3
    axis.tensor.tensor_shape.dim.add().size = 1
    axis.tensor.int_val.append(0)
    node(made, "axis", "Const", dtype=type_of("int32"), value=axis)
    node(made, "positive", "Greater", ["x", "zero:output:0"], T=type_of("float32"))
    node(made, "all", "All", ["positive:z:0", "axis:output:0"])
    kinds = AttrValue()
    kinds.list.type.append(FLOAT)
    node(made, "assert", "Assert", ["all:output:0", "x"], T=kinds)
    node(made, "y_node", "Identity", ["x", "^assert"], T=type_of("float32"))
    spec = TensorSpec("x", "float32", (None,))
    return GraphFunction("asserting", made, [spec], [TensorSpec("y", "float32", (None,))])
