"""JAX's pytrees as names and structures: the places of parameters, inputs and outputs.

A leaf is named by its path: dict keys, indices of lists and tuples, fields of dataclasses and named tuples, joined by "/".
"""

from collections.abc import Callable, Mapping
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.structure import NamedTuple, TensorSpec

SEPARATOR = "/"


def named_leaves(tree: Any, alone: str) -> dict[str, Any]:
    """The leaves of a pytree by their names, in JAX's order; a tree that is one leaf is called `alone`.

    DropError `name-clash` where two leaves have one name, as `b` of `a` and "a/b".
    """
    import jax

    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = SEPARATOR.join(_part(key) for key in path) or alone
        if name in leaves:
            raise DropError("name-clash", f"two leaves of the tree are called {name!r}")
        leaves[name] = leaf
    return leaves


def structure_of(tree: Any, leaf: Callable[[str, Any], TensorSpec], name: str) -> Any:
    """A pytree as the structure that TensorFlow keeps of it, each leaf what `leaf` makes of its name and itself.

    Dicts, lists, tuples, named tuples and None stay what they are; any other node becomes a dict of its fields. `name` is put
    before the leaves' names; a tree that is one leaf has it alone.
    """
    import jax

    if tree is None:
        return None
    children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    if len(children) == 1 and not children[0][0]:
        return leaf(name, tree)
    made = {
        part: structure_of(child, leaf, f"{name}{SEPARATOR}{part}" if name else part)
        for (key, *_), child in children
        for part in [_part(key)]
    }
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return NamedTuple(type(tree).__name__, {field: made.get(field) for field in tree._fields})
    if isinstance(tree, list | tuple):
        # None among the children is no child to JAX
        items = [made.get(str(item)) for item in range(len(tree))]
        return tuple(items) if isinstance(tree, tuple) else items
    if isinstance(tree, Mapping):
        return {str(key): made.get(str(key)) for key in tree}
    return made


def _part(key: Any) -> str:
    """What a key of JAX's paths is called: a dict's key, an index, a field."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
