"""Applies a device policy to all places of a SavedModel that hold devices."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smdaemon.placement.places import (
    COLOCATION_ATTR,
    COLOCATION_PREFIX,
    CONFIG_ATTR,
    attr_maps,
    node_lists,
    visit_devices,
)
from smdaemon.placement.policy import Policy
from smdaemon.placement.session_config import without_counts

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import GraphDef, MetaGraphDef, NodeDef, SavedModel


@dataclass(frozen=True)
class Placed:
    """What a policy changed: devices by place, colocations dropped, session configurations that lost their device counts."""

    changed: dict[str, int]
    colocations: int
    device_counts: int

    @property
    def total(self) -> int:
        """How many devices and colocations changed, over all places."""
        return sum(self.changed.values()) + self.colocations + self.device_counts


def place(model: "SavedModel | MetaGraphDef", policy: Policy) -> Placed:
    """Applies `policy` to a model, or to one of its meta graphs, in place.

    Colocations ("loc:@NODE") are dropped by `strip` alone: they speak of nodes, and stay true when the devices of all nodes
    change alike. What `remap` makes of nodes that belong together must be one device.

    Raises DropError `device-invalid` where `soft` or `remap` meet a name that they cannot read; the model is then unchanged.
    """
    from smdaemon.proto.tensorflow import MetaGraphDef

    if policy.kind == "keep":
        return Placed({}, 0, 0)
    meta_graphs = [model] if isinstance(model, MetaGraphDef) else list(model.meta_graphs)
    # every name is looked at once, and before anything is changed
    names = {device for meta_graph in meta_graphs for _, device in device_places(meta_graph)}
    placed = {device: policy.placed(device) for device in names}
    changed: Counter[str] = Counter()

    def visit(where: str, device: str) -> str:
        changed[where] += placed[device] != device
        return placed[device]

    colocations = device_counts = 0
    for meta_graph in meta_graphs:
        visit_devices(meta_graph, visit)
        if policy.kind == "strip":
            colocations += _drop_colocations(meta_graph.graph_def)
            device_counts += _drop_device_counts(meta_graph.graph_def)
    return Placed({where: count for where, count in sorted(changed.items()) if count}, colocations, device_counts)


def device_places(meta_graph: "MetaGraphDef") -> Iterator[tuple[str, str]]:
    """Every device of a meta graph with its place, see `places`; a device that stands in three nodes comes three times."""
    found: list[tuple[str, str]] = []

    def visit(where: str, device: str) -> str:
        found.append((where, device))
        return device

    visit_devices(meta_graph, visit)
    return iter(found)


def count_devices(meta_graph: "MetaGraphDef") -> dict[str, dict[str, int]]:
    """How often each device stands in each place; places without devices are not listed."""
    counts: dict[str, Counter[str]] = {}
    for where, device in device_places(meta_graph):
        counts.setdefault(where, Counter())[device] += 1
    return {where: dict(sorted(counts[where].items())) for where in counts}


def count_colocations(meta_graph: "MetaGraphDef") -> int:
    """How many nodes, of the graph and of functions, must be placed beside another."""
    return sum(_is_colocated(node) for _, nodes in node_lists(meta_graph.graph_def) for node in nodes)


def _is_colocated(node: "NodeDef") -> bool:
    attrs = node.attr
    return COLOCATION_ATTR in attrs and any(
        value.startswith(COLOCATION_PREFIX) for value in attrs[COLOCATION_ATTR].list.s
    )


def _drop_colocations(graph_def: "GraphDef") -> int:
    """Drops "loc:@NODE" from the attr `_class` of nodes, whose other entries stay; the number of nodes that had one."""
    dropped = 0
    for _, nodes in node_lists(graph_def):
        for node in nodes:
            if not _is_colocated(node):
                continue
            classes = node.attr[COLOCATION_ATTR].list.s
            others = [value for value in classes if not value.startswith(COLOCATION_PREFIX)]
            if others:
                classes[:] = others
            else:
                del node.attr[COLOCATION_ATTR]
            dropped += 1
    return dropped


def _drop_device_counts(graph_def: "GraphDef") -> int:
    dropped = 0
    for attrs in attr_maps(graph_def):
        if CONFIG_ATTR in attrs and attrs[CONFIG_ATTR].s:
            config = attrs[CONFIG_ATTR].s
            without = without_counts(config)
            if without != config:
                attrs[CONFIG_ATTR].s = without
                dropped += 1
    return dropped
