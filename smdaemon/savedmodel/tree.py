"""Names such as `layer/0/kernel` as a tree of objects, lists and dicts: the nesting that `tf.saved_model.load` gives back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from keyword import iskeyword
from typing import TypeAlias

from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import OBJECT_ATTRIBUTES
from smdaemon.savedmodel.graph_names import legal_characters, legal_name, unused


class Kind(Enum):
    """What a branch becomes when it is loaded."""

    OBJECT = "object"
    LIST = "list"
    DICT = "dict"
    # only beside a tree: TensorFlow expects a map of signatures, also where there are none
    SIGNATURES = "signatures"


@dataclass(slots=True)
class Leaf:
    """A tensor's place in the tree.

    `name` is the tensor's own name, `path` its parts, `variable` the name of its variable: legal for TensorFlow and unique.
    `joined`: the last part is several, as the tensor would lie beneath another.
    """

    name: str
    path: tuple[str, ...]
    variable: str = ""
    joined: bool = False


@dataclass(slots=True)
class Branch:
    """A node with children: names are attributes of an object, keys of a dict, or "0", "1", ... of a list."""

    kind: Kind = Kind.OBJECT
    children: "dict[str, Child]" = field(default_factory=dict)


Child: TypeAlias = Branch | Leaf


@dataclass(frozen=True)
class Tree:
    """The root, always an object, and all leaves in the tree's order: names sorted, lists by number."""

    root: Branch
    leaves: tuple[Leaf, ...]


# What the root carries besides the tensors; TensorFlow sets the last three after loading and refuses to save the first.
ROOT_RESERVED = frozenset(
    [
        "signatures",
        "variables",
        "trainable_variables",
        "graph_debug_info",
        "tensorflow_version",
        "tensorflow_git_version",
    ]
)
# What a loaded object calls or holds under a name of its own, found by saving and loading a variable under each name of
# dir(): these fail. Double underscores and the prefix _self_ belong to Python and to TensorFlow's object.
_OBJECT_RESERVED = frozenset(
    [
        "_checkpoint_adapter",
        "_checkpoint_dependencies",
        "_deferred_dependencies",
        "_deserialization_dependencies",
        "_export_to_saved_model_graph",
        "_gather_saveables_for_checkpoint",
        "_handle_deferred_dependencies",
        "_lookup_dependency",
        "_maybe_initialize_trackable",
        "_name_based_restores",
        "_object_identifier",
        "_serialize_to_tensors",
        "_track_trackable",
        "_trackable_children",
        "_unconditional_checkpoint_dependencies",
        "_unconditional_dependency_names",
        "_update_uid",
    ]
)


def nest(names: Iterable[str], separator: str | None = None, *, joined: bool = False) -> Tree:
    """The tree of `names`.

    Without a `separator`, names are split at "/" if any of them has one, else at ".". A branch whose children are "0" to
    "n-1" is a list; one whose children all can be attributes is an object; any other is a dict. The root is an object whatever
    its children are called. Raises DropError: `name-invalid` for an empty part, ".", "..", one that ends with ".ATTRIBUTES", or NUL;
    `name-clash` for a name given twice, for `a` beside `a/b`, and where the root's own attributes have the name.

    With `joined` `a` beside `a/b` is allowed, as in TensorFlow 1's checkpoints, where a slot lies beneath its variable: `a/b`
    stands beside `a` under the one name "a/b".
    """
    ordered = sorted(names)
    if separator is None:
        separator = "/" if any("/" in name for name in ordered) else "."
    root = Branch()
    leaves = frozenset(ordered) if joined else frozenset[str]()
    for name in ordered:
        _plant(root, _leaf(name, separator, leaves))
    for part in root.children:
        if part in ROOT_RESERVED or is_reserved(part):
            raise DropError("name-clash", f"the loaded model has a {part!r} of its own, no tensor can be there")
    return Tree(root, tuple(_arrange(root)))


def _leaf(name: str, separator: str, leaves: frozenset[str]) -> Leaf:
    """The leaf of a name, without a variable yet; from the first of `leaves` that it lies beneath, what follows is one part."""
    path = tuple(name.split(separator))
    _check(name, path)
    for depth in range(1, len(path) if leaves else 0):
        if separator.join(path[:depth]) in leaves:
            return Leaf(name, (*path[: depth - 1], separator.join(path[depth - 1 :])), joined=True)
    return Leaf(name, path)


def _plant(root: Branch, leaf: Leaf) -> None:
    """Puts a leaf, and the branches above it, into the tree."""
    name, path = leaf.name, leaf.path
    branch = root
    for part in path[:-1]:
        child = branch.children.get(part)
        if child is None:
            child = branch.children[part] = Branch()
        if isinstance(child, Leaf):
            raise DropError("name-clash", f"{child.name!r} is a tensor, so {name!r} cannot lie beneath it")
        branch = child
    if path[-1] in branch.children:
        twice = isinstance(branch.children[path[-1]], Leaf)
        raise DropError("name-clash", f"the name {name!r} {'is given twice' if twice else 'is also that of a parent'}")
    branch.children[path[-1]] = leaf


def _check(name: str, path: tuple[str, ...]) -> None:
    """Refuses parts that mean something else in a path, and what no protobuf string can hold."""
    if "" in path or "." in path or ".." in path or name.startswith("/"):
        raise DropError(
            "name-invalid", f"the name {name!r} is empty or absolute, or a part of it is empty, '.' or '..'"
        )
    check_key_parts(name, path)
    if "\0" in name:
        raise DropError("name-invalid", f"the name {name!r} holds NUL")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DropError("name-invalid", f"the name {name!r} cannot be written as UTF-8") from None


def check_key_parts(name: str, path: tuple[str, ...]) -> None:
    """DropError `name-invalid` where a part of the tensor's path ends with ".ATTRIBUTES".

    A key ends the path of its object so, and TensorFlow takes the first such end for it.
    """
    if OBJECT_ATTRIBUTES in name and any(part.endswith(OBJECT_ATTRIBUTES) for part in path):
        raise DropError("name-invalid", f"a part of the name {name!r} ends with {OBJECT_ATTRIBUTES!r}")


def _arrange(root: Branch) -> Iterator[Leaf]:
    """Orders all children, tells the kinds, names the variables; yields the finished leaves in order.

    A stack and no recursion: a name may have more parts than Python has frames.
    """
    todo = [(root, "", iter(_ordered(root, str, _legal_root_part)))]
    while todo:
        branch, prefix, rest = todo[-1]
        for part, legal in rest:
            child = branch.children[part]
            if isinstance(child, Branch):
                child.kind = _kind(child)
                order = int if child.kind is Kind.LIST else str
                todo.append((child, f"{prefix}{legal}/", iter(_ordered(child, order, _legal_part))))
                break
            child.variable = prefix + legal
            yield child
        else:
            todo.pop()


def _kind(branch: Branch) -> Kind:
    """The kind that suits the names of the children."""
    names = branch.children.keys()
    if names == {str(index) for index in range(len(names))}:
        return Kind.LIST
    # a joined name is no attribute that one can write, but its siblings are: they keep theirs
    plain = [name for name, child in branch.children.items() if isinstance(child, Branch) or not child.joined]
    if all(name.isidentifier() and not iskeyword(name) and not is_reserved(name) for name in plain):
        return Kind.OBJECT
    return Kind.DICT


def is_reserved(name: str) -> bool:
    """Whether a loaded object has, or Python has, something of its own under that name."""
    return name.startswith("_") and (name.startswith(("__", "_self_")) or name in _OBJECT_RESERVED)


def _ordered(
    branch: Branch, order: Callable[[str], int | str], legal_of: Callable[[str, Child], str]
) -> Iterable[tuple[str, str]]:
    """Puts the children in order; the names of each, and with it a part for its variable's name: legal, unique among siblings.

    As no two siblings share a part and no tensor is a parent, no two variables can share a name.
    """
    parts = sorted(branch.children, key=order)
    branch.children = {part: branch.children[part] for part in parts}
    wanted = [legal_of(part, branch.children[part]) for part in parts]
    if wanted == parts:
        return zip(parts, parts, strict=True)
    # who can keep his name keeps it, whoever comes before him
    taken = {part for part, legal in zip(parts, wanted, strict=True) if legal == part}
    legal_parts = [part if legal == part else unused(legal, taken) for part, legal in zip(parts, wanted, strict=True)]
    return zip(parts, legal_parts, strict=True)


def _legal_root_part(part: str, child: Child) -> str:
    """What variables beneath the root may begin with in place of a part."""
    return legal_name(_legal_part(part, child))


def _legal_part(part: str, child: Child) -> str:
    """What a variable's name may have in place of a part: a joined one keeps its "/", as nothing else can lie beneath the tensor above it."""
    legal = legal_characters(part)
    return legal if isinstance(child, Leaf) and child.joined else legal.replace("/", "_")
