"""Which tensors of a training output are the values of which variables of an existing SavedModel, by their names.

A name is looked up in these ways; the first that knows it decides:

    1 the key in the bundle                     layer/0/kernel/.ATTRIBUTES/VARIABLE_VALUE
    2 the key without the attribute             layer/0/kernel, table/table-keys
    3 the variable's name in the program        dense/kernel
    4 a path through the objects                layers/0/kernel, layers.0.kernel

and, where none does, once more without what a distributed job or a session adds to a variable's name:

    kernel:0                  the output of a variable's operation
    kernel/replica_1          the copy of a variable on the second replica
    table/part_0, table/part_1    a variable cut into partitions, joined in the order of their numbers

A name map renames tensors before any of this. Pure: names in, names out.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import OBJECT_ATTRIBUTES, OBJECT_GRAPH_KEY, VARIABLE_VALUE

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import TrackableObjectGraph

VALUE_SUFFIX = f"/{OBJECT_ATTRIBUTES}/{VARIABLE_VALUE}"
SAVE_COUNTER = "save_counter"
"""How often a checkpoint object has saved; of the training job, not of the model."""

_OBJECT_CONFIG = f"/{OBJECT_ATTRIBUTES}/OBJECT_CONFIG_JSON"
"""How Keras made the object; it stands in the checkpoints of its older releases."""

_ESCAPED = re.compile(r"\.([.S])")
_PART = re.compile(r"(?P<base>.+)/part_(?P<number>\d{1,9})")
_REPLICA = re.compile(r"(?P<base>.+)/replica_(?P<number>\d{1,9})")


def object_names(key: str) -> tuple[str, ...]:
    """The names of the value of an object, from its key in a bundle: one with the parts of its path unescaped, one as they are.

    That of a variable is its path; other values have their kind at the end, as `table/table-keys`. A key that is no object's is its name.
    """
    path, found, attribute = key.partition(f"{OBJECT_ATTRIBUTES}/")
    path = path.removesuffix("/")
    if not found:
        return (key,)
    escaped = path if attribute == VARIABLE_VALUE and path else f"{path}/{attribute}".removeprefix("/")
    return _ESCAPED.sub(lambda part: "/" if part[1] == "S" else ".", escaped), escaped


class NameMap:
    """New names for tensors: exact names, and patterns with one `*`, as `model/*` to `*` or `*/weights` to `*/kernel`.

    An exact name goes before any pattern, and of two patterns the one with more letters decides. A name that nothing matches
    stays. Raises DropError `request-invalid` for a pattern with more than one `*`, or whose `*` the new name does not use.
    """

    def __init__(self, renames: Mapping[str, str] | None = None) -> None:
        renames = renames or {}
        for old, new in renames.items():
            if old.count("*") > 1 or new.count("*") != old.count("*"):
                raise DropError(
                    "request-invalid", f"the name map's {old!r} to {new!r} needs one '*' on both sides or none"
                )
        self.exact = {old: new for old, new in renames.items() if "*" not in old}
        patterns = [(*old.split("*"), *new.split("*")) for old, new in renames.items() if "*" in old]
        self._patterns = sorted(patterns, key=lambda pattern: (-len(pattern[0]) - len(pattern[1]), pattern))

    def __call__(self, name: str) -> str:
        """The new name."""
        if name in self.exact:
            return self.exact[name]
        for before, after, new_before, new_after in self._patterns:
            if len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after):
                return f"{new_before}{name[len(before) : len(name) - len(after)]}{new_after}"
        return name


class _Place(NamedTuple):
    """Where a tensor belongs: the keys, how its name was understood (lower is closer), its partition and its replica."""

    keys: Sequence[str]
    rank: int
    part: int | None = None
    replica: int = 0


class Names:
    """The names by which the variables of a SavedModel can be called; `keys` are the bundle's, `objects` its object graph."""

    def __init__(self, keys: Iterable[str], objects: "TrackableObjectGraph | None") -> None:
        self.keys = frozenset(keys)
        self._objects = objects

    def place(self, name: str) -> _Place | None:
        """Where the tensor `name` belongs; None where nothing has that name."""
        bare = name.removesuffix(":0")
        place = self._plain(name, 0) or self._plain(bare, _RANKS)
        if place is not None:
            return place
        replica = 0
        if found := _REPLICA.fullmatch(bare):
            bare, replica = found["base"], int(found["number"])
            if place := self._plain(bare, 2 * _RANKS):
                return place._replace(replica=replica)
        if (found := _PART.fullmatch(bare)) and (place := self._plain(found["base"], 2 * _RANKS)):
            return place._replace(part=int(found["number"]), replica=replica)
        return None

    def _plain(self, name: str, rank: int) -> _Place | None:
        if name in self.keys:
            return _Place([name], rank)
        bare = name.removesuffix(VALUE_SUFFIX)
        for step, known in enumerate((self._by_bare_key, self._by_full_name), 1):
            if bare in known:
                return _Place(known[bare], rank + step)
        key = self._at_path(bare.split("/")) or self._at_path(bare.split("."))
        if key is None:
            key = next(iter(self._by_bare_key.get(bare.replace(".", "/"), ())), None)
        return None if key is None else _Place([key], rank + _RANKS - 1)

    @cached_property
    def _by_bare_key(self) -> dict[str, list[str]]:
        names = {key.removesuffix(VALUE_SUFFIX): [key] for key in self.keys}
        for key in sorted(self.keys):
            for name in object_names(key):
                names.setdefault(name, [key])
        return names

    @cached_property
    def _by_full_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        if self._objects is not None:
            for node in self._objects.nodes:
                for attribute in node.attributes:
                    if (
                        attribute.name == VARIABLE_VALUE
                        and attribute.full_name
                        and attribute.checkpoint_key in self.keys
                    ):
                        names[attribute.full_name].append(attribute.checkpoint_key)
        return dict(names)

    def _at_path(self, parts: Sequence[str]) -> str | None:
        """The key of the variable that the names in `parts` lead to from the root."""
        if self._objects is None or not self._objects.nodes:
            return None
        node = 0
        for part in parts:
            children = self._children(node)
            # in a key, as in these paths, a '.' of a name is doubled and a '/' is written '.S'
            number = children.get(part, children.get(part.replace(".S", "/").replace("..", ".")))
            if number is None or not 0 <= number < len(self._objects.nodes):
                return None
            node = number
        for attribute in self._objects.nodes[node].attributes:
            if attribute.name == VARIABLE_VALUE and attribute.checkpoint_key in self.keys:
                return attribute.checkpoint_key
        return None

    def _children(self, node: int) -> dict[str, int]:
        if node not in self._walked and self._objects is not None:
            self._walked[node] = {child.local_name: child.node_id for child in self._objects.nodes[node].children}
        return self._walked[node]

    @cached_property
    def _walked(self) -> dict[int, dict[str, int]]:
        return {}


_RANKS = 4
"""Ways to understand a plain name."""

Pieces = tuple[tuple[str, ...], ...]
"""The tensors of one value: its partitions in order (one where it is whole), each with its replicas, the first first."""


@dataclass
class Matching:
    """What was found: the tensors for each key, the tensors that belong nowhere, and what is wrong, each in a sentence."""

    values: dict[str, Pieces] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def match(
    names: Names, given: Iterable[str], rename: NameMap, are_one: Callable[[Sequence[str]], bool] = lambda _keys: False
) -> Matching:
    """The keys that the tensors called `given` belong to; `are_one` says whether keys of one name are one variable's."""
    found = Matching()
    places: dict[str, list[tuple[_Place, str]]] = defaultdict(list)
    given = list(given)
    for name in given:
        called = rename(name)
        if called == OBJECT_GRAPH_KEY:
            continue
        place = names.place(called)
        if place is None:
            _note_unused(found, name, called, is_asked_for=name in rename.exact)
        elif len(place.keys) > 1 and not are_one(place.keys):
            listed = ", ".join(map(repr, place.keys[:3]))
            found.problems.append(f"{name!r} is the name of {len(place.keys)} variables: {listed}")
        else:
            for key in place.keys:
                places[key].append((place, name))
    for old in sorted(rename.exact.keys() - set(given)):
        found.problems.append(f"the name map names {old!r}, which is not among the tensors")
    for key in sorted(places):
        _choose(found, key, places[key])
    return found


def _note_unused(found: Matching, name: str, called: str, *, is_asked_for: bool) -> None:
    if is_asked_for:
        found.problems.append(f"the name map calls {name!r} {called!r}, which the template does not have")
    elif called.removesuffix(VALUE_SUFFIX) != SAVE_COUNTER and not called.endswith(_OBJECT_CONFIG):
        found.unused.append(name)


def _choose(found: Matching, key: str, places: list[tuple[_Place, str]]) -> None:
    """The tensors of one key: those whose name is closest; copies on other replicas belong to them."""
    firsts = [place for place, _ in places if place.replica == 0] or [place for place, _ in places]
    closest = min(place.rank for place in firsts)
    has_parts = any(place.part is not None for place in firsts if place.rank == closest)
    parts: dict[int, dict[int, str]] = defaultdict(dict)
    for place, name in sorted(places, key=lambda item: (item[0].rank, item[1])):
        if (place.part is not None) != has_parts or (not place.replica and place.rank != closest):
            found.unused.append(name)
            continue
        replicas = parts[place.part or 0]
        if place.replica in replicas:
            found.problems.append(f"{replicas[place.replica]!r} and {name!r} are both the value of {key!r}")
        replicas.setdefault(place.replica, name)
    lacking = set(range(len(parts))) - parts.keys()
    if lacking:
        found.problems.append(f"{key!r} has partition {max(parts)} but no partition {min(lacking)}")
    found.values[key] = tuple(tuple(name for _, name in sorted(parts[number].items())) for number in sorted(parts))
