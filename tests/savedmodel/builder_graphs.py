"""Graphs written by hand that the builder's tests export."""

import numpy as np

from smdaemon.proto.tensorflow import AttrValue, GraphDef, SignatureDef, TensorInfo
from smdaemon.tensorbundle.dtypes import dtype_named


def type_of(name):
    """An AttrValue of that dtype."""
    return AttrValue(type=dtype_named(name).enum)


def shape_of(*dims):
    """An AttrValue of that shape."""
    value = AttrValue()
    value.shape.SetInParent()
    for dim in dims:
        value.shape.dim.add().size = dim
    return value


def node(graph, name, op, inputs=(), device="", **attrs):
    """A node added to a graph or a function."""
    nodes = graph.node if isinstance(graph, GraphDef) else graph.node_def
    made = nodes.add(name=name, op=op, input=inputs, device=device)
    for key, value in attrs.items():
        made.attr[key].CopyFrom(value)
    return made


def handle(graph, name, *dims, dtype="float32"):
    """A resource variable and its read, `NAME/read`."""
    kind = type_of(dtype)
    node(graph, name, "VarHandleOp", dtype=kind, shape=shape_of(*dims), shared_name=AttrValue(s=name.encode()))
    node(graph, f"{name}/read", "ReadVariableOp", [name], dtype=kind)


def reference(graph, name, *dims, dtype="float32"):
    """A reference variable, as TensorFlow 1 makes them, and its read, `NAME/read`."""
    kind = type_of(dtype)
    node(
        graph,
        name,
        "VariableV2",
        dtype=kind,
        shape=shape_of(*dims),
        shared_name=AttrValue(s=b""),
        container=AttrValue(s=b""),
    )
    node(graph, f"{name}/read", "Identity", [name], T=kind)


def affine(*, device=""):
    """The graph of y = x @ kernel + bias: `kernel` a resource (2, 3), `bias` a reference variable (3,)."""
    graph = GraphDef()
    graph.versions.producer = 2474
    handle(graph, "kernel", 2, 3)
    reference(graph, "bias", 3)
    kind = type_of("float32")
    node(graph, "x", "Placeholder", dtype=kind, shape=shape_of(-1, 2))
    off = AttrValue(b=False)
    node(graph, "product", "MatMul", ["x", "kernel/read"], device, T=kind, transpose_a=off, transpose_b=off)
    node(graph, "y", "AddV2", ["product", "bias/read"], device, T=kind)
    return graph


VALUES = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([10, 20, 30], np.float32),
}
X = np.array([[1, 2], [3, 4]], np.float32)
Y = X @ VALUES["kernel"] + VALUES["bias"]


def info(name, *dims, dtype="float32"):
    """A TensorInfo."""
    made = TensorInfo(name=name, dtype=dtype_named(dtype).enum)
    made.tensor_shape.SetInParent()
    for dim in dims:
        made.tensor_shape.dim.add().size = dim
    return made


def signature():
    """What `affine` takes and gives."""
    made = SignatureDef(method_name="tensorflow/serving/predict")
    made.inputs["x"].CopyFrom(info("x:0", -1, 2))
    made.outputs["y"].CopyFrom(info("y:0", -1, 3))
    return made


def asset_constant(graph, name, path):
    """A constant that holds the path of an asset."""
    value = AttrValue()
    value.tensor.dtype = 7
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(str(path).encode())
    node(graph, name, "Const", dtype=type_of("string"), value=value)


def read_model(export_dir):
    """The SavedModel message of an export."""
    from smdaemon.savedmodel.reader import read_saved_model

    return read_saved_model(export_dir)[1]
