"""Every place of a SavedModel where devices stand, on models made by hand."""

from contextlib import suppress

import pytest
from device_finder import find_devices
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.placement import count_colocations, count_devices, device_places, parse_policy, place, strip_default_attrs
from smdaemon.placement.names import LONGEST_NAME
from smdaemon.placement.places import DEVICE_ATTRS
from smdaemon.proto.tensorflow import MetaGraphDef, NodeDef, OpList, SavedModel, VariableDef

GPU = "/job:worker/replica:0/task:1/device:GPU:1"
SOFT = "/device:GPU:1"

FILTERS = b"\x22\x0b/job:worker"
LEADER = b"\x82\x01\x20\x0a\x1c/job:worker/replica:0/task:0\x10\x01"
CONFIG = b"\x0a\x07\x0a\x03CPU\x10\x02" + b"\x28\x01" + FILTERS + LEADER
"""ConfigProto{device_count {CPU: 2}, inter_op_parallelism_threads 1, device_filters, experimental {leader, 2: true}}."""


def everywhere() -> SavedModel:
    """A model with GPU in each place that can hold a device, in graph, functions and object graph."""
    model = SavedModel()
    meta_graph = model.meta_graphs.add()
    function = meta_graph.graph_def.library.function.add()
    for node in (meta_graph.graph_def.node.add(name="n", op="X"), function.node_def.add(name="n", op="X")):
        node.device = GPU
        node.attr["_class"].list.s[:] = [b"loc:@other", b"unit", b"loc:@third"]
        node.attr["allowed_devices"].list.s[:] = [GPU.encode(), GPU.encode()]
        node.attr["devices"].list.s[:] = [GPU.encode(), b"host"]
        node.attr["send_device"].s = GPU.encode()
        node.attr["shared_name"].s = b"/device:GPU:1"
        node.attr["config_proto"].s = CONFIG
        node.attr["value"].tensor.resource_handle_val.add(device=GPU)
        node.attr["f"].func.attr["g"].list.func.add(name="h").attr["recv_device"].s = GPU.encode()
    function.attr["_device"].s = GPU.encode()
    function.arg_attr[0].attr["_composite_device"].s = GPU.encode()
    objects = meta_graph.object_graph_def.nodes
    objects.add().variable.device = GPU
    objects[0].variable.experimental_distributed_variable_components.add(device=GPU)
    objects.add().resource.device = GPU
    meta_graph.collection_def["places"].node_list.value[:] = [GPU, "node:0"]
    meta_graph.collection_def["bytes"].bytes_list.value[:] = [GPU.encode(), b"/dev/none"]
    variable = VariableDef(variable_name="v:0").SerializeToString()
    meta_graph.collection_def["variables"].bytes_list.value.append(variable)
    return model


COUNTS = {
    "graph": 1,
    "functions": 1,
    "attributes": 12,
    "configs": 4,
    "handles": 2,
    "variables": 2,
    "resources": 1,
    "collections": 2,
}


def test_devices_are_counted_by_place():
    """Each where it stands, as often as it stands there."""
    (meta_graph,) = everywhere().meta_graphs
    counts = count_devices(meta_graph)
    assert {where: sum(found.values()) for where, found in counts.items()} == COUNTS
    assert counts["graph"] == {GPU: 1}
    assert len(list(device_places(meta_graph))) == sum(COUNTS.values())
    assert count_colocations(meta_graph) == 2


def test_strip_leaves_no_device_anywhere():
    """An independent look over every text of the message finds none; what is no device stays."""
    model = everywhere()
    placed = place(model, parse_policy("strip"))
    assert placed.changed == COUNTS
    assert (placed.colocations, placed.device_counts) == (2, 2)
    assert placed.total == sum(COUNTS.values()) + 4
    left = [(path, content) for path, content in find_devices(model) if not path.endswith("[shared_name].s")]
    assert left == []
    (meta_graph,) = model.meta_graphs
    (node,) = meta_graph.graph_def.node
    assert list(node.attr["_class"].list.s) == [b"unit"]
    assert list(node.attr["allowed_devices"].list.s) == []
    assert list(node.attr["devices"].list.s) == [b"", b"host"]
    assert node.attr["shared_name"].s == b"/device:GPU:1"
    assert node.attr["config_proto"].s == b"\x28\x01\x82\x01\x02\x10\x01"
    assert list(meta_graph.collection_def["places"].node_list.value) == ["", "node:0"]
    assert count_devices(meta_graph) == {}


def test_soft_drops_the_host_everywhere():
    """Type and index stay, and so does what binds nodes together; filters that name hosts alone are gone."""
    model = everywhere()
    place(model, parse_policy("soft"))
    (meta_graph,) = model.meta_graphs
    counts = count_devices(meta_graph)
    assert counts == {where: {SOFT: number} for where, number in COUNTS.items() if where != "configs"}
    assert count_colocations(meta_graph) == 2
    (node,) = meta_graph.graph_def.node
    assert node.attr["config_proto"].s == b"\x0a\x07\x0a\x03CPU\x10\x02\x28\x01\x82\x01\x02\x10\x01"


def test_remap_replaces_everywhere():
    """A filter becomes the device of its rule, in a message whose lengths are right."""
    model = everywhere()
    place(model, parse_policy("remap:/gpu:1=/job:localhost/device:CPU:0,/job:*=/job:localhost"))
    (meta_graph,) = model.meta_graphs
    counts = count_devices(meta_graph)
    assert counts.pop("configs") == {"/job:localhost": 4}
    assert {device for found in counts.values() for device in found} == {"/job:localhost/device:CPU:0"}
    tensorflow = pytest.importorskip("tensorflow")
    config = tensorflow.compat.v1.ConfigProto.FromString(meta_graph.graph_def.node[0].attr["config_proto"].s)
    assert list(config.device_filters) == ["/job:localhost"]
    assert config.experimental.collective_group_leader == "/job:localhost"
    assert dict(config.device_count) == {"CPU": 2}
    assert config.inter_op_parallelism_threads == 1


def test_keep_changes_nothing():
    """Not a byte."""
    model = everywhere()
    assert place(model, parse_policy("keep")).total == 0
    assert model == everywhere()


def test_several_meta_graphs_are_placed_and_counted_together():
    """What was done is the sum over all of them; a node that is bound to none hides none that is."""
    model = everywhere()
    model.meta_graphs.add().CopyFrom(model.meta_graphs[0])
    for meta_graph in model.meta_graphs:
        meta_graph.graph_def.node.insert(0, NodeDef(name="free", op="X"))
    placed = place(model, parse_policy("strip"))
    assert placed.changed == {where: 2 * number for where, number in COUNTS.items()}
    assert (placed.colocations, placed.device_counts) == (4, 4)


def test_constants_are_devices_only_where_a_call_goes_to_them():
    """The first input of RemoteCall; what another op takes is data."""
    meta_graph = MetaGraphDef()
    nodes = meta_graph.graph_def.node
    for name in ("target", "data"):
        nodes.add(name=name, op="Const").attr["value"].tensor.string_val[:] = [b"odd", GPU.encode()]
    nodes.add(name="call", op="RemoteCall", input=["target:0", "data"])
    nodes.add(name="bare", op="RemoteCall")
    nodes.add(name="other", op="Identity", input=["data"])
    assert place(meta_graph, parse_policy("soft")).changed == {"targets": 1}
    assert list(nodes[0].attr["value"].tensor.string_val) == [b"odd", SOFT.encode()]
    assert list(nodes[1].attr["value"].tensor.string_val) == [b"odd", GPU.encode()]


def test_text_that_only_begins_as_a_device_is_none():
    """Nor is one that is longer than any name; one that is as long as a name may be is."""
    long = "/job:" + "a" * (LONGEST_NAME - len("/job:"))
    meta_graph = MetaGraphDef()
    values = meta_graph.collection_def["x"].bytes_list.value
    values[:] = [b"/nothing", b"/job:a/odd", f"{long}a".encode(), long.encode()]
    assert count_devices(meta_graph) == {"collections": {long: 1}}


def test_one_meta_graph_can_be_placed():
    """The builder places graphs before there is a model."""
    (meta_graph,) = everywhere().meta_graphs
    assert place(meta_graph, parse_policy("strip")).changed == COUNTS


def test_placing_twice_changes_nothing_more():
    """What was placed stays."""
    for policy in ("strip", "soft", "remap:*=/cpu:0"):
        model = everywhere()
        place(model, parse_policy(policy))
        assert place(model, parse_policy(policy)).total == 0


@pytest.mark.parametrize("policy", ["soft", "remap:/gpu:1=/cpu:0"])
def test_a_name_that_cannot_be_read_changes_nothing(policy):
    """The message names it; the model is as it was. `strip` needs to understand nothing."""
    model = everywhere()
    model.meta_graphs[0].graph_def.node.add(name="m", op="X", device="@other")
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(DropError, match="@other"):
        place(model, parse_policy(policy))
    assert model.SerializeToString(deterministic=True) == before
    place(model, parse_policy("strip"))
    assert count_devices(model.meta_graphs[0]) == {}


@pytest.mark.parametrize(
    "config",
    [b"/job:worker", b"\x22\x7f/job", b"\x22\x02\xff\xff", b"\x22", b"\x0b", b"\xff" * 20, b"\x22\x03odd", b"\x09\x00"],
)
def test_what_is_no_session_configuration_stays(config):
    """Bytes of another meaning, or cut short, are nobody's devices."""
    meta_graph = MetaGraphDef()
    node = meta_graph.graph_def.node.add(name="n", op="X")
    node.attr["config_proto"].s = config
    place(meta_graph, parse_policy("soft"))
    assert node.attr["config_proto"].s == config
    place(meta_graph, parse_policy("strip"))
    assert node.attr["config_proto"].s == config


def test_only_filters_and_leader_of_a_session_configuration_are_devices():
    """Text of other fields stays, on the top and within; so do bytes that say it in a longer way than they must."""
    other, inner = b"\x32\x0b/job:worker", b"\x1a\x0b/job:worker"
    experimental = b"\x82\x01\x8d\x00" + inner
    meta_graph = MetaGraphDef()
    node = meta_graph.graph_def.node.add(name="n", op="X")
    node.attr["config_proto"].s = other + FILTERS + experimental
    assert count_devices(meta_graph) == {"configs": {"/job:worker": 1}}
    place(meta_graph, parse_policy("strip"))
    assert node.attr["config_proto"].s == other + experimental


@pytest.mark.parametrize("field", [b"\x31" + b"/" * 8, b"\x35" + b"/" * 4, b"\x30\x2f"])
def test_devices_behind_numbers_of_a_session_configuration_are_found(field):
    """Numbers of fixed width and varints are passed over by their length, and stay."""
    meta_graph = MetaGraphDef()
    node = meta_graph.graph_def.node.add(name="n", op="X")
    node.attr["config_proto"].s = field + FILTERS + field
    assert place(meta_graph, parse_policy("strip")).changed == {"configs": 1}
    assert node.attr["config_proto"].s == field + field


@pytest.mark.parametrize("policy", ["strip", "soft", "remap:*=/cpu:0"])
def test_text_in_attributes_is_data(policy):
    """What an op joins, searches or looks up stays, also in lists and in functions, where it looks like a device."""
    meta_graph = MetaGraphDef()
    function = meta_graph.graph_def.library.function.add()
    for nodes in (meta_graph.graph_def.node, function.node_def):
        nodes.add(name="join", op="StringJoin").attr["separator"].s = GPU.encode()
        replace = nodes.add(name="replace", op="StaticRegexReplace").attr
        replace["pattern"].s, replace["rewrite"].s = b"/gpu:0", b"/cpu:0"
        nodes.add(name="parse", op="ParseSingleExample").attr["dense_keys"].list.s[:] = [GPU.encode(), b"/job:ps"]
        nodes.add(name="own", op="NobodysOp").attr["f"].func.attr["label"].s = GPU.encode()
    before = meta_graph.SerializeToString(deterministic=True)
    assert place(meta_graph, parse_policy(policy)).total == 0
    assert meta_graph.SerializeToString(deterministic=True) == before
    assert count_devices(meta_graph) == {}


def test_every_device_attribute_of_tensorflows_ops_is_known():
    """By TensorFlow's own list of ops: the string attrs called after devices are those that are placed."""
    session = pytest.importorskip("tensorflow.python.client.pywrap_tf_session")
    ops = OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList())).op
    texts = {attr.name for op in ops for attr in op.attr if attr.type in {"string", "list(string)"}}
    assert {name for name in texts if "device" in name} == {name for name in DEVICE_ATTRS if not name.startswith("_")}


def test_deep_nesting_is_walked_without_recursion():
    """Functions named in attrs of functions named in attrs, deeper than Python's stack."""
    meta_graph = MetaGraphDef()
    attrs = meta_graph.graph_def.node.add(name="n", op="X").attr
    for _ in range(3000):
        attrs = attrs["f"].func.attr
    attrs["send_device"].s = GPU.encode()
    variable = meta_graph.object_graph_def.nodes.add().variable
    for _ in range(3000):
        variable = variable.experimental_distributed_variable_components.add()
    variable.device = GPU
    assert place(meta_graph, parse_policy("soft")).changed == {"attributes": 1, "variables": 1}
    assert attrs["send_device"].s == SOFT.encode()
    assert variable.device == SOFT


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(["strip", "soft", "remap:/gpu:*=/cpu:0"]))
def test_a_damaged_model_is_placed_or_refused(position, flip, policy):
    """Bytes flipped anywhere: the message of an error, or a model that can be written and read."""
    content = bytearray(everywhere().SerializeToString())
    content[position % len(content)] ^= flip
    try:
        model = SavedModel.FromString(bytes(content))
    except DecodeError:
        return
    with suppress(DropError):
        place(model, parse_policy(policy))
    SavedModel.FromString(model.SerializeToString())
    for meta_graph in model.meta_graphs:
        strip_default_attrs(meta_graph)
        counts = count_devices(meta_graph)
        assert policy != "strip" or set(counts) <= {"configs"}
