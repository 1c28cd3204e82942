"""A tree of tensors as names: dicts, lists, tuples, objects of the trainer's framework; parts joined by "/".

What JAX knows as a tree gets the names that `savedmodel.jax` gives to the parameters of a function, so that both fit together.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from smdaemon.errors import DropError

SEPARATOR = "/"

Children = list[tuple[str, Any]]


def named_tensors(tree: Any) -> dict[str, Any]:
    """The tensors of a tree by their names, in its order; None is no tensor.

    Keys of dicts, indices of lists and tuples, fields of dataclasses and named tuples; where JAX is loaded, whatever it knows as a
    tree. DropError `name-clash` where two have one name, `name-invalid` for a tree that is one tensor.
    """
    found: dict[str, Any] = {}
    for path, leaf in _leaves(tree, (), {}):
        name = SEPARATOR.join(path)
        if not path:
            raise DropError(
                "name-invalid", "a single tensor has no name", remedy='put it into a dict: {"name": tensor}'
            )
        if name in found:
            raise DropError("name-clash", f"two tensors of the tree are called {name!r}")
        found[name] = leaf
    return found


def _leaves(node: Any, path: tuple[str, ...], leaf_types: dict[type, bool]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = _children(node, leaf_types)
    if children is None:
        if node is not None:
            yield path, node
        return
    for part, child in children:
        yield from _leaves(child, (*path, part), leaf_types)


def _children(node: Any, leaf_types: dict[type, bool]) -> Children | None:
    """The named children of a node; None for a leaf. `leaf_types` remembers which types JAX has been asked about."""
    kind = type(node)
    if kind is dict:
        return _items(node)
    if kind is list or kind is tuple:
        return [(str(item), child) for item, child in enumerate(node)]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return [(field, getattr(node, field)) for field in node._fields]
    if node is None or leaf_types.get(kind):
        return None
    # before all others: arrays are leaves to it, but some of what looks like an array or a mapping is a node
    if (jax := sys.modules.get("jax")) is not None:
        children = _jax_children(jax, node)
        if children is not None:
            return children
    children = _own_children(node)
    leaf_types[kind] = children is None
    return children


def _own_children(node: Any) -> Children | None:
    """The children of what is a tree without JAX."""
    if isinstance(node, Mapping):
        return _items(node)
    if isinstance(node, list | tuple):
        return [(str(item), child) for item, child in enumerate(node)]
    if dataclasses.is_dataclass(node) and not isinstance(node, type) and not hasattr(node, "dtype"):
        return [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node)]
    return None


def _items(node: Mapping[Any, Any]) -> Children:
    return [(str(key), child) for key, child in node.items()]


def _jax_children(jax: Any, node: Any) -> Children | None:
    """The children of what JAX knows as a node of a tree, a train state for one; None for what it does not."""
    flat = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda each: each is not node)[0]
    if len(flat) == 1 and not flat[0][0]:
        return None
    return [(_part(path[0]), child) for path, child in flat]


def _part(key: Any) -> str:
    return str(next((getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)), key))
