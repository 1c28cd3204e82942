"""Where a SavedModel keeps device names.

| place | what |
|---|---|
| `graph` | the nodes of the graph |
| `functions` | the nodes of the functions |
| `attributes` | the attrs of nodes and functions that hold device names, `DEVICE_ATTRS` |
| `configs` | the session configuration that call nodes carry: device filters, the leader of collectives |
| `targets` | the constants that tell a `RemoteCall` where to run |
| `handles` | resource handles within constants |
| `variables` | the object graph's variables and the components of distributed ones |
| `resources` | the object graph's tables and other resources |
| `collections` | collections of names |

TensorInfo, VariableDef and the contexts of loops hold names of tensors, debug information holds files, functions and lines of source: no devices. The
values of all other string constants and attrs are the model's data and are left alone.
"""

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any

from smdaemon.errors import DropError
from smdaemon.placement import session_config
from smdaemon.placement.names import LONGEST_NAME, parse_device

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import AttrValue, GraphDef, MetaGraphDef, NodeDef, SavedObjectGraph, TensorProto

Visit = Callable[[str, str], str]
"""`visit(place, device)` is the device to stand there; the same one leaves the message untouched."""

_REMOTE_CALL = "RemoteCall"
"""The op that runs a function on the device which its first input names."""

COLOCATION_ATTR = "_class"
COLOCATION_PREFIX = b"loc:@"
CONFIG_ATTR = "config_proto"
DEVICE_ATTRS = frozenset(
    {
        "allowed_devices",
        "device_name",
        "device_names",
        "device_type",
        "devices",
        "recv_device",
        "send_device",
        # of functions and of their arguments
        "_composite_device",
        "_device",
    }
)
"""The string attrs that hold device names. Those of all others are the model's data, as the separator of a StringJoin."""

_FIRST_PARTS = ("/job:", "/replica:", "/task:", "/device:", "/cpu:", "/gpu:", "/tpu:")


def is_device(text: str) -> bool:
    """Whether a text found where anything may stand is a device name: it begins as one and is one as a whole."""
    if len(text) > LONGEST_NAME or not text.lower().startswith(_FIRST_PARTS):
        return False
    try:
        parse_device(text)
    except DropError:
        return False
    return True


def visit_devices(meta_graph: "MetaGraphDef", visit: Visit) -> None:
    """Calls `visit` for every device name of `meta_graph`, and puts what it returns in its place."""
    _visit_graph(meta_graph.graph_def, visit)
    _visit_objects(meta_graph.object_graph_def, visit)
    for collection in meta_graph.collection_def.values():
        kind = collection.WhichOneof("kind")
        if kind == "node_list":
            _visit_texts(collection.node_list.value, "collections", visit)
        elif kind == "bytes_list":
            _visit_bytes(collection.bytes_list.value, "collections", visit)


def node_lists(graph_def: "GraphDef") -> "Iterator[tuple[str, Iterable[NodeDef]]]":
    """The place and the nodes: those of the graph, then those of each function."""
    yield "graph", graph_def.node
    for function in graph_def.library.function:
        yield "functions", function.node_def


def attr_maps(graph_def: "GraphDef") -> "Iterator[Any]":
    """Every map of attrs: of nodes, of functions and of their arguments."""
    for _, nodes in node_lists(graph_def):
        for node in nodes:
            yield node.attr
    for function in graph_def.library.function:
        yield function.attr
        for argument in function.arg_attr.values():
            yield argument.attr


def _visit_graph(graph_def: "GraphDef", visit: Visit) -> None:
    for place, nodes in node_lists(graph_def):
        targets = set()
        for node in nodes:
            if node.device:
                _assign(node, visit(place, node.device))
            if node.op == _REMOTE_CALL and node.input:
                targets.add(node.input[0].partition(":")[0])
        if targets:
            _visit_targets(nodes, targets, visit)
    for attrs in attr_maps(graph_def):
        _visit_attrs(attrs, visit)


def _visit_targets(nodes: "Iterable[NodeDef]", names: set[str], visit: Visit) -> None:
    """The values of the constants `names`; an empty target is the device of the call itself."""
    for node in nodes:
        if node.op == "Const" and node.name in names and "value" in node.attr:
            _visit_bytes(node.attr["value"].tensor.string_val, "targets", visit)


def _visit_attrs(attrs: Any, visit: Visit) -> None:
    """Every attr of a map, and of the functions that its attrs name; a stack, as these may nest deeply."""
    pending = [attrs]
    while pending:
        attrs = pending.pop()
        for name in attrs:
            attr: AttrValue = attrs[name]
            kind = attr.WhichOneof("value")
            if kind == "func":
                pending.append(attr.func.attr)
            elif kind == "list":
                if attr.list.func:
                    pending.extend(function.attr for function in attr.list.func)
                _visit_list(name, attr, visit)
            elif kind == "tensor":
                _visit_tensor(attr.tensor, visit)
            elif kind == "s":
                _visit_string(name, attr, visit)


def _visit_string(name: str, attr: "AttrValue", visit: Visit) -> None:
    if name == CONFIG_ATTR:
        found = session_config.replaced(attr.s, lambda device: visit("configs", device))
        if found != attr.s:
            attr.s = found
    elif name in DEVICE_ATTRS:
        device = attr.s.decode(errors="replace")
        if is_device(device):
            placed = visit("attributes", device)
            if placed != device:
                attr.s = placed.encode()


def _visit_list(name: str, attr: "AttrValue", visit: Visit) -> None:
    """The devices of a list keep their positions: some ops count on them. `allowed_devices` is a set, and loses what is empty."""
    texts, tensors = attr.list.s, attr.list.tensor
    if texts and name in DEVICE_ATTRS:
        _visit_bytes(texts, "attributes", visit)
        if name == "allowed_devices" and b"" in texts:
            texts[:] = [device for device in texts if device]
    for tensor in tensors:
        _visit_tensor(tensor, visit)


def _visit_tensor(tensor: "TensorProto", visit: Visit) -> None:
    for handle in tensor.resource_handle_val:
        if handle.device:
            _assign(handle, visit("handles", handle.device))


def _visit_objects(objects: "SavedObjectGraph", visit: Visit) -> None:
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind == "resource" and node.resource.device:
            _assign(node.resource, visit("resources", node.resource.device))
        elif kind == "variable":
            pending = [node.variable]
            while pending:
                variable = pending.pop()
                pending.extend(variable.experimental_distributed_variable_components)
                if variable.device:
                    _assign(variable, visit("variables", variable.device))


def _visit_texts(texts: MutableSequence[str], place: str, visit: Visit) -> None:
    for index, text in enumerate(texts):
        if is_device(text) and (placed := visit(place, text)) != text:
            texts[index] = placed


def _visit_bytes(values: MutableSequence[bytes], place: str, visit: Visit) -> None:
    for index, value in enumerate(values):
        if not value.startswith(b"/"):
            continue
        text = value.decode(errors="replace")
        if is_device(text) and (placed := visit(place, text)) != text:
            values[index] = placed.encode()


def _assign(holder: Any, device: str) -> None:
    if holder.device != device:
        holder.device = device
