"""SavedModels that mean harm, by name: each a function that makes one of a sound model's directory."""

import os

from smdaemon.proto.pool import deterministic
from smdaemon.proto.tensorflow import TrackableObjectGraph
from smdaemon.savedmodel import wire
from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.reader import read_saved_model, variables_prefix
from smdaemon.savedmodel.values import StringScalar
from smdaemon.tensorbundle import BundleReader
from smdaemon.tensorbundle.writer import write_bundle

DEEP = 1_000_000


def edited(change):
    """Change the message of saved_model.pb."""

    def make(export_dir):
        _, model = read_saved_model(export_dir)
        change(model, model.meta_graphs[0])
        (export_dir / "saved_model.pb").write_bytes(deterministic(model))

    return make


def appended(content):
    """Append fields to saved_model.pb."""

    def make(export_dir):
        with (export_dir / "saved_model.pb").open("ab") as file:
            file.write(content())

    return make


def nested(outer, inner, count=DEEP):
    """A message within a message within ...: the fields `outer` once each, then the fields `inner` in turn, over and over."""
    # lengths are known from the inside out; each level is a tag and a length before what is inside
    tags = [wire.varint(number << 3 | 2) for number in inner]
    parts, size = [], 0
    for level in reversed(range(count)):
        parts.append(tags[level % len(tags)] + wire.varint(size))
        size += len(parts[-1])
    content = b"".join(reversed(parts))
    for number in reversed(outer):
        content = wire.chunk(number, content)
    return content


def variable_of(meta_graph):
    """The first variable of the object graph."""
    return next(node for node in meta_graph.object_graph_def.nodes if node.HasField("variable")).variable


def node_of(meta_graph, op):
    """The first node of that op."""
    return next(node for node in meta_graph.graph_def.node if node.op == op)


def bundle_of(trackable):
    """Another object graph within the bundle."""

    def make(export_dir):
        prefix = variables_prefix(export_dir)
        with BundleReader(prefix) as bundle:
            graph = TrackableObjectGraph.FromString(bundle.string_elements(OBJECT_GRAPH_KEY)[0])
            content = trackable(graph)
            tensors = {key: bundle.tensor(key) for key, _ in bundle.entries() if key != OBJECT_GRAPH_KEY}
            write_bundle(export_dir / "other", tensors | {OBJECT_GRAPH_KEY: StringScalar(content)})
        for path in prefix.parent.iterdir():
            path.unlink()
        for path in export_dir.glob("other.*"):
            path.rename(prefix.parent / path.name.replace("other", "variables"))

    return make


def changed(change):
    """For `bundle_of`: change the object graph's message."""

    def make(graph):
        change(graph)
        return graph.SerializeToString()

    return make


def many_twins(model, meta_graph):
    """10,000 nodes with the same 10,000 children each would take 10^8 steps; here 10,000 names lead to one node."""
    nodes = meta_graph.object_graph_def.nodes
    number = len(nodes)
    nodes.add().user_object.identifier = "_generic_user_object"
    for item in range(10_000):
        nodes[number].children.add(node_id=0, local_name=str(item))
        nodes[0].children.add(node_id=number, local_name=f"again{item}")


def chain(model, meta_graph):
    """Objects within objects, 30,000 deep, and back to the root."""
    nodes = meta_graph.object_graph_def.nodes
    first = len(nodes)
    for item in range(30_000):
        nodes.add().children.add(node_id=first + item + 1, local_name="a")
    nodes.add().children.add(node_id=0, local_name="root")
    nodes[0].children.add(node_id=first, local_name="chain")


def ring_of_identities(model, meta_graph):
    """Restored values go through a ring of 5,000 nodes before 5,000 assignments."""
    graph = meta_graph.graph_def
    handle = node_of(meta_graph, "VarHandleOp").name
    for item in range(5_000):
        graph.node.add(name=f"i{item}", op="Identity", input=[f"i{(item + 1) % 5_000}"])
        graph.node.add(name=f"a{item}", op="AssignVariableOp", input=[handle, f"i{item}"])


def long_constant(model, meta_graph):
    """One key stands for 10^8."""
    node = node_of(meta_graph, "RestoreV2")
    for name in node.input[1:3]:
        tensor = next(n for n in meta_graph.graph_def.node if n.name == name).attr["value"].tensor
        tensor.tensor_shape.dim[0].size = 99_999_999


def const_without_value(model, meta_graph):
    """The keys of the restore op are a Const without attributes."""
    name = node_of(meta_graph, "RestoreV2").input[1]
    next(n for n in meta_graph.graph_def.node if n.name == name).attr.clear()


def bad_function(model, meta_graph):
    """A function that the object graph does not describe."""
    nodes = meta_graph.object_graph_def.nodes
    nodes[0].children.add(node_id=len(nodes), local_name="f")
    nodes.add().function.concrete_functions.append("gone")


def far_capture(model, meta_graph):
    """A function captures a node that is not there."""
    nodes = meta_graph.object_graph_def.nodes
    nodes[0].children.add(node_id=len(nodes), local_name="f")
    nodes.add().function.concrete_functions.append("f")
    meta_graph.object_graph_def.concrete_functions["f"].bound_inputs.append(-5)


def far_asset(model, meta_graph):
    """An object is an asset that is not listed."""
    nodes = meta_graph.object_graph_def.nodes
    nodes[0].children.add(node_id=len(nodes), local_name="asset")
    nodes.add().asset.asset_file_def_index = 7


def asset(name):
    """An asset of that name."""

    def change(model, meta_graph):
        meta_graph.asset_file_def.add(filename=name).tensor_info.name = "x:0"

    return change


def same_names(graph):
    """Two children of a node with one name, and different nodes."""
    graph[0].children.add(node_id=1, local_name="twice")
    graph[0].children.add(node_id=2, local_name="twice")


def sparse_file(name, size):
    """A file of that size without content."""

    def make(export_dir):
        (export_dir / name).parent.mkdir(exist_ok=True)
        os.truncate(export_dir / name, size) if (export_dir / name).exists() else None
        with (export_dir / name).open("ab") as file:
            file.truncate(size)

    return make


def text(content):
    """saved_model.pbtxt in the place of saved_model.pb."""

    def make(export_dir):
        (export_dir / "saved_model.pb").unlink()
        (export_dir / "saved_model.pbtxt").write_bytes(content())

    return make


def deep_text():
    """A message within a message, 10^6 deep."""
    return (
        b"meta_graphs { object_graph_def { concrete_functions { value { output_signature { "
        + b"list_value { values { " * (DEEP // 2)
        + b"} " * DEEP
        + b"} } } } }"
    )


# what any command must refuse
REFUSED = {
    "a child far off": edited(lambda _, m: m.object_graph_def.nodes[0].children.add(node_id=2**31 - 1, local_name="x")),
    "a negative child": edited(lambda _, m: m.object_graph_def.nodes[0].children.add(node_id=-1, local_name="x")),
    "two children of a name": edited(lambda _, m: same_names(m.object_graph_def.nodes)),
    "two children of a name in the bundle": bundle_of(changed(lambda graph: same_names(graph.nodes))),
    "an edge of the bundle's graph leads nowhere": bundle_of(
        changed(lambda graph: graph.nodes[0].children.add(node_id=99, local_name="x"))
    ),
    "a key that is not there": bundle_of(
        changed(lambda graph: [setattr(a, "checkpoint_key", "gone") for n in graph.nodes for a in n.attributes])
    ),
    "an object graph that is none": bundle_of(lambda graph: b"\xff\xff"),
    "an object graph of one deep node in the bundle": bundle_of(lambda graph: nested([1], [4, 2])),
    "a function that is not described": edited(bad_function),
    "a function that captures what is not there": edited(far_capture),
    "an asset that is not listed": edited(far_asset),
    "an asset above": edited(asset("../../../etc/passwd")),
    "an absolute asset": edited(asset("/etc/passwd")),
    "an asset without a name": edited(asset("")),
    "an asset with NUL": edited(asset("a\0b")),
    "deep messages": appended(lambda: nested([2, 7, 2, 2, 4], [51, 1])),
    "deep unknown groups": appended(lambda: b"\xa3\x06" * DEEP + b"\xa4\x06" * DEEP),
    "deep unknown messages are no messages": appended(lambda: nested([2], [7])[:-1]),
    "deep text": text(deep_text),
    "deep unknown text": text(lambda: b"a {" * DEEP),
    "text that is not UTF-8": text(lambda: b'meta_graphs { collection_def { key: "\xff\xfe" } }\xff'),
    "a number too long in text": text(lambda: b"saved_model_schema_version: " + b"9" * 1_000_000),
    "a huge saved_model.pb": sparse_file("saved_model.pb", 1 << 42),
    "a huge index": sparse_file("variables/variables.index", 1 << 42),
}

# what cannot hurt: it is loaded or refused, as quickly
ODD = {
    "many twins": edited(many_twins),
    "a long chain": edited(chain),
    "a ring of identities": edited(ring_of_identities),
    "a long constant": edited(long_constant),
    "a const without value": edited(const_without_value),
    "a negative shape": edited(lambda _, m: setattr(variable_of(m).shape.dim.add(), "size", -7)),
    "a huge shape": edited(lambda _, m: setattr(variable_of(m).shape.dim.add(), "size", 2**63 - 1)),
    "a handle without attributes": edited(lambda _, m: node_of(m, "VarHandleOp").attr.clear()),
    "a restore without attributes": edited(lambda _, m: node_of(m, "RestoreV2").attr.clear()),
    "a restore that reads itself": edited(lambda _, m: node_of(m, "RestoreV2").input.__setitem__(1, "save/RestoreV2")),
    "attributes of another kind": edited(lambda _, m: setattr(node_of(m, "RestoreV2").attr["dtypes"], "s", b"x")),
    "a signature of nothing": edited(lambda _, m: m.signature_def["x"].inputs["y"].SetInParent()),
    "an unknown dtype": edited(lambda _, m: setattr(m.signature_def["x"].inputs["y"], "dtype", 4711)),
    "a default that unfolds": edited(
        lambda _, m: (
            m.signature_def["x"]
            .defaults["y"]
            .MergeFrom(
                type(m.signature_def["x"].defaults["y"])(
                    dtype=1, float_val=[1], tensor_shape={"dim": [{"size": 1 << 40}]}
                )
            )
        )
    ),
    "a debug info of nonsense": sparse_file("debug/saved_model_debug_info.pb", 100),
    "a fingerprint of nonsense": sparse_file("fingerprint.pb", 50),
    "names that an object has itself": edited(
        lambda _, m: [
            m.object_graph_def.nodes[0].children.add(node_id=1, local_name=name)
            for name in ("__class__", "__dict__", "_children", "__getattr__", "variables", "", "a\nb\x1b[2J")
        ]
    ),
}
